"""Recorded tasks on units that work in order, with their transfers served by a command-level memory in the loop.

The same tasks that :class:`~.in_order.InOrderUnits` and :class:`~.in_order.Channel` time as they are appended are recorded here,
and then run as SimPy processes: one a unit, one a transfer. A transfer's bursts meet those of all others in the memory's queues.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from ..memory.kinds import MemorySystem
from ..sim.units import PS_PER_S
from .in_order import Moment, Time

Process = Generator[simpy.Event, Any, None]
#: The bursts of a transfer are whole: addresses step by this many bytes, a row of HBM.
_ALIGNMENT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Task:
    """A task of *cycles* on *unit*, or a transfer of *nbytes* (unit None), after moments of earlier tasks."""

    unit: str | None
    cycles: float
    nbytes: int
    write: bool
    after: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Recorder:
    """Takes tasks and transfers in order; transfers are stated in cycles of *bytes_per_cycle*."""

    bytes_per_cycle: float
    tasks: list[Task] = field(default_factory=list)

    def run(self, unit: str, cycles: float, after: Iterable[Time] = ()) -> Moment:
        """Append a task on *unit*."""
        return self._append(Task(unit, cycles, 0, False, _after(after)))

    def transfer(self, cycles: float, after: Iterable[Time] = (), *, write: bool = False) -> Moment:
        """Append a transfer; one of no bytes is over when what it waits for is."""
        nbytes, waits = round(cycles * self.bytes_per_cycle), _after(after)
        return self._append(Task(None, 0.0, nbytes, write, waits)) if nbytes else Moment(frozenset(waits))

    def _append(self, task: Task) -> Moment:
        self.tasks.append(task)
        return Moment(frozenset({(len(self.tasks) - 1, 0.0)}))


def _after(times: Iterable[Time]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted({wait for time in times if isinstance(time, Moment) for wait in time.after}))


def run_recorded(tasks: Sequence[Task], clock_hz: float, env: simpy.Environment, memory: MemorySystem) -> list[int]:
    """Run *tasks*; gives when each ended, in picoseconds. Reads walk through one half of *memory*, writes through the other."""
    run = _Run(tasks, clock_hz, env, memory)
    for unit in dict.fromkeys(task.unit for task in tasks):
        if unit is not None:
            env.process(run.work(unit))
    for index, task in enumerate(tasks):
        if task.unit is None:
            env.process(run.move(index))
    env.run()
    assert all(end >= 0 for end in run.ends_ps), "a task waits for ever"
    return run.ends_ps


def when(moment: Time, ends_ps: Sequence[int], clock_hz: float) -> float:
    """*moment* in cycles, once all tasks have ended."""
    assert isinstance(moment, Moment)
    return max((ends_ps[task] * clock_hz / PS_PER_S + cycles for task, cycles in moment.after), default=0.0)


class _Run:
    def __init__(self, tasks: Sequence[Task], clock_hz: float, env: simpy.Environment, memory: MemorySystem) -> None:
        self.tasks, self.env, self.memory = tasks, env, memory
        self.ps_per_cycle = PS_PER_S / clock_hz
        self.ends_ps = [-1] * len(tasks)
        self.ended: dict[int, simpy.Event] = {}
        self._half = memory.capacity_bytes // 2 // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
        self._next = {False: 0, True: 0}

    def work(self, unit: str) -> Process:
        """The tasks of *unit*, one after the other."""
        for index, task in enumerate(self.tasks):
            if task.unit == unit:
                yield from self._wait(task)
                yield self.env.timeout(round(task.cycles * self.ps_per_cycle))
                self._end(index)

    def move(self, index: int) -> Process:
        """One transfer, as soon as what it waits for is there."""
        task = self.tasks[index]
        yield from self._wait(task)
        yield self.memory.transfer(np.array([[self._address(task), task.nbytes]], dtype=np.int64), task.write)
        self._end(index)

    def _address(self, task: Task) -> int:
        at = self._next[task.write]
        if at + task.nbytes > self._half:
            at = 0
        self._next[task.write] = at + -(-task.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        return at + self._half * task.write

    def _wait(self, task: Task) -> Process:
        ready_ps = 0
        for other, cycles in task.after:
            if self.ends_ps[other] < 0:
                event = self.ended.get(other)
                if event is None:
                    event = self.ended[other] = self.env.event()
                yield event
            ready_ps = max(ready_ps, self.ends_ps[other] + round(cycles * self.ps_per_cycle))
        if ready_ps > self.env.now:
            yield self.env.timeout(ready_ps - int(self.env.now))

    def _end(self, index: int) -> None:
        self.ends_ps[index] = int(self.env.now)
        event = self.ended.pop(index, None)
        if event is not None:
            event.succeed()
