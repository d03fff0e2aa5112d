"""The engine: a tile program on a machine, as SimPy processes at tile grain.

Each unit is one process that takes its records in program order. DMA queues keep many transfers in flight; the memory is
co-simulated (``memory/kinds.py``). Time advances only by what a hardware model says: DRAM commands, link rates,
fold arithmetic, lane operations, SRAM port widths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import simpy

from ..sim.program import Compute, Load, Store, TileProgram
from .collectives import ALGORITHMS
from .costs import RecordCost
from .interconnect import Fabric
from .loop_exit import LoopExits
from .machine import MachineConfig
from .run_counts import ProgramRun
from .run_state import ACTIVATION, STORE, STREAM, RunState

Process = Generator[simpy.Event, Any, None]


class Engine(RunState):
    """One run of one program on one machine."""

    def __init__(self, machine: MachineConfig, program: TileProgram, *, exact: bool = False, trace: bool = False,
                 progress: Callable[[int, int], None] | None = None, marks: frozenset[int] = frozenset(),
                 fabric: Fabric | None = None, leave_loops: bool = False) -> None:
        """*leave_loops*: tile loops are left once they are steady (``loop_exit.py``); the rest as of ``RunState``."""
        super().__init__(machine, program, exact=exact, trace=trace, progress=progress, marks=marks, fabric=fabric)
        self._exits = LoopExits(self) if leave_loops else None
        self._streams_until_ps = 0                              # the arrays, their last record

    def _ports_done_ps(self, start_ps: int, cost: RecordCost, at_least_ps: int) -> int:
        """When a record that works from *start_ps* for *at_least_ps* has moved its SRAM bytes."""
        moved = zip(self._ports, (cost.sram_read_bytes, cost.sram_write_bytes), strict=True)
        return max(port.reserve(self._now_ps, start_ps, nbytes, at_least_ps) for port, nbytes in moved)

    def run(self) -> ProgramRun:
        """Run to the last retired record."""
        self.start()
        self.env.run()
        return self.finish()

    def finish(self) -> ProgramRun:
        """What the run measured, once nothing is left to do; the order of records only where all of them ran."""
        run, reductions = super().finish(), self._exits.reductions() if self._exits else ()
        return replace(run, completion_order=[], reductions=reductions) if reductions else run

    def start(self) -> None:
        """Start every unit; time passes when the environment runs."""
        env = self.env
        env.process(self._issue())
        for queue in (STREAM, ACTIVATION, STORE):
            env.process(self._transfers(queue))
        env.process(self._matrix())
        env.process(self._vector())

    # -- program order ---------------------------------------------------------------------------------------------

    def _queue(self, unit: str) -> Iterator[tuple[int, int, Any]]:
        """Records of *unit* over all steps, in program order, but for those that are left out of loops."""
        for index, step in enumerate(self.program.steps):
            records, positions = step.segment.records, self.costs_of(index).by_unit.get(unit, ())
            loops = self._exits.of_step(index) if self._exits and positions else None
            at, until = 0, len(records)
            while at < len(positions):
                if loops is not None:
                    onward, until = loops.come(unit, positions[at])
                    at = bisect_left(positions, onward, at)
                upto = bisect_left(positions, until, at)
                for position in positions[at:upto]:
                    yield index, position, records[position]
                at = upto

    def _issue(self) -> Process:
        """Give each step, in program order, the room for the resident tensors that it produces."""
        for index, step in enumerate(self.program.steps):
            wanted = sum(self.program.tensors[t].nbytes for t in step.produces)
            if wanted:
                room = self._resident.acquire(wanted)
                if room is not None:
                    yield room
            self.states[index].gate.succeed()

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
        env, start_ps, own_ps = self.env, self._now_ps, self.own_ps(queue)
        self._started(index)
        is_store = isinstance(record, Store)
        nbytes = record.nbytes
        self.in_flight[queue] += 1
        done = self.memory.transfer(self.placed(index, record), write=is_store)
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
        unit.busy_ps += self.own_ps(queue) - own_ps
        self.in_flight[queue] -= 1
        self._ended(queue, index, position, start_ps)

    # -- compute -----------------------------------------------------------------------------------------------------

    def _vector(self) -> Process:
        name = self.vpu_name
        for index, position, record in self._queue(name):
            yield from self._ready(name, index, position)
            cost = self._cost(index, position)
            start_ps = self._now_ps
            self._started(index)
            self.at_work[name] += 1
            if record.function in ALGORITHMS:
                yield from self._exchange(index, position, record)
            else:
                at_least_ps = self._clocks[name].wait_ps(start_ps, cost.cycles)
                yield self.env.timeout(self._ports_done_ps(start_ps, cost, at_least_ps) - start_ps)
                self._account(name, index, cost, start_ps, self._now_ps)
            self.at_work[name] -= 1
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
            streamed = max(streamed, moved)
            last_fold = streamed - gemm.stream
            stream_free, shadow_free = last_fold + gemm.next_stream, last_fold + gemm.next_preload
            start_ps, end_ps = clock.ps_of(begin_cycle), clock.ps_of(streamed + gemm.drain)
            self.at_work[name] += 1
            self._streams_until_ps = clock.ps_of(streamed)
            self._account(name, index, cost, start_ps, self._streams_until_ps)
            env.process(self._end_at(end_ps, name, index, position, start_ps))
            wake_ps = clock.ps_of(shadow_free)
            if wake_ps > self._now_ps:
                yield env.timeout(wake_ps - self._now_ps)

    def _end_at(self, end_ps: int, name: str, index: int, position: int, start_ps: int) -> Process:
        yield self.env.timeout(max(0, end_ps - self._now_ps))
        self.at_work[name] -= 1
        self._ended(name, index, position, start_ps)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _ready(self, unit: str, index: int, position: int) -> Process:
        """All that a compute record waits for: room for residents, operands, earlier records, its own buffers."""
        state = self.states[index]
        if not state.gate.triggered:
            yield from self._stall(unit, index, "buffer space", state.gate)
        for operand in self._cost(index, position).operands:
            yield from self._operand_ready(unit, index, operand)
        yield from self._records_ended(unit, index, position)
        yield from self._own_buffers(unit, index, position)

    def _operand_ready(self, unit: str, index: int, operand: int) -> Process:
        step = self.program.steps[index]
        for producer in step.after[operand]:
            done = self.states[producer].done
            if not done.triggered:
                yield from self._stall(unit, index, "earlier operator", done)

    def _records_ended(self, unit: str, index: int, position: int) -> Process:
        state = self.states[index]
        for earlier, cause in self._cost(index, position).waits:
            if state.stands_in is not None:
                earlier = state.stand_in(earlier)
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
        """Wait for *event*, the end of record *earlier* if it is one's, and book the time under *cause*.

        The arrays look for their next record while they stream the last one: only what is left to wait then keeps them idle.
        """
        began_ps, start_ps = self._now_ps, self.own_ps(unit)
        yield event
        if (index, earlier) in self._late_by_link:
            cause = "link"
        waited = self.own_ps(unit) - start_ps
        if unit == self.mxu_name:
            waited -= max(0, min(self._now_ps, self._streams_until_ps) - began_ps)
        if waited:
            stalled = self.units[unit].stalled_ps
            stalled[cause] = stalled.get(cause, 0) + waited
            if unit in (self.mxu_name, self.vpu_name):
                by_cause = self.operators[index].waited_ps
                by_cause[cause] = by_cause.get(cause, 0) + waited

    def _cycles(self, clock: str, cycles: int) -> simpy.Timeout:
        return self.env.timeout(self._clocks[clock].wait_ps(self._now_ps, cycles))
