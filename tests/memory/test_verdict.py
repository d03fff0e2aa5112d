"""The verdict names the bound that a case was built to hit, and its pieces add up to the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tilesim.memory.controller import ControllerConfig
from tilesim.memory.patterns import Requests, make_requests
from tilesim.memory.replay import serve
from tilesim.memory.standard import load_memory
from tilesim.memory.verdict import ADVICE, Verdict, judge


def verdict(name: str, pattern: str, count: int = 3000, mapping: str | None = None, queue: int = 64, **more: Any) -> Verdict:
    memory = load_memory(name)
    requests = make_requests(pattern, count, burst_bytes=memory.organisation.bytes_per_burst,
                             capacity_bytes=memory.organisation.channel_bytes, **more)
    return judge(serve(memory, requests, ControllerConfig(read_queue=queue), channels=1, mapping=mapping, log_commands=30_000))


@pytest.mark.parametrize(("name", "pattern", "mapping", "more", "cause"), [
    ("ddr4-2400", "sequential", None, {}, "data bus"),
    ("ddr4-2400", "sequential", "RoBaBgRaCoCh", {"queue": 8}, "tCCD_L"),   # neighbours in one bank group
    ("ddr4-2400", "random", None, {}, "tFAW"),
    ("gddr6-14000", "random", None, {}, "tRRD"),
    ("lpddr4-3200", "stride", None, {"stride_bytes": 16384 * 8}, "row cycle"),
    ("ddr4-2400", "random", None, {"interval_ticks": 200.0}, "no requests"),
])
def test_the_main_cause_is_the_one_built_in(
    name: str, pattern: str, mapping: str | None, more: dict[str, Any], cause: str,
) -> None:
    found = verdict(name, pattern, mapping=mapping, **more)
    assert next(iter(found.shares())) == cause
    assert found.lines()[0].startswith(f"{cause}-bound")


@pytest.mark.parametrize("name", ["ddr5-4800", "hbm3-6400", "lpddr5-6400", "gddr7-28000", "hbm2e-3200"])
@pytest.mark.parametrize("reads", [1.0, 0.5])
def test_the_pieces_add_up_and_are_known_words(name: str, reads: float) -> None:
    found = verdict(name, "mix", 2000, read_share=reads)
    assert sum(found.cycles.values()) == found.covered_cycles == found.total_cycles
    assert set(found.cycles) <= set(ADVICE)


def test_mixed_traffic_pays_for_turnarounds() -> None:
    assert verdict("ddr4-2400", "sequential", read_share=0.5).shares()["turnarounds"] > 0.05


def test_refresh_share_is_that_of_the_standard() -> None:
    memory = load_memory("ddr4-2400")
    share = verdict("ddr4-2400", "sequential", 20_000).shares()["refresh"]
    assert share == pytest.approx(memory.ticks["tRFC"] / memory.ticks["tREFI"], rel=0.25)


def test_a_cut_log_says_so() -> None:
    memory = load_memory("ddr4-2400")
    requests: Requests = make_requests("random", 2000, burst_bytes=64, capacity_bytes=memory.organisation.channel_bytes)
    found = judge(serve(memory, requests, channels=1, log_commands=500))
    assert found.covered_cycles < found.total_cycles
    assert "first" in found.lines()[-1]


def served_by(pattern: str, interval: float = 0.0, **options: Any) -> Verdict:
    memory = load_memory("ddr4-2400")
    requests = make_requests(pattern, 3000, burst_bytes=64, capacity_bytes=memory.organisation.channel_bytes,
                             interval_ticks=interval)
    return judge(serve(memory, requests, ControllerConfig(**options), channels=1, log_commands=30_000))


def test_latency_within_the_sources_pace_is_not_the_row_cycles() -> None:
    """A request every 50 clocks, each of which opens its row anew: the source sets the pace, whatever one access takes."""
    found = served_by("sequential", 50.0, page_policy="timeout", page_timeout_cycles=20)
    assert found.shares()["no requests"] > 0.98
    assert found.shares().get("row cycle", 0.0) < 0.01


def test_a_queue_of_one_is_what_binds_where_a_deeper_one_is_faster() -> None:
    """Row cycles that a deeper queue overlaps are the queue's; with 64 entries none of the time is."""
    shallow, deep = served_by("random", read_queue=1, write_queue=1), served_by("random", read_queue=64)
    assert next(iter(shallow.shares())) == "queue full"
    assert deep.total_cycles * 3 < shallow.total_cycles
    assert deep.shares().get("queue full", 0.0) < 0.01


def test_reads_of_two_ranks_in_turn_pay_for_switches_not_turnarounds() -> None:
    memory = load_memory("ddr4-2400")
    two = memory.model_copy(update={"organisation": memory.organisation.model_copy(update={"ranks": 2})})
    requests = make_requests("sequential", 2000, burst_bytes=64, capacity_bytes=two.organisation.channel_bytes)
    found = judge(serve(two, requests, ControllerConfig(read_queue=1), channels=1, mapping="RoBaCoBgRaCh", log_commands=30_000))
    assert found.shares()["rank switches"] > 0.3
    assert "turnarounds" not in found.cycles


def test_requests_served_by_waiting_ones_do_not_shift_the_others() -> None:
    """Merged requests have no number in the log: the pace of those after them is still their sender's."""
    memory = load_memory("ddr4-2400")
    address = np.array([0, 0, 0, *(np.arange(1, 200) * 8192 * 5)], np.int64)
    tick = np.array([0, 1, 2, *(np.arange(1, 200) * 300)], np.int64)
    requests = Requests(address, np.arange(len(address)) < 3, tick)
    run = serve(memory, requests, ControllerConfig(merge_writes=True), channels=1, log_commands=30_000)
    assert run.commands["WR"] < 3
    assert judge(run).shares()["no requests"] > 0.95
