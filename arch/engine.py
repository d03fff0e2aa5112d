"""The engine: a tile program on a machine, as SimPy processes at tile grain.

Each unit is one process that takes its records in program order. DMA queues keep many transfers in flight; the memory is
co-simulated (``memory/kinds.py``). Time advances only by what a hardware model says: DRAM commands, link rates,
fold arithmetic, lane operations, SRAM port widths.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import simpy

from ..memory.kinds import MemorySystem, build_memory
from ..memory.port_share import PortShare
from ..memory.sram import SramConfig
from ..memory.traffic import Traffic
from ..sim.clock import Clock
from ..sim.energy import EnergyLedger
from ..sim.program import Compute, Load, Segment, Store, TileProgram
from ..sim.timeline import Timeline
from ..sim.units import PS_PER_S
from .collectives import ALGORITHMS
from .costs import RecordCost, SegmentCosts
from .interconnect import Fabric
from .machine import DmaConfig, LinkConfig, MachineConfig
from .systolic import SystolicConfig
from .vector import VectorConfig

Process = Generator[simpy.Event, Any, None]

STREAM, ACTIVATION, STORE = "dma.stream", "dma.activation", "dma.store"


@dataclass(slots=True)
class OperatorRun:
    """What became of one step: when, and what its compute units waited for (cause → picoseconds).

    ``results_ps``: its last record but for stores, which are posted: a controller may hold them back behind reads.
    """

    start_ps: int = -1
    results_ps: int = 0
    end_ps: int = -1
    busy_ps: dict[str, int] = field(default_factory=dict)
    waited_ps: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    write_bytes: int = 0
    read_burst_bytes: int = 0                # the same as the memory moved them, in whole bursts
    write_burst_bytes: int = 0


@dataclass(slots=True)
class UnitRun:
    """A unit over the whole run: time in work, time stalled by cause."""

    busy_ps: int = 0
    stalled_ps: dict[str, int] = field(default_factory=dict)
    records: int = 0
    macs: int = 0


@dataclass(slots=True)
class ProgramRun:
    """Everything the run measured; the report is a function of it."""

    end_ps: int
    operators: list[OperatorRun]
    units: dict[str, UnitRun]
    memory: MemorySystem
    ledger: EnergyLedger
    sram_read_bytes: int
    sram_write_bytes: int
    sram_used_bytes: int                     # the most that tiles and residents owned at once, pool by pool
    link_bytes: dict[str, int]
    completion_order: list[tuple[int, int]]
    timeline: Timeline | None
    reductions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """What stood on the clock and in the counters when a step ended."""

    at_ps: int
    units: Mapping[str, UnitRun]
    memory: Mapping[str, Any]


@dataclass(slots=True)
class StepCounts:
    """What the program fixes for some of its steps, whenever they run."""

    traffic: Traffic
    records: Counter[str]
    macs: Counter[str]
    actions: Counter[tuple[str, str]]
    link_bytes: Counter[str]
    sram_read_bytes: int = 0
    sram_write_bytes: int = 0


class Credits:
    """Bytes of an SRAM share that tiles own. One process acquires, in program order; whoever ends a tile gives back."""

    def __init__(self, env: simpy.Environment, capacity_bytes: int) -> None:
        self._env, self.free_bytes, self.capacity_bytes = env, capacity_bytes, capacity_bytes
        self._wanted = 0
        self._waiting: simpy.Event | None = None
        self.least_free_bytes = capacity_bytes

    @property
    def most_used_bytes(self) -> int:
        """The most bytes that were owned at once."""
        return self.capacity_bytes - self.least_free_bytes

    def acquire(self, nbytes: int) -> simpy.Event | None:
        """Take *nbytes*; None when they were free, else the event at which they are taken."""
        assert nbytes <= self.capacity_bytes, "the mapper let through a tile that cannot fit"
        assert self._waiting is None, "two processes allocate from one pool"
        if nbytes <= self.free_bytes:
            self._take(nbytes)
            return None
        self._wanted, self._waiting = nbytes, self._env.event()
        return self._waiting

    def release(self, nbytes: int) -> None:
        """Give *nbytes* back and wake the process that waits when its bytes now fit."""
        self.free_bytes += nbytes
        if self._waiting is not None and self._wanted <= self.free_bytes:
            self._take(self._wanted)
            waiting, self._waiting = self._waiting, None
            waiting.succeed()


    def _take(self, nbytes: int) -> None:
        self.free_bytes -= nbytes
        self.least_free_bytes = min(self.least_free_bytes, self.free_bytes)


class Link:
    """A link as a rate server: bytes leave no faster than its bandwidth, whatever is behind it."""

    def __init__(self, config: LinkConfig) -> None:
        self.config = config
        self.bytes = 0
        self._free_ps = 0

    def done_ps(self, start_ps: int, arrived_ps: int, nbytes: int) -> int:
        """When *nbytes* that streamed in between *start_ps* and *arrived_ps* have left at the other end."""
        occupied_ps = math.ceil(nbytes * PS_PER_S / self.config.bandwidth_bytes_per_s)
        self._free_ps = max(self._free_ps, start_ps) + occupied_ps
        self.bytes += nbytes
        return max(arrived_ps, self._free_ps) + self.config.latency_ps


class _StepState:
    """Progress of one step: which records ended, who waits for them."""

    __slots__ = ("done", "ended", "gate", "remaining", "users", "waiting")

    def __init__(self, env: simpy.Environment, segment: Segment) -> None:
        self.ended = bytearray(len(segment.records))
        self.remaining = len(segment.records)
        self.waiting: dict[int, simpy.Event] = {}
        self.gate: simpy.Event = env.event()
        self.done: simpy.Event = env.event()
        self.users = [0] * len(segment.buffers)


class Engine:
    """One run of one program on one machine."""

    def __init__(self, machine: MachineConfig, program: TileProgram, *, exact: bool = False, trace: bool = False,
                 progress: Callable[[int, int], None] | None = None, marks: frozenset[int] = frozenset(),
                 fabric: Fabric | None = None) -> None:
        """*marks*: steps at whose end the counters are noted. *fabric*: where devices that run one program meet; its environment
        is the run's."""
        self._marks, self.marked = marks, dict[int, Mark]()
        self.machine, self.program, self.fabric = machine, program, fabric
        self.env = simpy.Environment() if fabric is None else fabric.env
        memory_name, memory_config = machine.main_memory()
        self.memory_name = memory_name
        self.memory = build_memory(self.env, memory_config, exact=exact)
        self.sram_name, self.sram = machine.only(SramConfig, "sram")
        self.mxu_name, self.mxu = machine.only(SystolicConfig, "systolic")
        self.vpu_name, self.vpu = machine.only(VectorConfig, "vector")
        _, self.dma = machine.only(DmaConfig, "dma")
        self._links = {(link.source, link.target): Link(link) for link in machine.links}
        self._inward = [self._links[hop] for hop in machine.route(memory_name, self.sram_name)]
        self._outward = [self._links[hop] for hop in machine.route(self.sram_name, memory_name)]
        self._clocks = {name: Clock.from_hz(name, part.clock_hz) for name, part in
                        ((self.mxu_name, self.mxu), (self.vpu_name, self.vpu), ("dma", self.dma))}
        self._costs = SegmentCosts(machine, program)
        self._pools = {pool.name: Credits(self.env, pool.capacity_bytes) for pool in program.pools}
        self._resident = Credits(self.env, program.resident_bytes.get(self.sram_name, 0))
        produced = {tensor for step in program.steps for tensor in step.produces}
        self._tensor_users = Counter(t for step in program.steps for t in set(step.operands) if t in produced)
        self._steps = [_StepState(self.env, step.segment) for step in program.steps]
        self.operators = [OperatorRun() for _ in program.steps]
        self.units = {name: UnitRun() for name in (STREAM, ACTIVATION, STORE, self.mxu_name, self.vpu_name)}
        self.ledger = EnergyLedger()
        self.timeline = Timeline() if trace else None
        self._order: list[tuple[int, int]] = []
        self._sram_bytes = [0, 0]
        self._late_by_link: set[tuple[int, int]] = set()
        peak_bytes_per_ps = self._port_bytes_per_ps()
        self._ports = PortShare(peak_bytes_per_ps), PortShare(peak_bytes_per_ps)      # read, write
        self._progress = progress
        self._finished = 0

    def _port_bytes_per_ps(self) -> float:
        """What the ports leave to the compute units, each way: DMA has the first right, at the rate of the memory at most."""
        dma_bytes_per_s = min(self.memory.peak_bytes_per_s,
                              *(link.config.bandwidth_bytes_per_s for link in (*self._inward, *self._outward)))
        if self.fabric is not None:
            dma_bytes_per_s += self.fabric.wires.out_bytes_per_s(self.fabric.devices)
        return self.sram.compute_bytes_per_s(self.sram_name, dma_bytes_per_s) / PS_PER_S

    def _ports_done_ps(self, start_ps: int, cost: RecordCost, at_least_ps: int) -> int:
        """When a record that works from *start_ps* for *at_least_ps* has moved its SRAM bytes."""
        moved = zip(self._ports, (cost.sram_read_bytes, cost.sram_write_bytes), strict=True)
        return max(port.reserve(self._now_ps, start_ps, nbytes, at_least_ps) for port, nbytes in moved)

    def run(self) -> ProgramRun:
        """Run to the last retired record."""
        self.start()
        self.env.run()
        return self.finish()

    def start(self) -> None:
        """Start every unit; time passes when the environment runs."""
        env = self.env
        env.process(self._issue())
        for queue in (STREAM, ACTIVATION, STORE):
            env.process(self._transfers(queue))
        env.process(self._matrix())
        env.process(self._vector())

    def finish(self) -> ProgramRun:
        """What the run measured, once nothing is left to do."""
        unfinished = [step.operator for step, state in zip(self.program.steps, self._steps, strict=True) if state.remaining]
        assert not unfinished, f"the program never finished: {unfinished[:3]} of {len(unfinished)} steps wait for ever"
        end_ps = max((run.end_ps for run in self.operators), default=0)
        used_bytes = sum(credits.most_used_bytes for credits in (*self._pools.values(), self._resident))
        link_bytes = {f"{source}→{target}": link.bytes for (source, target), link in self._links.items()}
        return ProgramRun(end_ps, self.operators, self.units, self.memory, self.ledger, self._sram_bytes[0], self._sram_bytes[1],
                          used_bytes, link_bytes, self._order, self.timeline)

    @property
    def _now_ps(self) -> int:
        """The time: an integer, because every delay is one."""
        return int(self.env.now)

    def counts_of(self, steps: Iterable[int]) -> StepCounts:
        """What the program fixes for *steps*, which have run."""
        counts = StepCounts(Traffic(), Counter(), Counter(), Counter(), Counter())
        for index in steps:
            run, costs = self.operators[index], self._costs.of(self.program.steps[index].segment)
            for unit, positions in costs.by_unit.items():
                counts.records[unit] += len(positions)
                for cost in (costs.records[position] for position in positions):
                    counts.macs[unit] += cost.macs
                    counts.sram_read_bytes += cost.sram_read_bytes
                    counts.sram_write_bytes += cost.sram_write_bytes
                    for action, count in cost.actions:
                        counts.actions[unit, action] += count
            counts.sram_read_bytes += run.write_bytes
            counts.sram_write_bytes += run.read_bytes
            for links, nbytes in ((self._inward, run.read_bytes), (self._outward, run.write_bytes)):
                for link in links:
                    counts.link_bytes[f"{link.config.source}→{link.config.target}"] += nbytes
            counts.traffic += Traffic(run.read_bytes, run.write_bytes, run.read_burst_bytes, run.write_burst_bytes)
        return counts

    # -- program order ---------------------------------------------------------------------------------------------

    def _queue(self, unit: str) -> Iterator[tuple[int, int, Any]]:
        """Records of *unit* over all steps, in program order."""
        for index, step in enumerate(self.program.steps):
            records = step.segment.records
            for position in self._costs.of(step.segment).by_unit.get(unit, ()):
                yield index, position, records[position]

    def _issue(self) -> Process:
        """Give each step, in program order, the room for the resident tensors that it produces."""
        for index, step in enumerate(self.program.steps):
            wanted = sum(self.program.tensors[t].nbytes for t in step.produces)
            if wanted:
                room = self._resident.acquire(wanted)
                if room is not None:
                    yield room
            self._steps[index].gate.succeed()

    # -- DMA ---------------------------------------------------------------------------------------------------------

    def _transfers(self, queue: str) -> Process:
        """Start the transfers of *queue* in order, each as soon as its data and its room are there; many are in flight."""
        in_flight: list[simpy.Process] = []
        for index, position, record in self._queue(queue):
            for operand in self._cost(index, position).operands:
                yield from self._operand_ready(queue, index, operand)
            yield from self._records_ended(queue, index, position)
            yield from self._own_buffers(queue, index, position)
            in_flight = [move for move in in_flight if move.is_alive]
            if len(in_flight) >= self.dma.max_in_flight:
                yield self.env.any_of(in_flight)
            if self.dma.issue_cycles:
                yield self._cycles("dma", self.dma.issue_cycles)
            in_flight.append(self.env.process(self._move(queue, index, position, record)))

    def _move(self, queue: str, index: int, position: int, record: Load | Store) -> Process:
        """One transfer between DRAM and the scratchpad, through the controller and the links on its way."""
        env, start_ps = self.env, self._now_ps
        self._started(index)
        tensor = self.program.tensors[self.program.steps[index].operands[record.operand]]
        ranges = record.ranges.copy()
        ranges[:, 0] += tensor.address
        is_store = isinstance(record, Store)
        nbytes = record.nbytes
        done = self.memory.transfer(ranges, write=is_store)
        moved_bytes = self.memory.last_burst_bytes
        yield done
        arrived_ps = self._now_ps
        end_ps = arrived_ps
        for link in self._outward if is_store else self._inward:
            end_ps = link.done_ps(start_ps, end_ps, nbytes)
        if end_ps > arrived_ps:
            self._late_by_link.add((index, position))
            yield env.timeout(end_ps - arrived_ps)
        run, unit = self.operators[index], self.units[queue]
        if is_store:
            run.write_bytes += nbytes
            run.write_burst_bytes += moved_bytes
            self._sram_bytes[0] += nbytes
        else:
            run.read_bytes += nbytes
            run.read_burst_bytes += moved_bytes
            self._sram_bytes[1] += nbytes
        unit.records += 1
        unit.busy_ps += self._now_ps - start_ps
        self._ended(queue, index, position, start_ps)

    # -- compute -----------------------------------------------------------------------------------------------------

    def _vector(self) -> Process:
        name = self.vpu_name
        for index, position, record in self._queue(name):
            yield from self._ready(name, index, position)
            cost = self._cost(index, position)
            start_ps = self._now_ps
            self._started(index)
            if record.function in ALGORITHMS:
                yield from self._exchange(index, position, record)
                continue
            at_least_ps = self._clocks[name].wait_ps(start_ps, cost.cycles)
            yield self.env.timeout(self._ports_done_ps(start_ps, cost, at_least_ps) - start_ps)
            self._account(name, index, cost, start_ps, self._now_ps)
            self._ended(name, index, position, start_ps)

    def _exchange(self, index: int, position: int, record: Compute) -> Process:
        """A collective: the lanes add while links carry; what the links take longer is a wait for them."""
        assert self.fabric is not None, "only a device of several exchanges"
        name, cost, start_ps = self.vpu_name, self._cost(index, position), self._now_ps
        ended = self.fabric.meet((index, position), record.function, cost.exchanged_bytes)
        work_ps = self._clocks[name].wait_ps(start_ps, cost.cycles) if cost.cycles else 0
        if work_ps:
            yield self.env.timeout(work_ps)
        self._account(name, index, cost, start_ps, self._now_ps)
        yield from self._stall(name, index, "link", ended)
        self._ended(name, index, position, start_ps)

    def _matrix(self) -> Process:
        """The arrays, pipelined: the next record's weights shift in while this one streams; its results drain behind it."""
        name, env, clock = self.mxu_name, self.env, self._clocks[self.mxu_name]
        shadow_free = stream_free = 0                                   # cycles of the arrays' clock
        for index, position, _ in self._queue(name):
            yield from self._ready(name, index, position)
            cost = self._cost(index, position)
            gemm = cost.gemm
            assert gemm is not None
            self._started(index)
            first = max(stream_free, max(clock.cycle_at(self._now_ps), shadow_free) + gemm.preload)
            # A record that the ports hold up streams for longer.
            streamed = first + gemm.last_start + gemm.stream
            first_ps = clock.ps_of(first)
            moved = clock.cycle_at(self._ports_done_ps(first_ps, cost, clock.ps_of(streamed) - first_ps))
            begin_cycle = max(first - gemm.preload, stream_free)
            stream_free = max(streamed, moved)
            shadow_free = stream_free - gemm.stream
            start_ps, end_ps = clock.ps_of(begin_cycle), clock.ps_of(stream_free + gemm.drain)
            self._account(name, index, cost, start_ps, clock.ps_of(stream_free))
            env.process(self._end_at(end_ps, name, index, position, start_ps))
            if not self.mxu.double_buffered_weights:
                shadow_free = stream_free = stream_free + gemm.drain
            wake_ps = clock.ps_of(shadow_free)
            if wake_ps > self._now_ps:
                yield env.timeout(wake_ps - self._now_ps)

    def _end_at(self, end_ps: int, name: str, index: int, position: int, start_ps: int) -> Process:
        yield self.env.timeout(max(0, end_ps - self._now_ps))
        self._ended(name, index, position, start_ps)

    def _account(self, name: str, index: int, cost: RecordCost, start_ps: int, end_ps: int) -> None:
        unit, run = self.units[name], self.operators[index]
        unit.busy_ps += end_ps - start_ps
        unit.records += 1
        unit.macs += cost.macs
        run.busy_ps[name] = run.busy_ps.get(name, 0) + end_ps - start_ps
        for action, count in cost.actions:
            self.ledger.add(name, action, count)
        self._sram_bytes[0] += cost.sram_read_bytes
        self._sram_bytes[1] += cost.sram_write_bytes

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _ready(self, unit: str, index: int, position: int) -> Process:
        """All that a compute record waits for: room for residents, operands, earlier records, its own buffers."""
        state = self._steps[index]
        if not state.gate.triggered:
            yield from self._stall(unit, index, "buffer space", state.gate)
        for operand in self._cost(index, position).operands:
            yield from self._operand_ready(unit, index, operand)
        yield from self._records_ended(unit, index, position)
        yield from self._own_buffers(unit, index, position)

    def _operand_ready(self, unit: str, index: int, operand: int) -> Process:
        step = self.program.steps[index]
        for producer in step.after[operand]:
            done = self._steps[producer].done
            if not done.triggered:
                yield from self._stall(unit, index, "earlier operator", done)

    def _records_ended(self, unit: str, index: int, position: int) -> Process:
        state = self._steps[index]
        for earlier, cause in self._cost(index, position).waits:
            if not state.ended[earlier]:
                event = state.waiting.get(earlier)
                if event is None:
                    event = state.waiting[earlier] = self.env.event()
                yield from self._stall(unit, index, cause, event, earlier)

    def _own_buffers(self, unit: str, index: int, position: int) -> Process:
        for pool, nbytes in self._cost(index, position).acquires:
            room = self._pools[pool].acquire(nbytes)
            if room is not None:
                yield from self._stall(unit, index, "buffer space", room)

    def _stall(self, unit: str, index: int, cause: str, event: simpy.Event, earlier: int = -1) -> Process:
        """Wait for *event*, the end of record *earlier* if it is one's, and book the time under *cause*."""
        start_ps = self._now_ps
        yield event
        if (index, earlier) in self._late_by_link:
            cause = "link"
        waited = self._now_ps - start_ps
        if waited:
            stalled = self.units[unit].stalled_ps
            stalled[cause] = stalled.get(cause, 0) + waited
            if unit in (self.mxu_name, self.vpu_name):
                by_cause = self.operators[index].waited_ps
                by_cause[cause] = by_cause.get(cause, 0) + waited

    def _cycles(self, clock: str, cycles: int) -> simpy.Timeout:
        return self.env.timeout(self._clocks[clock].wait_ps(self._now_ps, cycles))

    # -- book-keeping ------------------------------------------------------------------------------------------------

    def _cost(self, index: int, position: int) -> RecordCost:
        return self._costs.of(self.program.steps[index].segment).records[position]

    def _started(self, index: int) -> None:
        if self.operators[index].start_ps < 0:
            self.operators[index].start_ps = self._now_ps

    def _ended(self, unit: str, index: int, position: int, start_ps: int) -> None:
        state, step = self._steps[index], self.program.steps[index]
        if self.timeline is not None and self._now_ps > start_ps:
            self.timeline.add(unit, step.operator, step.kind, start_ps, self._now_ps)
        state.ended[position] = 1
        if unit != STORE:
            self.operators[index].results_ps = self._now_ps
        self._order.append((index, position))
        waiting = state.waiting.pop(position, None)
        if waiting is not None:
            waiting.succeed()
        self._release_buffers(index, position)
        state.remaining -= 1
        if state.remaining == 0:
            self._step_ended(index)

    def _release_buffers(self, index: int, position: int) -> None:
        costs = self._costs.of(self.program.steps[index].segment)
        state = self._steps[index]
        for buffer in costs.records[position].buffers:
            state.users[buffer] += 1
            if state.users[buffer] == costs.buffer_users[buffer]:
                pool, nbytes = costs.buffer_room[buffer]
                self._pools[pool].release(nbytes)

    def _step_ended(self, index: int) -> None:
        step, state = self.program.steps[index], self._steps[index]
        self.operators[index].end_ps = self._now_ps
        for tensor in set(step.operands) & self._tensor_users.keys():
            self._tensor_users[tensor] -= 1
            if not self._tensor_users[tensor]:
                self._resident.release(self.program.tensors[tensor].nbytes)
        state.done.succeed()
        if index in self._marks:
            self.marked[index] = Mark(self._now_ps, copy.deepcopy(self.units), self.memory.counted(self._now_ps))
        self._finished += 1
        if self._progress is not None:
            self._progress(self._finished, len(self.program.steps))
