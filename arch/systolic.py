"""Systolic arrays: grids of MACs with one operand pinned, and the cycles that a GEMM takes on them.

``timing: physical`` is what the registers allow: the next fold's weights shift in while this one streams, unused rows and columns
cost nothing where the wires let them. ``timing: scalesim`` is SCALE-Sim's law for comparison with it: full folds, no overlap.
The arithmetic, and why it is right, is in :mod:`.systolic_folds`; :mod:`.systolic_reference` proves it register by register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..sim.config import Config
from ..sim.units import Hertz, Picojoules
from .systolic_folds import Dataflow, FoldTimes, Ints, physical_times, scalesim_times, spatial_and_temporal


class SystolicConfig(Config):
    """*arrays* equal grids of rows×cols MACs that work on the folds of one GEMM tile in lockstep."""

    type: Literal["systolic"]
    rows: Annotated[int, Field(ge=1, le=1024)]
    cols: Annotated[int, Field(ge=1, le=1024)]
    arrays: Annotated[int, Field(ge=1, le=1024)] = 1
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    dataflow: Dataflow = "weight_stationary"
    timing: Literal["physical", "scalesim"] = "physical"
    double_buffered_weights: bool = True      # a second register a PE for the stationary operand (ws: weights, is: inputs)
    dtypes: tuple[Literal["bf16", "fp16", "fp8", "int8", "int4"], ...]
    mac_energy_pj: dict[str, Picojoules]      # by dtype, operands and fp32/int32 accumulation included

    @property
    def macs_per_cycle(self) -> int:
        return self.rows * self.cols * self.arrays

    @property
    def peak_macs_per_s(self) -> float:
        return self.macs_per_cycle * self.clock_hz


@dataclass(frozen=True, slots=True)
class GemmCycles:
    """How one GEMM tile occupies the arrays, in cycles of their clock.

    *preload*: shifting in the first fold's stationary operand. *last_start*: from the first streamed operand of the first fold
    to that of the last fold. *stream*: streamed operands of the last fold. *drain*: from its last operand to the tile's
    last result. *next_stream* and *next_preload*: from the first streamed operand of the last fold to the earliest one of a
    GEMM that follows, and to when that one's stationary operand may begin to shift in.
    """

    preload: int
    last_start: int
    stream: int
    drain: int
    next_stream: int
    next_preload: int

    @property
    def total(self) -> int:
        """Cycles of the tile alone on an idle array: nothing before or after it to overlap with."""
        return self.preload + self.last_start + self.stream + self.drain


def gemm_cycles(m: int, k: int, n: int, config: SystolicConfig, batch: int = 1) -> GemmCycles:
    """The cycles of *batch* products [m, k]·[k, n] on the arrays of *config*, folds dealt round to the arrays."""
    times = _times(m, k, n, config, batch)
    stream = spatial_and_temporal(m, k, n, config.dataflow)[2]
    return GemmCycles(times.first_start, times.last_start - times.first_start, stream, times.end - times.last_start - stream,
                      times.next_stream, times.next_preload)


def gemm_total_cycles(
    m: npt.NDArray[np.int64], k: npt.NDArray[np.int64], n: npt.NDArray[np.int64], config: SystolicConfig, batch: int = 1,
) -> npt.NDArray[np.int64]:
    """``gemm_cycles(…).total`` of many shapes at once: for searches over tile sizes."""
    m, k, n = np.broadcast_arrays(*(np.asarray(extent, dtype=np.int64) for extent in (m, k, n)))
    return np.asarray(_times(m, k, n, config, batch).end, dtype=np.int64)


def gemm_times(m: Ints, k: Ints, n: Ints, config: SystolicConfig, batch: Any = 1) -> FoldTimes:
    """When the folds of *batch* products [m, k]·[k, n] run; elementwise."""
    return _times(m, k, n, config, batch)


def _times(m: Ints, k: Ints, n: Ints, config: SystolicConfig, batch: Any) -> FoldTimes:
    if config.timing == "scalesim":
        return scalesim_times(m, k, n, rows=config.rows, cols=config.cols, dataflow=config.dataflow, arrays=config.arrays,
                              batch=batch)
    return physical_times(m, k, n, rows=config.rows, cols=config.cols, dataflow=config.dataflow, arrays=config.arrays,
                          double_buffered=config.double_buffered_weights, batch=batch)


@dataclass(frozen=True, slots=True)
class GemmAccesses(Generic[Ints]):
    """Words that the arrays read from and write to their SRAMs for one GEMM (A is the input, B the weights, C the output).

    ws, is: the stationary operand is read once, the streamed one once for each fold across it, and every row fold
    writes its partial sums (``output_writes``; all but the first are read back to be added to: ``output_reads``).
    """

    input_reads: Ints
    weight_reads: Ints
    output_writes: Ints
    output_reads: Ints


def gemm_accesses(m: Ints, k: Ints, n: Ints, *, rows: int, cols: int, dataflow: Dataflow) -> GemmAccesses[Ints]:
    """The SRAM accesses of one GEMM on one R×C array, without multicast between arrays; elementwise."""
    on_rows, on_cols, _ = spatial_and_temporal(m, k, n, dataflow)
    row_folds, col_folds = -(-on_rows // rows), -(-on_cols // cols)
    if dataflow == "output_stationary":
        return GemmAccesses(m * k * col_folds, k * n * row_folds, m * n, 0 * m)
    partial_sums = m * n * row_folds
    if dataflow == "weight_stationary":
        return GemmAccesses(m * k * col_folds, k * n, partial_sums, partial_sums - m * n)
    return GemmAccesses(m * k, k * n * col_folds, partial_sums, partial_sums - m * n)
