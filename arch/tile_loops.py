"""The tile loops of a segment, found in its records: stretches in which each record is the one a period before it, moved on.

Two records are alike when they do the same work on the same unit, move ranges of the same sizes at the same distances and
alignment, and refer to earlier records and buffers either at the same distance back or, both, to the same one before the loop.
Where the bytes lie is left open: that is what the iterations of a loop differ in. Loops nest: a period may hold loops.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..sim.program import Compute, Record, Segment
from .costs import RecordCost, SegmentCost
from .steady import LONG_RECORDS

Int64Array = npt.NDArray[np.int64]

#: Buffers live through so many periods at most, else what lies behind the loop cannot be told which of them it uses.
MOST_PERIODS_OWNED = 3
#: A loop of fewer periods is not worth watching: so many are simulated even of one that is steady from the first (``steady.py``),
#: and what is left out has more than that many.
LEAST_TIMES, LEAST_TIMES_OF_LONG = 12, 8
#: Records that a loop leaves out, at least, to be worth watching.
LEAST_RECORDS = 40
#: Records that refer to more than so many others are taken as unlike any other.
_MOST_REFERENCES = 32
#: Distances between equal records (and between equal words of 4, 16, 64 … records) that are tried as periods, the most frequent.
_MOST_CANDIDATES = 16
#: An odd factor that makes words of records into numbers, modulo 2^64.
_MIX = np.uint64(0x9E3779B97F4A7C15)


def least_times(period: int) -> int:
    """The fewest periods of so many records that are taken for a loop."""
    return LEAST_TIMES if period < LONG_RECORDS else LEAST_TIMES_OF_LONG


@dataclass(frozen=True, slots=True)
class TileLoop:
    """Records [first, first + times · period) are *times* periods; *inner* loops lie in each, counted from the period's start."""

    first: int
    period: int
    times: int
    inner: tuple[TileLoop, ...] = ()
    likeness: Hashable = None               # equal for loops, of whatever segments of a run, whose periods are alike

    @property
    def end(self) -> int:
        """The first record behind the last period."""
        return self.first + self.times * self.period


class LoopFinder:
    """Finds the loops of the segments of one run."""

    def __init__(self, burst_bytes: int) -> None:
        """*burst_bytes*: the memory's, to which alike ranges are equally aligned."""
        self._burst_bytes = burst_bytes
        self._kinds: dict[Hashable, int] = {}                      # of all segments, so that loops are known again in another

    def find(self, segment: Segment, costs: SegmentCost) -> tuple[TileLoop, ...]:
        """The loops of *segment*, in order."""
        if len(segment.records) < LEAST_TIMES + LEAST_RECORDS:
            return ()
        return _Finder(segment, costs, self._burst_bytes, self._kinds).find(0, len(segment.records))


class _Finder:
    def __init__(self, segment: Segment, costs: SegmentCost, burst_bytes: int, kinds: dict[Hashable, int]) -> None:
        ordinal = [0] * len(segment.buffers)
        for index, cost in enumerate(costs.records):
            for slot, buffer in enumerate(cost.buffers):
                if segment.first_use[buffer] == index:
                    ordinal[buffer] = slot
        found: list[int] = []
        waits, owned = _Rows(), _Rows()
        first_use = segment.first_use
        for index, (record, cost) in enumerate(zip(segment.records, costs.records, strict=True)):
            if len(cost.waits) > _MOST_REFERENCES or len(cost.buffers) > _MOST_REFERENCES:
                kind: Hashable = id(segment), index
            else:
                kind = _kind(record, cost, burst_bytes), tuple([ordinal[buffer] for buffer in cost.buffers])
            found.append(kinds.setdefault(kind, len(kinds)))
            waits.add([earlier for earlier, _ in cost.waits[:_MOST_REFERENCES]])
            owned.add([first_use[buffer] for buffer in cost.buffers[:_MOST_REFERENCES]])
        self._kinds = np.array(found, np.int64)
        self._waits, self._owned = waits.padded(), owned.padded()

    def find(self, low: int, high: int) -> tuple[TileLoop, ...]:
        """The loops in records [low, high), counted from *low*."""
        best = self._longest(low, high)
        if best is None:
            return ()
        first, end = best.first, best.end
        inner = self.find(first, first + best.period)
        loop = TileLoop(first - low, best.period, best.times, inner, self._likeness(first, best.period))
        return (*self.find(low, first), loop, *_moved(self.find(end, high), end - low))

    def _likeness(self, first: int, period: int) -> Hashable:
        """What the records of a period are, and how far back they refer inside the loop."""
        at = np.arange(first, first + period)[:, None]
        back = tuple(np.where(references[first + period:first + 2 * period] == references[first:first + period], -1,
                              at - references[first:first + period]).tobytes() for references in (self._waits, self._owned))
        return tuple(self._kinds[first:first + period].tolist()), back

    def _longest(self, low: int, high: int) -> TileLoop | None:
        """The loop that leaves out the most records."""
        kinds = self._kinds[low:high]
        runs = []
        for period in self._periods(kinds):
            first, end = _longest_run(kinds[period:] == kinds[:-period])
            runs.append((_left_out(end - first, period), period, low + first, low + end))
        best, most = None, LEAST_RECORDS - 1
        for left_out, period, first, end in sorted(runs, reverse=True):
            if left_out <= most:
                break
            loop = self._checked(period, first, end)
            if loop is not None and _left_out((loop.times - 1) * period, period) > most:
                best, most = loop, _left_out((loop.times - 1) * period, period)
        return best

    def _periods(self, kinds: Int64Array) -> list[int]:
        """Distances from a record to the next one of its kind that is followed by as many of the same kinds."""
        found: dict[int, None] = {}
        words, length = kinds.astype(np.uint64), 1
        longest = len(kinds) // LEAST_TIMES_OF_LONG
        while len(words) >= LEAST_TIMES and length <= longest:
            order = np.argsort(words, kind="stable")
            gaps = np.diff(order)[words[order[1:]] == words[order[:-1]]]
            known, counts = np.unique(gaps[gaps <= longest], return_counts=True)
            found |= dict.fromkeys(known[np.argsort(-counts, kind="stable")[:_MOST_CANDIDATES]].tolist())
            words = words[:-length] * _MIX + words[length:] if len(words) > length else words[:0]
            length *= 2
            words = words[:-length] * _MIX ** 2 + words[length:] if len(words) > length else words[:0]
            length *= 2
        return list(found)

    def _checked(self, period: int, first: int, end: int) -> TileLoop | None:
        """The longest loop of *period* in a run [first, end) of records of which each is of the kind of the one a period later."""
        alike = np.ones(end - first, bool)
        for references in (self._waits, self._owned):
            moved = references[first + period:end + period] - references[first:end]
            alike &= ((moved == period) | (moved == 0)).all(axis=1)
        begin, stop = _longest_run(alike)
        first, end = first + begin, first + stop
        # What stays the same for all periods must have been there before the first.
        kept = [references[first:end][references[first + period:end + period] == references[first:end]]
                for references in (self._waits, self._owned)]
        first = max(first, int(max(part.max(initial=-1) for part in kept)) + 1)
        times = (end - first) // period + 1 if end > first else 0
        loop = TileLoop(first, period, times)
        if times < least_times(period) or not self._lives_fit(loop):
            return None
        return loop

    def _lives_fit(self, loop: TileLoop) -> bool:
        """Whether the loop's buffers are given back a few periods later, in it or behind it, and references keep how they move."""
        inside, behind = self._owned[loop.first:loop.end], self._owned[loop.end:]
        at = np.arange(loop.first, loop.end)[:, None]
        oldest = MOST_PERIODS_OWNED * loop.period
        if ((inside >= loop.first) & (at - inside >= oldest)).any():
            return False
        if ((behind >= loop.first) & (behind < loop.end - oldest)).any():
            return False
        for references in (self._waits, self._owned):
            still = np.diff(references[loop.first:loop.end].reshape(loop.times, loop.period, -1), axis=0) == 0
            if (still != still[0]).any():
                return False
        return True


def _kind(record: Record, cost: RecordCost, burst_bytes: int) -> Hashable:
    """What a record does and what it takes, but not where and of whom."""
    rest = record.unit, cost.operands, cost.acquires, tuple([cause for _, cause in cost.waits])
    if isinstance(record, Compute):
        return cost.work, rest
    ranges = record.ranges
    start = int(ranges[0, 0]) if len(ranges) else 0
    if len(ranges) == 1:
        return start % burst_bytes, int(ranges[0, 1]), rest
    return start % burst_bytes, (ranges - (start, 0)).tobytes(), rest


class _Rows:
    """Rows of different lengths, kept end to end."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._values: list[int] = []

    def add(self, row: list[int]) -> None:
        self._lengths.append(len(row))
        self._values += row

    def padded(self) -> Int64Array:
        """The rows of one array, filled up with -1."""
        lengths = np.array(self._lengths, np.int64)
        table = np.full((len(lengths), max(1, int(lengths.max()))), -1, np.int64)
        table[np.arange(table.shape[1]) < lengths[:, None]] = self._values
        return table


def _longest_run(alike: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """[first, end) of the longest run of true values."""
    breaks = np.concatenate(([-1], np.flatnonzero(~alike), [len(alike)]))
    longest = int(np.argmax(np.diff(breaks)))
    return int(breaks[longest]) + 1, int(breaks[longest + 1])


def _left_out(alike: int, period: int) -> int:
    """Records that need not be simulated of a stretch in which *alike* records are of the kind of the one a period later."""
    return (alike // period + 1 - least_times(period)) * period


def _moved(loops: tuple[TileLoop, ...], by: int) -> tuple[TileLoop, ...]:
    return tuple(replace(loop, first=loop.first + by) for loop in loops)
