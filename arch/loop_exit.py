"""The reduction "tile loops": a loop of tiles is left once its periods are steady, and time goes on as if it had run to its end.

The unit that is farthest ahead in the program decides, when it comes to a new period (``steady.py`` says when it may). Then all
units leave the loop there, and the periods that are left out are counted at that moment: MACs, bytes, bursts and records as the
program fixes them, refreshes as the time that passes owes them; stalls and other DRAM commands as in the periods that were seen.
Who waits for a record that was left out waits for the same record of the last periods that were not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from ..sim.units import PS_PER_S
from .run_state import RunState
from .steady import MOST_ERROR, Note, Pace, Wanted, pace_of, wanted_of
from .tile_loops import LEAST_RECORDS, MOST_PERIODS_OWNED, LoopFinder, TileLoop


class _Trip:
    """One loop on its way from record *first* on: when each unit came to its periods, and where it is left, if it is."""

    __slots__ = ("came_ps", "earlier", "first", "front", "look_ps", "loop", "notes", "stop", "wanted", "watched")

    def __init__(self, loop: TileLoop, first: int, units: frozenset[str], earlier: Mapping[str, int]) -> None:
        self.loop, self.first, self.earlier = loop, first, earlier
        self.came_ps: dict[str, list[int]] = {unit: [] for unit in units}
        self.notes: list[Note] = []
        self.front, self.look_ps = -1, 0
        self.watched, self.wanted = True, wanted_of(loop.period)
        self.stop: int | None = None

    def give_up(self) -> None:
        """It is not worth to be watched any longer."""
        self.watched, self.notes = False, []


class StepLoops:
    """The loops of one step at work."""

    def __init__(self, exits: LoopExits, index: int, loops: tuple[TileLoop, ...]) -> None:
        self._exits, self._index, self._loops = exits, index, loops
        self._records = len(exits.run.program.steps[index].segment.records)
        self._trips: dict[tuple[int, int], _Trip] = {}

    def come(self, unit: str, position: int) -> tuple[int, int]:
        """*unit* comes to record *position*: at which one it goes on, and up to which it need not ask again."""
        base, loops, until = 0, self._loops, self._records
        while True:
            loop = next((loop for loop in loops if base + loop.end > position), None)
            if loop is None:
                return position, until
            first = base + loop.first
            if position < first:
                return position, min(until, first)
            period = (position - first) // loop.period
            trip = self._trips.get((first, loop.period)) or self._begin(loop, first)
            if self._leaves(trip, unit, period):
                return self.come(unit, base + loop.end)
            until = min(until, base + loop.end)
            base, loops = first + period * loop.period, loop.inner
            if trip.watched or trip.stop is not None or loops:
                until = min(until, base + loop.period)

    def _begin(self, loop: TileLoop, first: int) -> _Trip:
        trip = self._trips[first, loop.period] = _Trip(loop, first, *self._exits.makeup(self._index, loop, first))
        return trip

    def _leaves(self, trip: _Trip, unit: str, period: int) -> bool:
        """Whether *unit*, which comes to a record of *period*, leaves the loop there."""
        if trip.stop is not None:
            return period >= trip.stop
        if not trip.watched:
            return False
        came_ps = trip.came_ps[unit]
        if len(came_ps) > period:
            return False
        now_ps = self._exits.run.told_ps
        came_ps.append(now_ps)
        if period <= trip.front:
            return False
        trip.front = period
        return period >= trip.wanted.warm and now_ps >= trip.look_ps and self._look(trip, period, now_ps)

    def _look(self, trip: _Trip, period: int, now_ps: int) -> bool:
        """Leave *trip* if it is steady; gives whether it was. *period* is new to all of its units."""
        exits, loop, left_out = self._exits, trip.loop, trip.loop.times - period
        interval_ps = exits.run.memory.refresh_interval_ps
        # What is left out must hold all that lives on behind the loop, and be worth the look.
        if left_out < MOST_PERIODS_OWNED or left_out * loop.period < LEAST_RECORDS:
            trip.give_up()
            return False
        reach = min(map(len, trip.came_ps.values())) - 1
        trip.look_ps = now_ps + interval_ps // 2
        if reach < trip.wanted.warm:
            return False
        if trip.notes:
            seen_ps, seen = now_ps - trip.notes[0].at_ps, period - trip.notes[0].period
            if left_out * seen_ps < trip.wanted.intervals * interval_ps * seen:
                trip.give_up()
                return False
        trip.notes.append(exits.note(self._index, period))
        trip.look_ps = max(trip.look_ps, now_ps + (now_ps - trip.notes[0].at_ps) // 8)
        pace = exits.pace(trip.came_ps, trip.notes, loop, trip.earlier, trip.wanted)
        if pace is None:
            return False
        trip.give_up()
        trip.stop = period
        self._hand_over_buffers(trip, period)
        exits.leave_out(self._index, trip.first, loop, frozenset(trip.came_ps), left_out, pace)
        exits.run.let_stand_in(self._index, trip.first + period * loop.period, _moved(trip, period))
        return True

    def _hand_over_buffers(self, trip: _Trip, kept: int) -> None:
        """What lies behind the loop uses the buffers of the last periods kept; what was there before is used less often."""
        run, index, loop, skipped = self._exits.run, self._index, trip.loop, trip.loop.times - kept
        costs, first_use = run.costs_of(index), run.program.steps[index].segment.first_use
        state, users = run.states[index], run.users_to_come(index)
        end = trip.first + kept * loop.period
        changed: dict[int, int] = {}
        for record in range(end - min(kept, MOST_PERIODS_OWNED) * loop.period, end):
            later = record + skipped * loop.period
            for ours, theirs in zip(costs.records[record].buffers, costs.records[later].buffers, strict=True):
                owned = state.buffer(ours)
                if first_use[ours] == record:
                    state.buffers[theirs] = ours
                    changed[owned] = changed.get(owned, 0) + users[theirs] - costs.buffer_users[ours]
                elif first_use[ours] < trip.first and record >= end - loop.period:
                    changed[owned] = changed.get(owned, 0) - skipped
        for buffer, more in changed.items():
            if users[buffer] > 0:
                users[buffer] += more
                if users[buffer] <= 0:
                    run.release(index, buffer)


def _moved(trip: _Trip, kept: int) -> list[int]:
    """For each record that is left out the same one of the last periods kept; of the very last where there are too few."""
    loop, end = trip.loop, trip.first + kept * trip.loop.period
    away = (loop.times - kept) * loop.period
    return [record - away if record - away >= trip.first else end - loop.period + (record - trip.first) % loop.period
            for record in range(end, end + away)]


class LoopExits:
    """The tile loops of all steps of a run, and what leaving them adds to it."""

    def __init__(self, run: RunState) -> None:
        self.run = run
        self._finder = LoopFinder(run.memory.burst_bytes)
        self._found: dict[int, tuple[TileLoop, ...]] = {}
        self._at_work: dict[int, StepLoops | None] = {}
        self._units: dict[int, frozenset[str]] = {}
        self._earlier: list[Counter[str]] = []                 # records of each unit before each step
        self._known: dict[Hashable, Pace] = {}
        self._left: list[tuple[int, int, int, float]] = []     # of each loop left: periods, those simulated, time passed, error

    def of_step(self, index: int) -> StepLoops | None:
        """The loops of step *index*; None when it has none."""
        if index in self._at_work:
            return self._at_work[index]
        segment = self.run.program.steps[index].segment
        found = self._found.get(id(segment))
        if found is None:
            found = self._found[id(segment)] = self._finder.find(segment, self.run.costs_of(index))
        return self._at_work.setdefault(index, StepLoops(self, index, found) if found else None)

    def makeup(self, index: int, loop: TileLoop, first: int) -> tuple[frozenset[str], Mapping[str, int]]:
        """The units at work in *loop*, and how many records each unit of the run has before record *first* of step *index*."""
        steps = self.run.program.steps
        if id(loop) not in self._units:
            self._units[id(loop)] = frozenset(record.unit for record in steps[index].segment.records[first:first + loop.period])
        if not self._earlier:
            self._earlier = [Counter()]
            for k in range(len(steps)):
                self._earlier.append(self._earlier[-1] + Counter({u: len(at) for u, at in self.run.costs_of(k).by_unit.items()}))
        inside = {unit: bisect_left(positions, first) for unit, positions in self.run.costs_of(index).by_unit.items()}
        return self._units[id(loop)], {unit: self._earlier[index][unit] + inside.get(unit, 0) for unit in self.run.units}

    def note(self, index: int, period: int) -> Note:
        """The counters as they stand."""
        run, operator = self.run, self.run.operators[index]
        counts: dict[tuple[str, ...], int] = {("step busy", name): ps for name, ps in operator.busy_ps.items()}
        counts |= {("step waited", cause): ps for cause, ps in operator.waited_ps.items()}
        for name, unit in run.units.items():
            counts["busy", name] = unit.busy_ps
            counts |= {("stalled", name, cause): ps for cause, ps in unit.stalled_ps.items()}
        at_work = frozenset(name for name, count in {**run.at_work, **run.in_flight}.items() if count)
        return Note(period, run.told_ps, counts, {name: unit.records for name, unit in run.units.items()}, dict(run.in_flight),
                    at_work, run.memory.counted(run.told_ps))

    def pace(
        self, came_ps: Mapping[str, list[int]], notes: list[Note], loop: TileLoop, earlier: Mapping[str, int], wanted: Wanted,
    ) -> Pace | None:
        """The pace of a loop, from its own periods or as it is known; None when the loop is not steady."""
        memory, known = self.run.memory, self._known.get(loop.likeness)
        found = pace_of(came_ps, notes, memory.refresh_interval_ps, memory.spent, known, earlier, wanted)
        if found is not None and known is None:
            self._known[loop.likeness] = found
        return found

    def leave_out(self, index: int, first: int, loop: TileLoop, units: frozenset[str], skipped: int, pace: Pace) -> None:
        """Count *skipped* more periods of *loop*, now."""
        run, operator, before, last = self.run, self.run.operators[index], pace.before, pace.last
        apart, late_ps = last.period - before.period, round(skipped * pace.period_ps)
        for key, count in last.counts.items():
            more_ps = skipped * (count - before.counts.get(key, 0)) // apart
            match key:
                case "busy", name:
                    run.units[name].busy_ps += more_ps if name in run.in_flight else min(more_ps, late_ps)
                case "stalled", name, cause:
                    _add(run.units[name].stalled_ps, cause, more_ps)
                case "step busy", name:
                    _add(operator.busy_ps, name, min(more_ps, late_ps))
                case "step waited", cause:
                    _add(operator.waited_ps, cause, more_ps)
        counts = run.counts_of_records(index, range(first, first + loop.period))
        run.count_more(index, counts, skipped)
        run.memory.replay(before.memory, last.memory, apart, counts.traffic, skipped, late_ps)
        run.pass_over(late_ps, units)
        self._left.append((loop.times, loop.times - skipped, late_ps, pace.error))

    def reductions(self) -> tuple[Mapping[str, Any], ...]:
        """The reduction as the report names it; nothing when no loop was left."""
        if not self._left:
            return ()
        late_ps = sum(error * passed_ps for _, _, passed_ps, error in self._left)
        return ({"name": "tile loops", "loops": len(self._left), "periods": sum(times for times, _, _, _ in self._left),
                 "simulated": sum(kept for _, kept, _, _ in self._left),
                 "passed_s": sum(passed_ps for _, _, passed_ps, _ in self._left) / PS_PER_S,
                 "error_estimate_pct": round(100 * late_ps / max(1, self.run.told_ps), 4),
                 "premise": f"units came to the periods that were seen at one pace, known within {MOST_ERROR:.1%}; it stayed so"},)


def _add(counts: dict[str, int], name: str, more: int) -> None:
    counts[name] = counts.get(name, 0) + more
