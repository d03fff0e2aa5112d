"""Fold arithmetic of systolic arrays: which blocks a GEMM is cut into, and when each enters and leaves an array.

Every function is pure and works on plain integers or, elementwise, on int64 arrays of shapes. A GEMM [m, k]·[k, n] lies on an
R×C array with two dimensions in space and one in time (Samajdar et al., ISPASS 2020, §III):

=================  ============  ============  ==========
dataflow           on the rows   on the cols   over time
=================  ============  ============  ==========
weight_stationary  k             n             m
input_stationary   k             m             n
output_stationary  m             n             k
=================  ============  ============  ==========

A fold is a block of at most R×C in space. Folds run row folds first, so that partial sums of one column stripe meet in the
accumulators one after the other, and are dealt to the arrays in that order; all arrays of a round start together.

What a round waits for (proved by stepping every register in ``systolic_reference``), with T the extent over time, r and c the
rows and columns that a fold uses, aligned to the north-west corner:

- ws, is: the stationary block shifts in from the north, one row a cycle, skewed one cycle a column, and stops after r rows.
  The first activation may enter in the cycle after PE(0,0) has its value. With a second register a PE, the next block
  follows the wave of activations down, so rounds start ``max(T, r_next)`` apart; with one register its first row may
  overwrite PE(0,0) only as that does its last MAC: ``T + r_next − 1`` apart. A partial sum falls through all R rows, the unused
  ones included: the fold's last result is latched ``T + R + c − 2`` cycles after its start.
- os: nothing to preload; each PE drives its finished sum onto its column's result bus, as in SCALE-Sim. Results of two folds must
  not meet on the bus: ``max(T, r)`` apart. Unused rows hold nothing: the last result comes ``T + r + c − 2`` after the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Dataflow = Literal["weight_stationary", "output_stationary", "input_stationary"]
Ints = TypeVar("Ints", int, npt.NDArray[np.int64])


def spatial_and_temporal(m: Ints, k: Ints, n: Ints, dataflow: Dataflow) -> tuple[Ints, Ints, Ints]:
    """The extents of the GEMM on the rows, on the columns and over time."""
    if dataflow == "weight_stationary":
        return k, n, m
    return (k, m, n) if dataflow == "input_stationary" else (m, n, k)


@dataclass(frozen=True, slots=True)
class FoldTimes:
    """When the folds of one GEMM run, in cycles from the first weight (or, output stationary, from the first operand).

    Fields are integers, or int64 arrays of one shape.
    """

    first_start: Any            # the first round's first streamed operand enters
    last_start: Any             # the last round's
    end: Any                    # the last result of any fold has left
    rounds: Any
    next_stream: Any            # from the last round's start to the first streamed operand of a GEMM that follows, at least
    next_preload: Any           # from the last round's start to when a following GEMM's first weights may begin to shift in


def physical_times(
    m: Ints, k: Ints, n: Ints, *, rows: int, cols: int, dataflow: Dataflow, arrays: int, double_buffered: bool, batch: Any,
) -> FoldTimes:
    """The times of the folds of *batch* GEMMs as the registers of the array allow; see the module's text."""
    on_rows, on_cols, stream = spatial_and_temporal(m, k, n, dataflow)
    stationary = dataflow != "output_stationary"
    row_folds, col_folds = -(-on_rows // rows), -(-on_cols // cols)
    folds = batch * row_folds * col_folds
    rounds = -(-folds // arrays)
    r_full, c_full = _least(on_rows, rows), _least(on_cols, cols)
    r_last, c_last = on_rows - (row_folds - 1) * rows, on_cols - (col_folds - 1) * cols

    def interval(r: Any) -> Any:
        return _most(stream, r) if double_buffered or not stationary else stream + r - 1

    preload: Any = r_full if stationary else 0 * r_full

    def start(round_: Any) -> Any:
        """When a round starts: the intervals before it, of which those that a ragged fold bounds may be shorter."""
        short = _ragged_rounds(round_, rounds, folds, row_folds, arrays, stationary)
        return preload + (round_ - short) * interval(r_full) + short * interval(r_last)

    # The last fold to end is the last of its kind: full or ragged in rows, full or ragged in columns.
    end = preload
    for r, back_r in ((r_last, 0), (r_full, 1 * (row_folds > 1))):
        for c, back_c in ((c_last, 0), (c_full, row_folds * (col_folds > 1))):
            fold_start = start((folds - 1 - back_r - back_c) // arrays)
            end = _most(end, fold_start + stream + (rows if stationary else r) + c - 2)
    next_stream, next_preload = stream, 0 * stream
    if not stationary:              # sums of the last round's folds leave first; a round of several arrays holds a full fold too
        ragged = (row_folds > 1) * ((folds % arrays == 1) if arrays > 1 else 1)
        next_stream = _most(stream, r_full + ragged * (r_last - r_full))
    elif not double_buffered:
        next_preload = stream - 1
    return FoldTimes(preload, start(rounds - 1), end, rounds, next_stream, next_preload)


def scalesim_times(
    m: Ints, k: Ints, n: Ints, *, rows: int, cols: int, dataflow: Dataflow, arrays: int, batch: Any,
) -> FoldTimes:
    """The times that SCALE-Sim 3.0.0 charges: every fold takes the whole array, and no fold overlaps the next.

    2R + C + T − 2 cycles a fold for ws and is, R + C + T − 2 for os: its cycle traces, one more than the total that it prints.
    """
    on_rows, on_cols, stream = spatial_and_temporal(m, k, n, dataflow)
    rounds = -(-(batch * -(-on_rows // rows) * -(-on_cols // cols)) // arrays)
    preload = 0 if dataflow == "output_stationary" else rows
    fold = preload + rows + cols + stream - 2
    return FoldTimes(preload + 0 * rounds, (rounds - 1) * fold + preload, rounds * fold, rounds, fold - preload, fold - preload)


def _ragged_rounds(round_: Any, rounds: Any, folds: Any, row_folds: Any, arrays: int, stationary: bool) -> Any:
    """How many of the intervals before *round_* are set by a ragged row fold.

    ws, is: interval q is set by round q (1 ≤ q ≤ round_), whose weights shift in during it; os: by round q − 1. A round of
    several arrays holds a full fold as well, unless it is the last one and has a single fold.
    """
    several = row_folds > 1
    if arrays == 1:
        return several * ((round_ + (1 if stationary else 0)) // row_folds)
    alone = (folds % arrays == 1) * (round_ == rounds - 1) * (round_ > 0)
    return several * alone if stationary else 0 * folds


def _most(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def _least(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int) else np.minimum(a, b)
