"""The road of FLAT's and FuseMax's arrays: attention by their design, matrix products on the 2-D array, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import __version__
from .arch.einsum_arrays import WORD_BYTES, EinsumConfig, EinsumMachine
from .mapping.attention_explain import cascade_notes
from .mapping.cascade import run as run_cascade
from .mapping.cascade_energy import Actions, cascade_actions, flat_actions, linear_actions, prices_pj, unfused_actions
from .mapping.einsum_gemm import best_strip
from .mapping.flat import AttentionShape, best_mapping
from .mapping.flat_run import run_flat, run_unfused
from .mapping.in_order import NotSteadyError
from .sim.energy import EnergyLine
from .sim.errors import ConfigError
from .sim.report import Bounds, MemoryReport, OperatorReport, Report, UnitReport
from .sim.units import si_text
from .workloads.attention_io import attention_bound
from .workloads.cascades import ONE_PASS, THREE_PASS, passes_of
from .workloads.graph import OperatorGraph, program_order, tensors_of
from .workloads.operators import Attention, Gemm, Operator
from .workloads.passes import Cascade

ARRAY, LANES, MEMORY, BUFFER = "array-2d", "array-1d", "memory", "buffer"
#: Action → the part that does it.
_PARTS = {"dram_read_bytes": MEMORY, "dram_written_bytes": MEMORY, "buffer_read_words": BUFFER, "buffer_written_words": BUFFER,
          "register_read_words": "registers", "register_written_words": "registers"}


@dataclass(frozen=True, slots=True)
class Ran:
    """One operator: cycles, busy cycles of each array (the 2-D one in cycles fully used), DRAM bytes, actions, the mapping."""

    op: Operator
    cycles: float
    busy_2d: float
    busy_1d: float
    dram_bytes: float
    written_bytes: float                    # of those
    actions: Actions
    mapping: Mapping[str, Any]


def run_einsum_graph(
    config: EinsumConfig, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any],
) -> Report:
    """Run *graph*, one operator after the other, and report; a ConfigError for an operator that these arrays do not run."""
    machine, ops = config.machine, list(program_order(graph))
    ran = []
    for op in ops:
        runner = _RUNNERS.get(op.kind)
        if runner is None:
            raise ConfigError(f"{op.name}: the arrays of {config.name} run attention and matrix products, no {op.kind}",
                              key="--arch", value=config.name, allowed=tuple(_RUNNERS),
                              mend="run those by tilesim op, or the model on another chip")
        if any(tensor.dtype.bits != 8 * WORD_BYTES for tensor in (*op.inputs, *op.outputs)):
            raise ConfigError(f"{op.name}: the arrays of {config.name} work on 16-bit words", key="dtype", mend="take fp16 or bf16")
        try:
            ran.append(runner(op, config, machine))
        except NotSteadyError as error:
            raise ConfigError(f"{op.name}: the tiles of {config.name} reach no steady state at this rate of memory: {error}",
                              key="bandwidth", value=config.bandwidth_bytes_per_s,
                              mend="take a bandwidth further from where memory and arrays take the same time") from None
    cycles = sum(one.cycles for one in ran)
    seconds, clock = cycles / config.clock_hz, config.clock_hz
    macs, moved = sum(op.macs for op in ops), round(sum(one.dram_bytes for one in ran))
    stored = round(sum(one.written_bytes for one in ran))
    compulsory = sum(t.nbytes for t in tensors_of(graph).values() if t.role != "activation")
    bounds = Bounds(macs / (config.size**2 * clock), compulsory / config.bandwidth_bytes_per_s, compulsory)
    memory = MemoryReport(MEMORY, "ideal", compulsory, compulsory, moved - stored, stored, moved / seconds,
                          config.bandwidth_bytes_per_s,
                          {"summary": f"ideal memory: {si_text(config.bandwidth_bytes_per_s, 'B/s')} shared, as large as asked"})
    busy = {ARRAY: sum(one.busy_2d for one in ran), LANES: sum(one.busy_1d for one in ran)}
    return Report(
        version=__version__, machine=config.name, workload=name, tokens=tokens,
        config={"machine": config.model_dump(mode="json"), "workload": dict(described)}, seconds=seconds,
        cycles={"arrays": round(cycles)}, energy_lines=_energy_lines(machine, ran), memory={MEMORY: memory},
        units={unit: UnitReport(unit, spent / clock, {}, 0, macs if unit == ARRAY else 0,
                                macs / (config.size**2 * cycles) if unit == ARRAY else None) for unit, spent in busy.items()},
        links_bytes={}, operators=_operators(config, ran), bounds=bounds,
        reductions=({"name": "steady state", "premise": "tiles whose last periods agreed within 0.5 % go on as they did"},)
        if any(isinstance(op, Attention) for op in ops) else (),
        assumptions=(f"{MEMORY} is an ideal memory, a rate without latency, rows, banks or refresh, as in the paper's own runs",
                     "operators run one after the other; a design's tiles overlap as its binding says",
                     "a matrix product holds a strip of one operand in half of the buffer and streams the other past it (the "
                     "paper's own linear layers move each operand once, whatever the buffer holds)"))


def _attention(op: Operator, config: EinsumConfig, machine: EinsumMachine) -> Ran:
    assert isinstance(op, Attention)
    n = config.size
    wants = {
        "one head of keys for each head of queries": op.kv_heads == op.heads, "no mask (--full)": not op.causal,
        f"queries and keys in multiples of {n}": op.q_tokens % n == op.kv_tokens % n == 0,
        f"heads of at most {n}": op.head_dim <= n}
    for wanted, holds in wants.items():
        if not holds:
            raise ConfigError(f"{op.name}: {config.name} runs attention with {wanted}", key="attention",
                              mend=f"see the shapes of its paper: 12 heads of 64, {4 * n} tokens, no mask")
    shape = AttentionShape(op.batch * op.heads, op.q_tokens, op.kv_tokens, op.head_dim, op.head_dim)
    computed = _computed(shape, machine, ONE_PASS if config.design in ("binding", "architecture") else THREE_PASS)
    if config.design == "unfused":
        found = run_unfused(shape, machine)
        return Ran(op, found.cycles, found.busy_2d, found.busy_1d, found.dram_bytes, found.written_bytes,
                   unfused_actions(shape, machine, found.dram_bytes), {"design": config.design, **computed})
    if config.design == "flat":
        choice = best_mapping(shape, machine)
        found = run_flat(shape, machine, choice)
        kept = [what for what, is_kept in (("q", choice.q_on_chip), ("k", choice.k_on_chip), ("scores", choice.scores_on_chip),
                                           ("v", choice.v_on_chip), ("av", choice.av_on_chip)) if is_kept]
        return Ran(op, found.cycles, found.busy_2d, found.busy_1d, found.dram_bytes, found.written_bytes,
                   flat_actions(shape, machine, choice, found.dram_bytes),
                   {"design": config.design, **computed, "on_chip": kept, "stationarity": choice.stationarity, "rows": choice.rows})
    try:
        cascade = run_cascade(shape, machine, config.design)
    except ValueError as error:
        raise ConfigError(f"{op.name}: {error}", key="buffer", value=config.buffer_bytes, mend="take a larger buffer") from None
    return Ran(op, cascade.cycles, cascade.busy_2d, cascade.busy_1d, cascade.dram_bytes, op.outputs[0].nbytes,
               cascade_actions(shape, cascade.tiling, machine, config.design, cascade.dram_bytes),
               {"design": config.design, **computed, "resident_query_tiles": cascade.tiling.resident,
                "key_tiles": cascade.tiling.key_tiles, "blocks": cascade.tiling.blocks})


def _computed(shape: AttentionShape, machine: EinsumMachine, cascade: Cascade) -> dict[str, Any]:
    """The cascade, its passes, and the least that it moves with this buffer, head by head."""
    passes = passes_of(cascade)
    extents = {"p": shape.queries, "m": shape.keys, "m1": shape.keys // machine.n, "m0": machine.n, "e": shape.e, "f": shape.f}
    least = passes.least_moved_elements(extents, machine.buffer_bytes // WORD_BYTES, "p")
    return cascade_notes(passes) | ({} if least is None else {"cascade_least_bytes": shape.heads * least * WORD_BYTES})


def _gemm(op: Operator, config: EinsumConfig, machine: EinsumMachine) -> Ran:
    """Output stationary: n×n outputs at a time, k cycles each, double-buffered against memory."""
    assert isinstance(op, Gemm)
    n, strip = config.size, best_strip(op, machine)
    moved = strip.read_bytes + strip.written_bytes
    array = op.batch * -(-op.m // n) * -(-op.n // n) * op.k
    cycles = max(float(array), moved * config.clock_hz / config.bandwidth_bytes_per_s)
    actions = dict(linear_actions(op.macs, moved, machine)) | {"buffer_written_words": strip.read_bytes / WORD_BYTES}
    return Ran(op, cycles, op.macs / n**2, 0.0, moved, strip.written_bytes, actions,
               {"dataflow": "output_stationary", "held": strip.held, "strip": strip.extent})


#: Kind of operator → what runs it.
_RUNNERS: dict[str, Callable[[Operator, EinsumConfig, EinsumMachine], Ran]] = {"attention": _attention, "gemm": _gemm}


def _energy_lines(machine: EinsumMachine, ran: list[Ran]) -> tuple[EnergyLine, ...]:
    prices, counts = prices_pj(machine.energies), dict[str, int]()
    prices |= dict.fromkeys(("dram_read_bytes", "dram_written_bytes"), prices["dram_bytes"])      # one figure for both ways
    for one in ran:
        dram = {"dram_read_bytes": one.dram_bytes - one.written_bytes, "dram_written_bytes": one.written_bytes}
        for action, count in ({key: n for key, n in one.actions.items() if key != "dram_bytes"} | dram).items():
            counts[action] = counts.get(action, 0) + round(count)
    return tuple(EnergyLine(_PARTS.get(action, "arrays"), action, count, prices[action], count * prices[action] * 1e-12)
                 for action, count in sorted(counts.items()))


def _operators(config: EinsumConfig, ran: list[Ran]) -> tuple[OperatorReport, ...]:
    reports, before = [], 0.0
    for one in ran:
        after = before + one.cycles / config.clock_hz
        compute_s = one.op.macs / (config.size**2 * config.clock_hz)
        memory_s = sum(t.nbytes for t in (*one.op.inputs, *one.op.outputs)) / config.bandwidth_bytes_per_s
        busy = {ARRAY: one.busy_2d / config.clock_hz, LANES: one.busy_1d / config.clock_hz,
                MEMORY: one.dram_bytes / config.bandwidth_bytes_per_s}
        bound: Literal["memory", "compute"] = "memory" if memory_s >= compute_s else "compute"
        stored = round(one.written_bytes)
        reports.append(OperatorReport(
            name=one.op.name, kind=one.op.kind, layer=one.op.layer, start_s=before, end_s=after, seconds=after - before,
            macs=one.op.macs, executed_macs=one.op.macs, read_bytes=round(one.dram_bytes) - stored, write_bytes=stored, bound=bound,
            bound_seconds=max(compute_s, memory_s), bottleneck=max(busy, key=lambda part: busy[part]), warm=False,
            busy_s={ARRAY: busy[ARRAY], LANES: busy[LANES]}, waited_s={}, mapping=one.mapping,
            io_bound=attention_bound(one.op, config.buffer_bytes) if isinstance(one.op, Attention) else None))
        before = after
    return tuple(reports)
