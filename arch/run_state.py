"""How far a run has got: what has ended and whose room it gives back, what has been counted, and the parts that are at work.

The engine's processes (``engine.py``) move it on; nothing here lets time pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import simpy

from ..memory.kinds import build_memory
from ..memory.port_share import PortShare
from ..memory.sram import SramConfig
from ..memory.traffic import Traffic
from ..sim.clock import Clock
from ..sim.energy import EnergyLedger
from ..sim.program import Compute, Load, Ranges, Store, TileProgram
from ..sim.timeline import Timeline
from ..sim.units import PS_PER_S
from .costs import RecordCost, SegmentCost, SegmentCosts
from .interconnect import Fabric
from .machine import DmaConfig, MachineConfig
from .run_counts import Mark, OperatorRun, ProgramRun, StepCounts, UnitRun
from .run_parts import Credits, Link, StepState
from .systolic import SystolicConfig
from .vector import VectorConfig

STREAM, ACTIVATION, STORE = "dma.stream", "dma.activation", "dma.store"


class RunState:
    """The state of one run of one program on one machine."""

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
        self.states = [StepState(self.env, step.segment) for step in program.steps]
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
        self.in_flight = dict.fromkeys((STREAM, ACTIVATION, STORE), 0)      # transfers
        self.at_work = Counter[str]()                           # records that the compute units have begun and not ended
        self._passed_ps = 0                                     # time that went by without being simulated …
        self._in_loops_ps = dict.fromkeys(self.units, 0)        # … of it, what the unit spent in its loop

    def _port_bytes_per_ps(self) -> float:
        """What the ports leave to the compute units, each way: DMA has the first right, at the rate of the memory at most."""
        dma_bytes_per_s = min(self.memory.peak_bytes_per_s,
                              *(link.config.bandwidth_bytes_per_s for link in (*self._inward, *self._outward)))
        if self.fabric is not None:
            dma_bytes_per_s += self.fabric.wires.out_bytes_per_s(self.fabric.devices)
        return self.sram.compute_bytes_per_s(self.sram_name, dma_bytes_per_s) / PS_PER_S

    def finish(self) -> ProgramRun:
        """What the run measured, once nothing is left to do."""
        unfinished = [step.operator for step, state in zip(self.program.steps, self.states, strict=True) if state.remaining]
        assert not unfinished, f"the program never finished: {unfinished[:3]} of {len(unfinished)} steps wait for ever"
        assert all(pool.free_bytes == pool.capacity_bytes for pool in self._pools.values()), "a tile's room was never given back"
        end_ps = max((run.end_ps for run in self.operators), default=0)
        used_bytes = sum(credits.most_used_bytes for credits in (*self._pools.values(), self._resident))
        link_bytes = {f"{source}→{target}": link.bytes for (source, target), link in self._links.items()}
        return ProgramRun(end_ps, self.operators, self.units, self.memory, self.ledger, self._sram_bytes[0], self._sram_bytes[1],
                          used_bytes, link_bytes, self._order, self.timeline)

    @property
    def _now_ps(self) -> int:
        """The time: an integer, because every delay is one."""
        return int(self.env.now)

    @property
    def told_ps(self) -> int:
        """The time of the run: what was simulated and what was passed over."""
        return int(self.env.now) + self._passed_ps

    def own_ps(self, unit: str) -> int:
        """The time as *unit* lived through it: what it spent in loops after they were left is counted with them."""
        return self.told_ps - self._in_loops_ps[unit]

    # -- what the program fixes ----------------------------------------------------------------------------------------

    def costs_of(self, index: int) -> SegmentCost:
        """The costs of the records of step *index*."""
        return self._costs.of(self.program.steps[index].segment)

    def counts_of(self, steps: Iterable[int]) -> StepCounts:
        """What the program fixes for *steps*, which have run."""
        counts = StepCounts(Traffic(), Counter(), Counter(), Counter(), Counter())
        for index in steps:
            run = self.operators[index]
            self._count_compute(counts, index, range(len(self.program.steps[index].segment.records)))
            self._count_traffic(counts, Traffic(run.read_bytes, run.write_bytes, run.read_burst_bytes, run.write_burst_bytes))
        return counts

    def counts_of_records(self, index: int, positions: range) -> StepCounts:
        """What the program fixes for some records of step *index*."""
        counts = StepCounts(Traffic(), Counter(), Counter(), Counter(), Counter())
        self._count_compute(counts, index, positions)
        records, totals = self.program.steps[index].segment.records, [0, 0, 0, 0]
        for record in records[positions.start:positions.stop]:
            if not isinstance(record, Compute):
                way = isinstance(record, Store)
                totals[way] += record.nbytes
                totals[2 + way] += self.memory.moved_bytes(self.placed(index, record))
        self._count_traffic(counts, Traffic(*totals))
        return counts

    def placed(self, index: int, record: Load | Store) -> Ranges:
        """The byte ranges of a transfer of step *index* as the memory knows them."""
        ranges = record.ranges.copy()
        ranges[:, 0] += self.program.tensors[self.program.steps[index].operands[record.operand]].address
        return ranges

    def _count_compute(self, counts: StepCounts, index: int, positions: range) -> None:
        costs, records = self.costs_of(index).records, self.program.steps[index].segment.records
        for position in positions:
            cost, unit = costs[position], records[position].unit
            counts.records[unit] += 1
            if cost.macs:
                counts.macs[unit] += cost.macs
            counts.sram_read_bytes += cost.sram_read_bytes
            counts.sram_write_bytes += cost.sram_write_bytes
            for action, count in cost.actions:
                counts.actions[unit, action] += count

    def _count_traffic(self, counts: StepCounts, traffic: Traffic) -> None:
        counts.sram_read_bytes += traffic.written_bytes
        counts.sram_write_bytes += traffic.read_bytes
        for links, nbytes in ((self._inward, traffic.read_bytes), (self._outward, traffic.written_bytes)):
            for link in links:
                counts.link_bytes[f"{link.config.source}→{link.config.target}"] += nbytes
        counts.traffic += traffic

    # -- what is left out of a loop --------------------------------------------------------------------------------------

    def count_more(self, index: int, counts: StepCounts, times: int) -> None:
        """Add what the program fixes for records of step *index*, *times* times; the memory counts for itself."""
        run, traffic = self.operators[index], counts.traffic
        for name, unit in self.units.items():
            unit.records += times * counts.records.get(name, 0)
            unit.macs += times * counts.macs.get(name, 0)
        for (component, action), count in counts.actions.items():
            self.ledger.add(component, action, times * count)
        for links, nbytes in ((self._inward, traffic.read_bytes), (self._outward, traffic.written_bytes)):
            for link in links:
                link.bytes += times * nbytes
        self._sram_bytes[0] += times * counts.sram_read_bytes
        self._sram_bytes[1] += times * counts.sram_write_bytes
        run.read_bytes += times * traffic.read_bytes
        run.write_bytes += times * traffic.written_bytes
        run.read_burst_bytes += times * traffic.read_burst_bytes
        run.write_burst_bytes += times * traffic.written_burst_bytes

    def pass_over(self, passed_ps: int, units: Iterable[str]) -> None:
        """Time in which *units* go on as they did and the others wait."""
        self._passed_ps += passed_ps
        for unit in units:
            self._in_loops_ps[unit] += passed_ps

    def let_stand_in(self, index: int, first: int, moved: Sequence[int]) -> None:
        """Records of step *index* from *first* on are not simulated; who waits for one of them waits for that in *moved*."""
        state = self.states[index]
        state.let_stand_in(first, moved)
        for record, event in list(state.waiting.items()):
            other = state.stand_in(record)
            if other == record:
                continue
            del state.waiting[record]
            if state.ended[other]:
                event.succeed()
            elif other in state.waiting:
                also: list[Any] = state.waiting[other].callbacks
                also.append(lambda _, event=event: event.succeed())
            else:
                state.waiting[other] = event

    def users_to_come(self, index: int) -> list[int]:
        """For each buffer of step *index* how many records have yet to use it; 0 or less once it was given back."""
        state = self.states[index]
        if state.users_to_come is None:
            state.users_to_come = list(self.costs_of(index).buffer_users)
        return state.users_to_come

    # -- book-keeping ------------------------------------------------------------------------------------------------

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

    def _cost(self, index: int, position: int) -> RecordCost:
        return self._costs.of(self.program.steps[index].segment).records[position]

    def _started(self, index: int) -> None:
        if self.operators[index].start_ps < 0:
            self.operators[index].start_ps = self.told_ps

    def _ended(self, unit: str, index: int, position: int, start_ps: int) -> None:
        state, step = self.states[index], self.program.steps[index]
        if self.timeline is not None and self._now_ps > start_ps:
            self.timeline.add(unit, step.operator, step.kind, start_ps, self._now_ps)
        state.ended[position] = 1
        if unit != STORE:
            self.operators[index].results_ps = self.told_ps
        self._order.append((index, position))
        waiting = state.waiting.pop(position, None)
        if waiting is not None:
            waiting.succeed()
        self._release_buffers(index, position)
        state.remaining -= 1
        if state.remaining == 0:
            self._step_ended(index)

    def _release_buffers(self, index: int, position: int) -> None:
        state, users = self.states[index], self.users_to_come(index)
        for buffer in self.costs_of(index).records[position].buffers:
            if state.buffers:
                buffer = state.buffer(buffer)
            users[buffer] -= 1
            if not users[buffer]:
                self.release(index, buffer)

    def release(self, index: int, buffer: int) -> None:
        """Give back the room of *buffer* of step *index*."""
        pool, nbytes = self.costs_of(index).buffer_room[buffer]
        self._pools[pool].release(nbytes)

    def _step_ended(self, index: int) -> None:
        step, state = self.program.steps[index], self.states[index]
        self.operators[index].end_ps = self.told_ps
        for tensor in set(step.operands) & self._tensor_users.keys():
            self._tensor_users[tensor] -= 1
            if not self._tensor_users[tensor]:
                self._resident.release(self.program.tensors[tensor].nbytes)
        state.done.succeed()
        if index in self._marks:
            self.marked[index] = Mark(self.told_ps, copy.deepcopy(self.units), self.memory.counted(self.told_ps))
        self._finished += 1
        if self._progress is not None:
            self._progress(self._finished, len(self.program.steps))
