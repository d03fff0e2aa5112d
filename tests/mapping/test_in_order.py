"""In-order units, the channel that fills its gaps, and the shortening of regular runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.mapping.in_order import Channel, InOrderUnits, NotSteadyError, steady_total


def test_a_unit_works_in_order_and_waits() -> None:
    units = InOrderUnits()
    assert units.run("a", 5) == 5
    assert units.run("a", 5, (20,)) == 25
    assert units.run("b", 1) == 1
    assert (units.busy, units.end) == ({"a": 10, "b": 1}, 25)


def test_a_later_transfer_uses_a_gap_and_may_be_spread() -> None:
    channel = Channel()
    channel.transfer(10)
    channel.transfer(10, (30,))                       # leaves 10–30 idle
    assert channel.transfer(5, (12,)) == 17
    assert channel.transfer(20) == 45                 # 10–12, 17–30, and 5 more after 40


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 500)), min_size=1, max_size=30))
def test_a_channel_carries_no_two_transfers_at_a_time(transfers: list[tuple[int, int]]) -> None:
    channel = Channel()
    ends = [channel.transfer(cycles, (after,)) for cycles, after in transfers]
    assert all(end >= cycles + after for end, (cycles, after) in zip(ends, transfers, strict=True))
    first = min(after for _, after in transfers)
    assert max(ends) >= first + sum(cycles for cycles, _ in transfers)


def test_a_steady_run_is_extended_and_an_unsteady_one_refused() -> None:
    assert steady_total(lambda i: 7.0 + 3 * i, 1000, 4) == pytest.approx(3007)
    assert steady_total(lambda i: float(i * i), 6, 4) == 36
    with pytest.raises(NotSteadyError):
        steady_total(lambda i: float(i * i), 1000, 4)
