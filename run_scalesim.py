"""The road of SCALE-Sim's machines: matrix products and convolutions in its own timing, layer by layer, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import __version__
from .arch.scalesim import ScaleSimConfig
from .arch.scalesim_stalls import Addresses, stalled_run
from .arch.systolic import GemmAccesses, gemm_accesses, gemm_cycles
from .sim.errors import ConfigError
from .sim.report import Bounds, MemoryReport, OperatorReport, Report, UnitReport
from .workloads.graph import OperatorGraph, program_order, tensors_of
from .workloads.images import Convolution
from .workloads.operators import Gemm, Operator

ARRAY, MEMORY = "array", "memory"


@dataclass(frozen=True, slots=True)
class Ran:
    """One operator: *times* equal runs of one product, each of *printed* + 1 cycles of which *stalls* stand still."""

    op: Operator
    times: int
    printed: int
    stalls: int
    fetched_bytes: int
    accesses: GemmAccesses[int]

    @property
    def cycles(self) -> int:
        return self.times * (self.printed + 1)

    @property
    def written_bytes(self) -> int:
        return self.times * self.accesses.output_writes


def run_scalesim_graph(
    config: ScaleSimConfig, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any],
) -> Report:
    """Run *graph*, one layer after the other, and report; a ConfigError for an operator that SCALE-Sim does not have."""
    ops = list(program_order(graph))
    ran = [_ran(op, config) for op in ops]
    cycles, clock = sum(one.cycles for one in ran), config.clock_hz
    seconds, macs = cycles / clock, sum(op.macs for op in ops)
    compulsory = sum(t.nbytes for t in tensors_of(graph).values() if t.role != "activation")
    stalls = sum(one.times * one.stalls for one in ran)
    peak = config.rows * config.cols * clock
    pads = {"ifmap SRAM": config.ifmap_sram_bytes, "filter SRAM": config.filter_sram_bytes, "ofmap SRAM": config.ofmap_sram_bytes}
    reads = {"ifmap SRAM": sum(one.times * one.accesses.input_reads for one in ran),
             "filter SRAM": sum(one.times * one.accesses.weight_reads for one in ran), "ofmap SRAM": 0}
    written = sum(one.written_bytes for one in ran)
    is_user = config.interface_bandwidth == "user"
    rate = (config.ifmap_words_per_cycle + config.filter_words_per_cycle + config.ofmap_words_per_cycle) * clock if is_user else 0.0
    read = sum(one.fetched_bytes for one in ran)
    memory = {MEMORY: MemoryReport(
        MEMORY, "ideal", compulsory, compulsory, read, written, (read + written) / seconds, rate,
        {"summary": f"{config.ifmap_words_per_cycle}, {config.filter_words_per_cycle} and {config.ofmap_words_per_cycle} words a "
                    "cycle for ifmap, filter and ofmap; whole prefetches count" if is_user
         else "as fast as asked; every operand once a layer, every partial sum written"})}
    memory |= {pad: MemoryReport(pad, "sram", int(size), int(size), reads[pad], written if pad == "ofmap SRAM" else 0,
                                 (reads[pad] + (written if pad == "ofmap SRAM" else 0)) / seconds, 0.0,
                                 {"summary": "double-buffered halves"}) for pad, size in pads.items()}
    return Report(
        version=__version__, machine=config.name, workload=name, tokens=tokens,
        config={"machine": config.model_dump(mode="json"), "workload": dict(described)}, seconds=seconds,
        cycles={ARRAY: cycles, "as SCALE-Sim prints": sum(one.times * one.printed for one in ran)}, energy_lines=(), memory=memory,
        units={ARRAY: UnitReport(ARRAY, (cycles - stalls) / clock, {MEMORY: stalls / clock}, len(ran), macs,
                                 macs / (peak * seconds))},
        links_bytes={}, operators=_operators(config, ran), bounds=Bounds(macs / peak, 0.0, compulsory), reductions=(),
        assumptions=("SCALE-Sim's own timing: full folds one after the other, layers one after the other; it prints the index of a "
                     "layer's last cycle, one less than the cycles",
                     "half of each buffer is filled before the first cycle and costs nothing, so memory is no bound of the run",
                     "SCALE-Sim states no energies"))


def _ran(op: Operator, config: ScaleSimConfig) -> Ran:
    if not isinstance(op, Gemm | Convolution):
        raise ConfigError(f"{op.name}: SCALE-Sim has matrix products and convolutions, no {op.kind}", key="--arch",
                          value=config.name, allowed=("gemm", "conv"), mend="run the model on a chip of parts (tilesim list chips)")
    wide = next((tensor for tensor in (*op.inputs, *op.outputs) if tensor.dtype.bits != 8), None)
    if wide is not None:
        raise ConfigError(f"{op.name}: a word of SCALE-Sim is a byte; {wide.name} is {wide.dtype.name}", key="dtype",
                          value=wide.dtype.name, allowed=("int8", "fp8"),
                          mend="add --dtype int8, and leave out --weights and --activations of other sizes")
    ifmap: Addresses | None = None
    if isinstance(op, Gemm):
        m, k, n, times = op.m, op.k, op.n, op.batch
    else:
        m, k, n, times = op.out_height * op.out_width, op.k, op.group_filters, op.batch * op.groups
    accesses = gemm_accesses(m, k, n, rows=config.rows, cols=config.cols, dataflow=config.dataflow)
    if config.interface_bandwidth == "calc":
        printed = gemm_cycles(m, k, n, config.array).total - 1
        distinct = op.inputs[0].elements // times if isinstance(op, Convolution) else m * k
        return Ran(op, times, printed, 0, times * (distinct + k * n), accesses)
    if isinstance(op, Convolution):
        ifmap = _window_addresses(op)
    found = stalled_run(m, k, n, rows=config.rows, cols=config.cols, dataflow=config.dataflow, pads=config.pads, ifmap=ifmap)
    return Ran(op, times, found.total, found.stalls, times * (found.ifmap_fetched_words + found.filter_fetched_words), accesses)


def _window_addresses(op: Convolution) -> Addresses:
    """The address of each element of one group's im2col matrix [positions, window]; −1 outside the image."""
    channels = op.channels // op.groups
    y, x = np.divmod(np.arange(op.out_height * op.out_width), op.out_width)
    row, rest = np.divmod(np.arange(op.k), op.filter_width * channels)
    column, channel = np.divmod(rest, channels)
    rows = (y * op.stride - op.pad_top)[:, None] + row
    columns = (x * op.stride - op.pad_left)[:, None] + column
    inside = (rows >= 0) & (rows < op.height) & (columns >= 0) & (columns < op.width)
    return np.where(inside, (rows * op.width + columns) * channels + channel, -1).astype(np.int32)


def _operators(config: ScaleSimConfig, ran: list[Ran]) -> tuple[OperatorReport, ...]:
    reports, before = [], 0
    for one in ran:
        after = before + one.cycles
        stalled_s = one.times * one.stalls / config.clock_hz
        busy_s = one.cycles / config.clock_hz - stalled_s
        reports.append(OperatorReport(
            name=one.op.name, kind=one.op.kind, layer=one.op.layer, start_s=before / config.clock_hz, end_s=after / config.clock_hz,
            seconds=one.cycles / config.clock_hz, macs=one.op.macs, executed_macs=one.op.macs, read_bytes=one.fetched_bytes,
            write_bytes=one.written_bytes, bound="compute",
            bound_seconds=one.op.macs / (config.rows * config.cols * config.clock_hz),
            bottleneck=MEMORY if stalled_s > busy_s else ARRAY, warm=False, busy_s={ARRAY: busy_s}, waited_s={MEMORY: stalled_s},
            mapping={"dataflow": config.dataflow, "total_cycles": one.printed, "stall_cycles": one.stalls, "times": one.times}))
        before = after
    return tuple(reports)
