"""When a loop is steady: what is noted of its periods, and the pace that may stand for those that are left out.

Each unit comes to period after period of the loop. Where those times keep to a straight line, its slope is the time of a period;
how far they stray from it bounds how far the slope can be off. A loop is steady when that bound is small, the first half of
what was seen went as fast as the second, every unit kept the same pace (so that nothing fills or drains), nothing but
the loop was at work, transfers and refreshes did not pile up, and the memory's energy grew along a line, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
#: What was counted, by what it is: ("busy", unit), ("stalled", unit, cause) …
Counts: TypeAlias = Mapping[tuple[str, ...], int]

#: A period of so many records is long: it holds loads from many rows and channels, and all that pipelines and buffers hold passes
#: in it. ASSUMED: half of it is still enough; the runs of every tile that tests and docs/engine.md hold it against would tell.
LONG_RECORDS = 150
#: The share by which the time of a period may be off, and by which units may keep different paces: the reduction promises 0.5 %.
MOST_ERROR = 0.003
#: The share by which the memory's energy of a period may be off.
MOST_UNEVEN = 0.005
#: A loop that was left before is left again at the pace known from then, once it has been seen for so many intervals …
KNOWN_INTERVALS = 2
#: … in which its own pace, known no better than this, differed by no more than this.
KNOWN_AGREEMENT = 0.005


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of a loop must have been seen before it may be left, in periods."""

    warm: int                                # that fill the pipelines and are not looked at; of many periods, the first half
    periods: int                             # that are looked at …
    notes: int                               # … and what is noted among them, at least as many in each half
    intervals: int                           # … which last so many intervals in which all banks are refreshed
    known_periods: int                       # that are looked at where the pace is known from a loop that was left before


#: With four short periods the time was right, but DRAM rows that are opened, whose number goes with how tiles lie across rows and
#: channels, were up to a fourth too few (1.6 % of the memory's energy).
#: A refresh more or less is no great share of five intervals; what comes of two that meet, once in a dozen periods, is below
#: MOST_ERROR only of 25 (260 ns of 4 µs each).
_OF_SHORT = Wanted(warm=2, periods=8, notes=4, intervals=5, known_periods=4)
_OF_LONG = Wanted(warm=1, periods=2, notes=3, intervals=25, known_periods=1)


def wanted_of(records: int) -> Wanted:
    """What must be seen of a loop of so many records a period."""
    return _OF_LONG if records >= LONG_RECORDS else _OF_SHORT


@dataclass(frozen=True, slots=True)
class Note:
    """What stood in the counters when the first unit came to *period*."""

    period: int
    at_ps: int
    counts: Counts
    records: Mapping[str, int]               # that ended, by unit
    in_flight: Mapping[str, int]             # transfers, by queue
    at_work: frozenset[str]                  # units that had begun a record or a transfer and not ended it
    memory: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pace:
    """The time of a period, by what share it may be off, and the notes between which the other counts are those of a period."""

    period_ps: float
    error: float
    before: Note
    last: Note


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line: its slope, and how far that may be off."""

    slope: float
    error: float


#: What a memory spent between two notes of its counters: what the program does not fix of it, and all.
Spent: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[float, float]]


def line_through(at: FloatArray, values: FloatArray) -> Line:
    """The line of least squares through *values* at the rising places *at*.

    Where n + 1 values, one a place, stray from it by A at most, its slope is off by 3 A / n at most: that is when they stray to one
    side in the first half and to the other in the second. Halves of different slopes tell of a bend, of which straying tells less.
    """
    slope, strays = _slope(at, values)
    middle = len(at) // 2
    bend = 0.0 if len(at) < 3 else abs(_slope(at[:middle + 1], values[:middle + 1])[0] - _slope(at[middle:], values[middle:])[0])
    return Line(slope, max(3 * strays / float(at[-1] - at[0]), bend))


def _slope(at: FloatArray, values: FloatArray) -> tuple[float, float]:
    """The slope of least squares and how far the values stray from the line."""
    at, values = at - at.mean(), values - values.mean()
    slope = float(at @ values / (at @ at))
    return slope, float(np.abs(values - slope * at).max())


def pace_of(
    came_ps: Mapping[str, Sequence[int]], notes: Sequence[Note], interval_ps: int, spent: Spent, known: Pace | None,
    earlier: Mapping[str, int], wanted: Wanted,
) -> Pace | None:
    """The pace of a loop; None where it is not steady.

    *came_ps*: when each unit of the loop came to each period; *interval_ps*: of refresh; *known*: the pace of a loop whose periods
    are alike; *earlier*: records of each unit before the loop.
    """
    reach = min(map(len, came_ps.values())) - 1          # the last period that every unit has come to
    periods = reach - max(wanted.warm, reach // 2)
    if periods < (wanted.known_periods if known else wanted.periods):
        return None
    times = {unit: came[-periods - 1:] for unit, came in came_ps.items()}
    hindmost = min(came_ps, key=lambda unit: (len(came_ps[unit]), unit))
    start_ps, lasted_ps = times[hindmost][0], times[hindmost][-1] - times[hindmost][0]
    seen = [note for note in notes if note.at_ps >= start_ps and _is_alone(note, notes[-1], came_ps, earlier)]
    if lasted_ps <= 0 or lasted_ps < KNOWN_INTERVALS * interval_ps or len(seen) < min(wanted.notes, periods + 1):
        return None
    lines = {unit: _line_of_times(came) for unit, came in times.items()}
    line, last = lines[hindmost], notes[-1]
    error, apart = line.error / line.slope, max(abs(other.slope - line.slope) for other in lines.values()) / line.slope
    if known is not None and max(error, apart) <= KNOWN_AGREEMENT:
        off = abs(line.slope - known.period_ps) / known.period_ps
        if off <= KNOWN_AGREEMENT:
            return Pace(known.period_ps, max(known.error, off), known.before, known.last)
    error += abs(last.memory.get("refresh_owed_ps", 0.0) - seen[0].memory.get("refresh_owed_ps", 0.0)) / lasted_ps
    if (periods < wanted.periods or lasted_ps < wanted.intervals * interval_ps or max(error, apart) > MOST_ERROR or _piles_up(seen)
            or _uneven(seen, spent) > MOST_UNEVEN):
        return None
    return Pace(line.slope, error, seen[0], last)


def _line_of_times(times_ps: Sequence[int]) -> Line:
    """The line through the times of consecutive periods, counted from the first so that no digit is lost."""
    return line_through(np.arange(len(times_ps), dtype=np.float64), (np.array(times_ps, np.int64) - times_ps[0]).astype(np.float64))


def _uneven(notes: Sequence[Note], spent: Spent) -> float:
    """By what share of a period's energy that between the first and the last note may be off a steady one."""
    at = np.array([note.period for note in notes], np.float64)
    free, everything = zip(*(spent(notes[0].memory, note.memory) for note in notes), strict=True)
    each = everything[-1] / (at[-1] - at[0])
    return float(line_through(at, np.array(free)).error / each) if each > 0 else 0.0


def _is_alone(note: Note, last: Note, units: Mapping[str, object], earlier: Mapping[str, int]) -> bool:
    """Whether at *note* units of the loop had done with what lies before it, and others did nothing from then until *last*."""
    return all(note.records[unit] >= earlier[unit] if unit in units
               else note.records[unit] == last.records[unit] and unit not in note.at_work
               for unit in note.records)


def _piles_up(notes: Sequence[Note]) -> bool:
    """Whether the transfers in flight of some queue become steadily more or fewer: the pace would change once they cannot."""
    before, middle, last = notes[0], notes[len(notes) // 2], notes[-1]
    for queue, now in last.in_flight.items():
        first, second = middle.in_flight[queue] - before.in_flight[queue], now - middle.in_flight[queue]
        if first * second > 0 and abs(first + second) > MOST_ERROR * (last.records[queue] - before.records[queue]):
            return True
    return False
