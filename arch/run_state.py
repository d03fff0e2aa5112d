"""How far a run has got: what has ended and whose room it gives back, what has been counted, and the parts that are at work.

The engine's processes (``engine.py``) move it on; nothing here lets time pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable

import simpy

from ..memory.kinds import build_memory
from ..memory.port_share import PortShare
from ..memory.sram import SramConfig
from ..memory.traffic import Traffic
from ..sim.clock import Clock
from ..sim.energy import EnergyLedger
from ..sim.program import TileProgram
from ..sim.timeline import Timeline
from ..sim.units import PS_PER_S
from .costs import RecordCost, SegmentCosts
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
        self._steps = [StepState(self.env, step.segment) for step in program.steps]
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
