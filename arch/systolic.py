"""Systolic arrays: grids of MACs with one operand pinned, and the cycles that a GEMM takes on them.

Weight stationary. A fold pins a block of at most R×C weights [k, n]; the m rows of activations stream in from the west, one
row a cycle, skewed by one cycle a row, and partial sums leave at the south edge. The fold's last result leaves
``m + R + c − 2`` cycles after its first activation entered (R rows to fall through, c columns to cross, Samajdar et al.,
ISPASS 2020, §III). Weights are shifted in from the north, one row a cycle. With double-buffered weights the next fold's
weights shift in while this one streams, and its activations follow without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..sim.config import Config
from ..sim.units import Hertz, Picojoules


class SystolicConfig(Config):
    """*arrays* equal grids of rows×cols MACs that work on the folds of one GEMM tile in lockstep."""

    type: Literal["systolic"]
    rows: Annotated[int, Field(ge=1, le=1024)]
    cols: Annotated[int, Field(ge=1, le=1024)]
    arrays: Annotated[int, Field(ge=1, le=1024)] = 1
    clock_hz: Annotated[Hertz, Field(gt=0)]
    dataflow: Literal["weight_stationary"] = "weight_stationary"
    double_buffered_weights: bool = True
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

    *preload*: shifting in the first fold's weights. *last_start*: from the first activation of the first fold to that of the
    last fold. *stream*: activations of the last fold. *drain*: from its last activation to its last result.
    """

    preload: int
    last_start: int
    stream: int
    drain: int

    @property
    def total(self) -> int:
        """Cycles of the tile alone on an idle array: nothing before or after it to overlap with."""
        return self.preload + self.last_start + self.stream + self.drain


def gemm_cycles(m: int, k: int, n: int, config: SystolicConfig, batch: int = 1) -> GemmCycles:
    """The cycles of *batch* products [m, k]·[k, n] on the arrays of *config*, folds dealt round to the arrays."""
    folds = batch * -(-k // config.rows) * -(-n // config.cols)
    rounds = -(-folds // config.arrays)
    preload = min(k, config.rows)
    fold_interval = max(m, preload) if config.double_buffered_weights else (
        preload + m + config.rows + min(n, config.cols) - 2)
    return GemmCycles(
        preload=preload,
        last_start=(rounds - 1) * fold_interval,
        stream=m,
        drain=config.rows + min(n, config.cols) - 2,
    )
