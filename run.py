"""The road in one screen: load → lower → map → simulate → report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .arch.einsum_arrays import EinsumConfig
from .arch.families import Machine, find_machine
from .arch.gpu_config import Gpu
from .arch.layer_memo import run_program
from .arch.machine import MachineConfig
from .arch.run_counts import OperatorRun, ProgramRun
from .arch.scalesim import ScaleSimConfig
from .arch.systolic import SystolicConfig
from .arch.vector import VectorConfig
from .mapping.attention_io import step_bound
from .mapping.constraints import Constraints
from .mapping.mapper import appends_of, map_graph, own_rows
from .mapping.target import Objective
from .memory.dram import DramConfig
from .memory.ideal import IdealMemoryConfig
from .memory.sram import SramConfig
from .run_einsum import run_einsum_graph
from .run_gpu import run_gpu_graph
from .run_parallel import of_all_devices, run_devices, wires_of
from .run_scalesim import run_scalesim_graph
from .sim.clock import Clock
from .sim.errors import ConfigError
from .sim.program import Step, TileProgram
from .sim.report import Bounds, IoBound, MemoryReport, OperatorReport, Report, UnitReport
from .sim.units import BITS_PER_BYTE, PS_PER_S
from .workloads.graph import OperatorGraph, program_order, totals
from .workloads.network import Inference
from .workloads.operators import Attention, Operator
from .workloads.parallel import shard
from .workloads.phases import Workload
from .workloads.routing import has_experts, spread_experts

#: Tensors that must cross the memory interface in any mapping; activations may stay on the chip.
COMPULSORY_ROLES = ("weight", "kv", "input", "output")
#: What exact runs of whole models reach on one core of a 2.5 GHz server (`make bench` prints both for the machine at hand).
EXACT_BURSTS_PER_CPU_S = 2.0e6

AttentionMapping = Literal["auto", "unfused", "flash"]


def simulate(
    machine: str | Path | Machine, workload: Workload | Inference, *, sets: tuple[str, ...] = (), exact: bool = False,
    trace: bool = False, attention: AttentionMapping = "auto", objective: Objective = "latency",
    constraints: Constraints | None = None, progress: Callable[[int, int], None] | None = None,
    tensor_parallel: int | None = None,
) -> Report:
    """Run *workload* on *machine* (a shipped name, a YAML file or a config) to its last retired tile.

    *sets* are ``path=value`` changes to the machine; *exact* switches every reduction off; *trace* keeps the timeline;
    *objective* is what the mapper's search makes small, within *constraints*;
    *progress* is called with (operators done, operators in all); *tensor_parallel* divides the model over as many devices
    (None: as many as the machine says).
    Raises ConfigError for input that cannot be right.
    """
    config = find_machine(str(machine), sets) if isinstance(machine, str | Path) else machine
    graph = workload.lower()                                            # workloads/: a DAG of operators with shapes
    return run_graph(config, graph, workload.name, workload.new_tokens, workload_data(workload), exact=exact, trace=trace,
                     attention=attention, objective=objective, constraints=constraints, progress=progress,
                     tensor_parallel=tensor_parallel)


def run_graph(
    machine: Machine, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], *,
    exact: bool = False, trace: bool = False, attention: AttentionMapping = "auto", objective: Objective = "latency",
    constraints: Constraints | None = None, progress: Callable[[int, int], None] | None = None,
    tensor_parallel: int | None = None,
) -> Report:
    """Map *graph* onto *machine*, run it and report; *tokens*: that it processes; 0 for a bare operator.
    *described* is what the report says of the workload.
    """
    road = road_of(machine)
    options = RunOptions(exact, trace, attention, objective, constraints, progress, tensor_parallel)
    for option, reason in road.refuses.items():
        if options.asks_for(option):
            raise ConfigError(f"{option} makes no sense on {machine.name}: {reason}", key=option, mend=f"leave {option} out")
    return road.run(machine, graph, name, tokens, described, options)


def exact_cost(machine: Machine, graph: OperatorGraph) -> tuple[int, float] | None:
    """(DRAM bursts, CPU seconds) that an exact run takes at least, before it starts; None where no DRAM is simulated by command."""
    memory = machine.main_memory()[1] if isinstance(machine, MachineConfig) else None
    if not isinstance(memory, DramConfig):
        return None
    counts = totals(graph)
    moved_bytes = sum(counts.external_read_bytes.values()) + sum(counts.external_written_bytes.values())
    bursts = moved_bytes // memory.device.organisation.bytes_per_burst
    return bursts, bursts / EXACT_BURSTS_PER_CPU_S


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a graph is to be run; a family refuses what it cannot follow."""

    exact: bool = False
    trace: bool = False
    attention: AttentionMapping = "auto"
    objective: Objective = "latency"
    constraints: Constraints | None = None
    progress: Callable[[int, int], None] | None = None
    tensor_parallel: int | None = None

    def asks_for(self, option: str) -> bool:
        """Whether *option*, as the command line calls it, is set."""
        return {"--exact": self.exact, "--trace": self.trace, "--attention unfused": self.attention == "unfused",
                "--objective": self.objective != "latency", "--mapping": self.constraints is not None,
                "--tp": self.tensor_parallel not in (None, 1)}[option]


@dataclass(frozen=True, slots=True)
class Road:
    """How machines of one family run a graph: from (machine, graph, name, tokens, description, options) to the report."""

    run: Callable[[Any, OperatorGraph, str, int, Mapping[str, Any], RunOptions], Report]
    refuses: Mapping[str, str]          # options that make no sense, each with the reason

    @property
    def divides_models(self) -> bool:
        """Whether several machines can share one model."""
        return "--tp" not in self.refuses


def _run_parts(
    machine: MachineConfig, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], options: RunOptions,
) -> Report:
    devices = machine.parallel.tensor if options.tensor_parallel is None else options.tensor_parallel
    graph = spread_experts(graph)                                           # workloads/: experts as products, rows dealt round
    own = shard(graph, devices).graph                                       # workloads/: what one device does of it
    try:
        if devices > 1:
            wires_of(machine, devices)
        program = map_graph(own, machine, attention=options.attention, objective=options.objective,
                            constraints=options.constraints)                # mapping/: which tile, where, in which order
        if devices > 1:
            run = run_devices(machine, program, devices, exact=options.exact, trace=options.trace, progress=options.progress)
            report = build_report(machine, own, program, run, name, tokens, described)
            return of_all_devices(report, machine, program, devices, exact=options.exact)
        # arch/, memory/: until nothing is left to do
        run = run_program(machine, program, exact=options.exact, trace=options.trace, progress=options.progress)
    except ConfigError as error:
        raise machine.placed(error) from None
    return build_report(machine, graph, program, run, name, tokens, described)


def _run_gpu(
    gpu: Gpu, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], options: RunOptions,
) -> Report:
    ranks = 1 if options.tensor_parallel is None else options.tensor_parallel
    return run_gpu_graph(gpu, graph, name, tokens, described, ranks=ranks)


def _run_einsum(
    config: EinsumConfig, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], options: RunOptions,
) -> Report:
    return run_einsum_graph(config, graph, name, tokens, described)


def _run_scalesim(
    config: ScaleSimConfig, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], options: RunOptions,
) -> Report:
    return run_scalesim_graph(config, graph, name, tokens, described)


_ONE_DESIGN = "its attention is its design's, and long regular stretches go by their period"
_OTHERS_TIMING = "it keeps another simulator's timing, which has no such choice"
_WHOLE_KERNELS = "its kernels are timed whole, by closed forms: there is no reduction, timeline or mapping to choose"
_MAPPING = ("--objective", "--mapping")

#: What `arch.families` reads → how it runs. A family is one entry there and one here.
ROADS: dict[type[Machine], Road] = {
    MachineConfig: Road(_run_parts, {}),
    EinsumConfig: Road(_run_einsum, dict.fromkeys(("--exact", "--trace", "--attention unfused", *_MAPPING), _ONE_DESIGN)
                       | {"--tp": "it is one chip"}),
    ScaleSimConfig: Road(
        _run_scalesim, dict.fromkeys(("--exact", "--trace", "--attention unfused", "--tp", *_MAPPING), _OTHERS_TIMING)),
    Gpu: Road(_run_gpu, dict.fromkeys(("--exact", "--trace", "--attention unfused", *_MAPPING), _WHOLE_KERNELS)),
}


def road_of(machine: Machine) -> Road:
    """The road of the machine's family."""
    return next(road for kind, road in ROADS.items() if isinstance(machine, kind))


def workload_data(workload: Workload | Inference) -> dict[str, Any]:
    """The workload as plain data, as the report's config holds it."""
    return workload.model_dump(mode="json")


def build_report(
    machine: MachineConfig, graph: OperatorGraph, program: TileProgram, run: ProgramRun, name: str, tokens: int,
    described: Mapping[str, Any],
) -> Report:
    """The report of a finished run."""
    operators = {op.name: op for op in program_order(graph)}
    _price(machine, run)
    seconds = run.end_ps / PS_PER_S
    return Report(
        version=__version__, machine=machine.name, workload=name, tokens=tokens,
        config={"machine": machine.model_dump(mode="json"), "workload": dict(described)},
        seconds=seconds, cycles=_cycles(machine, run.end_ps), energy_lines=run.ledger.lines(run.end_ps),
        memory=_memory(machine, program, run), units=_units(machine, run), links_bytes=run.link_bytes,
        operators=_operator_reports(machine, operators, program, run), bounds=_bounds(machine, graph),
        reductions=_reductions(run), assumptions=(*_assumptions(machine), *_routing_assumption(graph)), timeline=run.timeline,
    )


def _price(machine: MachineConfig, run: ProgramRun) -> None:
    """Give every counted action its energy and every part its static power."""
    ledger = run.ledger
    mxu_name, mxu = machine.only(SystolicConfig, "systolic")
    vpu_name, vpu = machine.only(VectorConfig, "vector")
    sram_name, sram = machine.only(SramConfig, "sram")
    for dtype, pj in mxu.mac_energy_pj.items():
        ledger.price(mxu_name, f"mac.{dtype}", pj)
    ledger.price(vpu_name, "op", vpu.op_energy_pj)
    ledger.price(vpu_name, "mac", vpu.mac_energy_pj)
    for action, nbytes, pj_per_bit in (("read bit", run.sram_read_bytes, sram.read_energy_pj_per_bit),
                                       ("write bit", run.sram_write_bytes, sram.write_energy_pj_per_bit)):
        ledger.price(sram_name, action, pj_per_bit)
        ledger.add(sram_name, action, nbytes * BITS_PER_BYTE)
    for link in machine.links:
        moved = run.link_bytes[f"{link.source}→{link.target}"]
        if moved and link.pj_per_bit:
            ledger.price("links", f"{link.source}→{link.target} bit", link.pj_per_bit)
            ledger.add("links", f"{link.source}→{link.target} bit", moved * BITS_PER_BYTE)
    memory_name, _ = machine.main_memory()
    for action, (count, pj) in run.memory.energy_actions(run.end_ps).items():
        ledger.price(memory_name, action, pj)
        ledger.add(memory_name, action, count)
    ledger.static_w[sram_name] = sram.static_power_w
    ledger.static_w["chip"] = machine.rest_power_w


def _cycles(machine: MachineConfig, end_ps: int) -> dict[str, int]:
    """Cycles of each part's clock that the run took."""
    mxu_name, mxu = machine.only(SystolicConfig, "systolic")
    vpu_name, vpu = machine.only(VectorConfig, "vector")
    clocks = {mxu_name: Clock.from_hz(mxu_name, mxu.clock_hz), vpu_name: Clock.from_hz(vpu_name, vpu.clock_hz)}
    memory_name, memory = machine.main_memory()
    if isinstance(memory, DramConfig):
        clocks[memory_name] = memory.clock()
    return {name: clock.cycle_at(end_ps) for name, clock in clocks.items()}


def _memory(machine: MachineConfig, program: TileProgram, run: ProgramRun) -> dict[str, MemoryReport]:
    memory_name, memory = machine.main_memory()
    sram_name, sram = machine.only(SramConfig, "sram")
    seconds = run.end_ps / PS_PER_S
    dram = run.memory
    used = sum(t.nbytes for t in program.tensors if t.memory == memory_name and not t.resident)
    return {
        memory_name: MemoryReport(
            memory_name, memory.type, dram.capacity_bytes, used, dram.read_bytes, dram.written_bytes,
            (dram.read_bytes + dram.written_bytes) / seconds, dram.peak_bytes_per_s, dram.details(run.end_ps)),
        sram_name: MemoryReport(
            sram_name, "sram", sram.capacity_bytes, run.sram_used_bytes, run.sram_read_bytes, run.sram_write_bytes,
            (run.sram_read_bytes + run.sram_write_bytes) / seconds, 2 * sram.peak_bytes_per_s,
            {"summary": f"{sram.banks} banks × {sram.bank_width_bytes} B, one read and one write port each"}),
    }


def _units(machine: MachineConfig, run: ProgramRun) -> dict[str, UnitReport]:
    seconds = run.end_ps / PS_PER_S
    mxu_name, mxu = machine.only(SystolicConfig, "systolic")
    vpu_name, vpu = machine.only(VectorConfig, "vector")
    peaks = {mxu_name: mxu.peak_macs_per_s, vpu_name: vpu.peak_macs_per_s}
    return {
        name: UnitReport(name, unit.busy_ps / PS_PER_S, {cause: ps / PS_PER_S for cause, ps in unit.stalled_ps.items()},
                         unit.records, unit.macs, unit.macs / (peaks[name] * seconds) if peaks.get(name) else None)
        for name, unit in run.units.items()
    }


def _operator_reports(
    machine: MachineConfig, operators: Mapping[str, Operator], program: TileProgram, run: ProgramRun,
) -> tuple[OperatorReport, ...]:
    own, bounds = _own_ps(run), _io_bounds(machine, operators, program)
    return tuple(_operator_report(machine, operators[step.operator], step, ran, own_ps, bounds.get(step.operator))
                 for step, ran, own_ps in zip(program.steps, run.operators, own, strict=True))


def _io_bounds(machine: MachineConfig, operators: Mapping[str, Operator], program: TileProgram) -> dict[str, IoBound]:
    """What each attention must move beside the machine's scratchpad, by the operator's name."""
    appends, (_, sram) = appends_of(operators.values()), machine.only(SramConfig, "sram")
    return {op.name: step_bound(op, step, program, own_rows(op, appends), sram.capacity_bytes)
            for step in program.steps if isinstance(op := operators[step.operator], Attention)}


def _own_ps(run: ProgramRun) -> list[int]:
    """Each operator's share of the run: from the results of all before it to its own, so that the shares add up to the run.

    Stores are posted: those that are left after the last results are the share of the operator whose store ends last.
    """
    own, latest_ps = [], 0
    for ran in run.operators:
        own.append(max(0, ran.results_ps - latest_ps))
        latest_ps = max(latest_ps, ran.results_ps)
    if own:
        last = max(range(len(own)), key=lambda i: run.operators[i].end_ps)
        own[last] += run.end_ps - latest_ps
    return own


def _operator_report(
    machine: MachineConfig, op: Operator, step: Step, ran: OperatorRun, own_ps: int, io_bound: IoBound | None,
) -> OperatorReport:
    compute_s, memory_s = _operator_bounds(machine, op)
    bound_s, seconds = max(compute_s, memory_s), own_ps / PS_PER_S
    return OperatorReport(
        name=op.name, kind=op.kind, layer=op.layer, start_s=ran.start_ps / PS_PER_S, end_s=ran.end_ps / PS_PER_S,
        seconds=seconds, macs=op.macs, executed_macs=step.segment.macs, read_bytes=ran.read_bytes,
        write_bytes=ran.write_bytes, bound="memory" if memory_s >= compute_s else "compute", bound_seconds=bound_s,
        bottleneck=_bottleneck(ran), warm=seconds < bound_s,
        busy_s={unit: ps / PS_PER_S for unit, ps in ran.busy_ps.items()},
        waited_s={cause: ps / PS_PER_S for cause, ps in ran.waited_ps.items()}, mapping=dict(step.segment.notes),
        io_bound=io_bound,
    )


def _bottleneck(ran: OperatorRun) -> str:
    """What its time went to: the unit that worked longest, or the longest of what the units waited for."""
    parts = dict(ran.busy_ps)
    for cause, ps in ran.waited_ps.items():
        if cause not in ran.busy_ps:                # waiting for a unit of its own operator is that unit's work
            parts[cause] = parts.get(cause, 0) + ps
    return max(sorted(parts), key=lambda part: parts[part]) if parts else "memory"


def _compulsory_bytes(op: Operator) -> int:
    return sum(nbytes for side in (op.read_bytes, op.written_bytes) for role, nbytes in side.items()
               if role in COMPULSORY_ROLES)


def _peak_macs_per_s(machine: MachineConfig) -> float:
    return machine.only(SystolicConfig, "systolic")[1].peak_macs_per_s + machine.only(VectorConfig, "vector")[1].peak_macs_per_s


def _peak_bytes_per_s(machine: MachineConfig) -> float:
    return machine.main_memory()[1].peak_bytes_per_s


def _operator_bounds(machine: MachineConfig, op: Operator) -> tuple[float, float]:
    """Seconds that the operator takes at least: MACs at the peak rate, compulsory bytes at the pin rate."""
    return op.macs / _peak_macs_per_s(machine), _compulsory_bytes(op) / _peak_bytes_per_s(machine)


def _bounds(machine: MachineConfig, graph: OperatorGraph) -> Bounds:
    """The run's bounds: its MACs at the peak rate; what must come from and go to DRAM, each byte once, at the rates on its way."""
    counts = totals(graph)
    read, written = sum(counts.external_read_bytes.values()), sum(counts.external_written_bytes.values())
    return Bounds(counts.macs / _peak_macs_per_s(machine), (read + written) / _peak_bytes_per_s(machine), read + written,
                  _link_s(machine, read, written))


def _link_s(machine: MachineConfig, read_bytes: int, written_bytes: int) -> float:
    """Seconds that the slowest link between memory and scratchpad takes for those bytes, each way."""
    memory_name, _ = machine.main_memory()
    sram_name, _ = machine.only(SramConfig, "sram")
    rates = {(link.source, link.target): link.bandwidth_bytes_per_s for link in machine.links}
    ways = ((memory_name, sram_name, read_bytes), (sram_name, memory_name, written_bytes))
    return max(nbytes / min(rates[hop] for hop in machine.route(source, target)) for source, target, nbytes in ways)


def _reductions(run: ProgramRun) -> tuple[Mapping[str, Any], ...]:
    """The reductions that were used; none in an exact run."""
    symmetry = run.memory.reduction()
    channels = ({key: value for key, value in symmetry.items() if key != "used"},) if symmetry["used"] else ()
    return (*channels, *run.reductions)


def _routing_assumption(graph: OperatorGraph) -> tuple[str, ...]:
    if not has_experts(graph):
        return ()
    return ("experts: rows are dealt round to as many as an even draw touches on average; the others' weights are not read",)


def _assumptions(machine: MachineConfig) -> tuple[str, ...]:
    name, memory = machine.main_memory()
    ideal: tuple[str, ...] = ()
    if isinstance(memory, IdealMemoryConfig):
        ideal = (f"{name} is an ideal memory, a rate and a latency without rows, banks or refresh: {memory.source}",)
    return (
        *ideal,
        "roofline: MACs at the peak of arrays and lanes together, weights, KV cache, inputs and outputs at the pin rate",
        "an operator starts its compute when the operators it depends on have ended; loads run ahead",
    )
