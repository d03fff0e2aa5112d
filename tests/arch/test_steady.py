"""When a loop may be left: lines through times, and each reason for which a loop is not steady."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.arch.steady import KNOWN_AGREEMENT, LONG_RECORDS, MOST_ERROR, Note, Pace, line_through, pace_of, wanted_of

PERIOD_PS, INTERVAL_PS, PERIODS, RECORDS = 1_000_000, 4_000_000, 120, 10
LANES, STREAM, STORE = "vpu", "dma.stream", "dma.store"


@given(st.floats(1, 1000), st.lists(st.floats(-1, 1), min_size=5, max_size=200))
def test_the_slope_is_off_by_no_more_than_straying_allows(slope: float, strays: list[float]) -> None:
    """Values within 1 of a line: the slope that is found is within 3 / n of its slope."""
    at = np.arange(len(strays), dtype=np.float64)
    found = line_through(at, slope * at + np.array(strays))
    assert abs(found.slope - slope) <= 3 / at[-1] + 1e-9 * slope


def test_the_bound_on_the_slope_is_tight() -> None:
    """Values that stray to one side in the first half and to the other in the second are the worst case: 3 A / n but for 1 / n²."""
    at = np.arange(1000, dtype=np.float64)
    found = line_through(at, np.where(at < 500, -1.0, 1.0))
    assert found.slope == pytest.approx(3 / at[-1], rel=0.01)
    assert found.error == pytest.approx(found.slope, rel=0.01)


def test_a_bend_is_an_error_of_the_slope() -> None:
    at = np.arange(100, dtype=np.float64)
    assert line_through(at, np.maximum(at, 1.1 * at - 5)).error >= 0.05


class Seen:
    """A loop of which a prefetching queue runs five periods ahead of the lanes; each test spoils one thing."""

    def __init__(self) -> None:
        self.lanes_ps = [PERIOD_PS * (5 + k) for k in range(PERIODS)]
        self.stream_ps = [PERIOD_PS * k for k in range(PERIODS + 5)]
        self.in_flight = [3] * (PERIODS + 5)
        self.others = [7] * (PERIODS + 5)
        self.owed_ps = [0.0] * (PERIODS + 5)
        self.energy = [10.0 * k for k in range(PERIODS + 5)]
        self.at_work = frozenset({LANES, STREAM})
        self.earlier = {LANES: 0, STREAM: 0, STORE: 7}

    def pace(self, known: Pace | None = None) -> Pace | None:
        notes = [Note(k, self.stream_ps[k], {("busy", LANES): k}, {LANES: max(0, k - 5), STREAM: k, STORE: self.others[k]},
                      {STREAM: self.in_flight[k], STORE: 0}, self.at_work,
                      {"refresh_owed_ps": self.owed_ps[k], "energy": self.energy[k], "at": k})
                 for k in range(2, PERIODS + 5, 6)]
        came = {LANES: self.lanes_ps, STREAM: self.stream_ps[:notes[-1].period + 1]}
        return pace_of(came, notes, INTERVAL_PS, spent, known, self.earlier, wanted_of(RECORDS))


def spent(before: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
    free = last["energy"] - before["energy"]
    return free, free + 90.0 * (last["at"] - before["at"])


def test_a_steady_loop_has_a_pace() -> None:
    pace = Seen().pace()
    assert pace is not None
    assert pace.period_ps == pytest.approx(PERIOD_PS)
    assert pace.error <= 1e-9


def test_of_units_that_came_as_far_it_is_no_chance_whose_pace_is_taken() -> None:
    """Sets of names are in another order in every process: of two units as far, one 0.1 % slower, both orders take the same."""
    lanes = [PERIOD_PS * k for k in range(PERIODS)]
    stream = [at_ps + at_ps // 1000 for at_ps in lanes]
    notes = [Note(k, stream[k], {}, {LANES: k, STREAM: k}, {STREAM: 3}, frozenset(), {"energy": 10.0 * k, "at": k})
             for k in range(2, PERIODS, 6)]
    one, other = (pace_of(came, notes, INTERVAL_PS, spent, None, {LANES: 0, STREAM: 0}, wanted_of(RECORDS))
                  for came in ({LANES: lanes, STREAM: stream}, {STREAM: stream, LANES: lanes}))
    assert one is not None
    assert other is not None
    assert one.period_ps == other.period_ps


def test_a_loop_whose_transfers_begin_to_fill_a_buffer_is_not_steady() -> None:
    """The queue comes to its periods 1 % faster than the lanes: it will have to wait, and then both may go at another pace."""
    seen = Seen()
    seen.stream_ps = [int(at_ps * 0.99) for at_ps in seen.stream_ps]
    assert seen.pace() is None


def test_a_loop_that_slows_down_is_not_steady() -> None:
    seen = Seen()
    seen.lanes_ps = [at_ps + (k > 90) * (k - 90) * PERIOD_PS // 50 for k, at_ps in enumerate(seen.lanes_ps)]
    assert seen.pace() is None


def test_a_shaken_loop_is_steady_once_it_was_seen_for_long() -> None:
    """A period in four takes half as long again: the pace is known to 0.3 % only after some hundred periods."""
    def shaken(periods: int) -> Pace | None:
        seen = Seen()
        seen.lanes_ps = [PERIOD_PS * k + PERIOD_PS // 2 * (k // 4) for k in range(periods)]
        seen.stream_ps = [at_ps - 5 * PERIOD_PS for at_ps in seen.lanes_ps]
        notes = [Note(k, seen.stream_ps[k], {}, {LANES: k, STREAM: k + 5}, {STREAM: 3}, frozenset(), {"energy": 10.0 * k, "at": k})
                 for k in range(0, periods, max(1, periods // 20))]
        earlier = {LANES: 0, STREAM: 0}
        return pace_of({LANES: seen.lanes_ps, STREAM: seen.stream_ps}, notes, INTERVAL_PS, spent, None, earlier, wanted_of(RECORDS))

    assert shaken(60) is None
    long = shaken(1200)
    assert long is not None
    assert long.period_ps == pytest.approx(1.125 * PERIOD_PS, rel=MOST_ERROR)
    assert long.error <= MOST_ERROR


def few_long(thousandths: tuple[int, ...], known: Pace | None = None) -> Pace | None:
    """The pace of a loop of long periods (of 25 intervals of refresh) that took so many thousandths of the usual time."""
    lanes = [sum(thousandths[:k]) * PERIOD_PS // 10 for k in range(len(thousandths) + 1)]
    stream = [at_ps - PERIOD_PS for at_ps in lanes]
    notes = [Note(k, at_ps, {}, {LANES: k, STREAM: k}, {STREAM: 3}, frozenset(), {"energy": 10.0 * k, "at": k})
             for k, at_ps in enumerate([*stream[1:], stream[-1] + 100 * PERIOD_PS])]
    return pace_of({LANES: lanes, STREAM: stream}, notes, INTERVAL_PS, spent, known, {LANES: 0, STREAM: 0}, wanted_of(LONG_RECORDS))


def test_two_long_periods_are_enough() -> None:
    """… behind one that fills the pipelines, where they take the same time; one where that was seen before."""
    pace = few_long((1300, 1000, 1001))
    assert pace is not None
    assert pace.period_ps == pytest.approx(100.05 * PERIOD_PS)
    assert few_long((1300, 1000)) is None
    assert few_long((1300, 1000, 1007)) is None
    again = few_long((1300, 1001), pace)
    assert again is not None
    assert again.period_ps == pace.period_ps
    assert few_long((1300, 1010), pace) is None


def test_a_loop_is_not_left_while_others_are_at_work() -> None:
    seen = Seen()
    seen.others = [7 + k for k in range(PERIODS + 5)]
    assert seen.pace() is None
    seen = Seen()
    seen.at_work |= {STORE}
    assert seen.pace() is None


def test_a_loop_is_not_left_before_what_lies_before_it_has_ended() -> None:
    seen = Seen()
    seen.earlier[STREAM] = PERIODS + 1
    assert seen.pace() is None


def test_a_loop_whose_transfers_pile_up_is_not_steady() -> None:
    seen = Seen()
    seen.in_flight = [3 + k // 4 for k in range(PERIODS + 5)]
    assert seen.pace() is None


def test_refreshes_that_are_postponed_are_time_not_paid_for() -> None:
    seen = Seen()
    seen.owed_ps = [0.002 * PERIOD_PS * k for k in range(PERIODS + 5)]
    pace = seen.pace()
    assert pace is not None
    assert pace.error == pytest.approx(0.002, rel=0.15)           # the notes lie some periods within what is seen
    seen.owed_ps = [0.004 * PERIOD_PS * k for k in range(PERIODS + 5)]
    assert seen.pace() is None


def test_a_loop_whose_memory_spends_more_and_more_is_not_steady() -> None:
    """A tenth of the energy is not that of columns; it doubles in the last fourth of what is seen."""
    seen = Seen()
    seen.energy = [10.0 * k + max(0, k - 95) * 10.0 for k in range(PERIODS + 5)]
    assert seen.pace() is None


def test_a_known_pace_is_taken_only_where_it_agrees() -> None:
    before, last = (Note(k, k * PERIOD_PS, {}, {}, {}, frozenset(), {}) for k in (10, 20))
    near = Pace(PERIOD_PS * (1 + 0.5 * KNOWN_AGREEMENT), 0.0, before, last)
    found = Seen().pace(near)
    assert found is not None
    assert (found.before, found.period_ps) == (before, near.period_ps)
    assert found.error == pytest.approx(0.5 * KNOWN_AGREEMENT, rel=0.02)
    far = Seen().pace(Pace(PERIOD_PS * (1 + 2 * KNOWN_AGREEMENT), 0.0, before, last))
    assert far is not None
    assert far.period_ps == pytest.approx(PERIOD_PS)
