"""Tile tasks on units that work in order: when each starts and ends, and what a long regular run comes to.

A task starts when its unit has ended the tasks before it and all that it waits for has arrived. Times are in cycles of one clock
(float: a memory transfer need not be whole).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Moment:
    """When all of some recorded tasks have ended, each plus a number of cycles; none of them: at once."""

    after: frozenset[tuple[int, float]] = frozenset()             # (task, cycles)

    def __add__(self, cycles: float) -> Moment:
        return Moment(frozenset((task, before + cycles) for task, before in self.after))


#: A time in cycles where tasks are timed as they are appended, a moment to come where they are only recorded.
Time: TypeAlias = float | Moment


def latest(*times: Time) -> Time:
    """When all of *times* have come."""
    moments = [time for time in times if isinstance(time, Moment)]
    if moments:
        return Moment(frozenset().union(*(moment.after for moment in moments)))
    return max(time for time in times if not isinstance(time, Moment))


class Units(Protocol):
    """Where tasks are appended: see :class:`InOrderUnits`."""

    def run(self, unit: str, cycles: float, after: Iterable[Time] = ()) -> Time:
        """Append a task that waits for the times *after*; returns its end."""


class Carrier(Protocol):
    """Where transfers are appended: see :class:`Channel`."""

    def transfer(self, cycles: float, after: Iterable[Time] = (), *, write: bool = False) -> Time:
        """Append a transfer that takes *cycles* at the nominal rate; returns its end."""


@dataclass(slots=True)
class InOrderUnits:
    """Units by name, each with the time it is free, and the time it was busy."""

    free: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)

    def run(self, unit: str, cycles: float, after: Iterable[Time] = ()) -> float:
        """Append a task that waits for the times *after*; returns its end."""
        start = max(self.free.get(unit, 0.0), *_floats(after), 0.0)
        self.free[unit] = start + cycles
        self.busy[unit] = self.busy.get(unit, 0.0) + cycles
        return start + cycles

    @property
    def end(self) -> float:
        return max(self.free.values())


class Channel:
    """A memory channel that never idles while a transfer is ready: a later transfer may use the gaps that earlier ones leave.

    Transfers are given in the order of their priority. Only the last gaps are remembered.
    """

    def __init__(self, remembered: int = 64) -> None:
        self._gaps: list[tuple[float, float]] = []
        self._end = 0.0
        self._remembered = remembered

    def transfer(self, cycles: float, after: Iterable[Time] = (), *, write: bool = False) -> float:
        """Carry a transfer of *cycles* once the times *after* have come; its bursts may be spread; returns its end.

        A *write* takes as long as a read.
        """
        ready, left = max((0.0, *_floats(after))), cycles
        kept: list[tuple[float, float]] = []
        for start, end in self._gaps:
            begin = max(start, ready)
            taken = min(left, end - begin)
            if taken <= 0.0:
                kept.append((start, end))
                continue
            left -= taken
            ready = begin + taken
            kept += [gap for gap in ((start, begin), (ready, end)) if gap[1] > gap[0]]
        self._gaps = kept
        if left <= 0.0:
            return ready
        begin = max(self._end, ready)
        if begin > self._end:
            self._gaps = [*self._gaps, (self._end, begin)][-self._remembered:]
        self._end = begin + left
        return self._end


def _floats(times: Iterable[Time]) -> list[float]:
    found = []
    for time in times:
        assert not isinstance(time, Moment), "tasks that are timed wait for nothing that is only recorded"
        found.append(time)
    return found


#: How far two periods in a row may differ: the bound that shortened runs keep against exact ones.
STEADY_TOLERANCE = 0.005


class NotSteadyError(RuntimeError):
    """Consecutive iterations did not come to the same time, so that the run cannot be shortened."""


def steady_total(end_of: Callable[[int], float], count: int, probe: int, stride: int = 1) -> float:
    """The end of *count* equal iterations: simulated up to ``probe + 2·stride``, then by the period of *stride* iterations.

    ``end_of(i)`` is the end of iteration *i* (from 1). Two periods in a row must agree within STEADY_TOLERANCE, else
    NotSteadyError.
    """
    if count <= probe + 2 * stride:
        return end_of(count)
    first, second, third = (end_of(probe + step * stride) for step in range(3))
    period = third - second
    if abs(period - (second - first)) > STEADY_TOLERANCE * period:
        raise NotSteadyError(f"{stride} iterations after {probe + stride} take {period} cycles, before it {second - first}")
    return third + (count - probe - 2 * stride) * period / stride
