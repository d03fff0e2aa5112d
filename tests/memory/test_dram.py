"""The co-simulated DRAM: closed forms of latency and rate, conservation, channel classes equal to the exact run."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import simpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tilesim.memory import channels
from tilesim.memory import layout as at
from tilesim.memory.dram import DramConfig, DramSystem
from tilesim.memory.kernel_equal import find_equals
from tilesim.memory.options import ControllerConfig
from tilesim.memory.power import command_energy
from tilesim.memory.standard import load_memory
from tilesim.memory.traffic import Traffic
from tilesim.sim.errors import ConfigError

QUIET = ControllerConfig(refresh="none")


def config(memory: str = "hbm3-6400", **more: Any) -> DramConfig:
    return DramConfig(type="dram", memory=memory, **more)


Jobs = list[tuple[int, list[tuple[int, int]], bool]]


def run(dram_config: DramConfig, jobs: Jobs, *, exact: bool = False) -> tuple[list[int], DramSystem]:
    """End times of transfers (start, ranges, write) that are submitted at their start."""
    env = simpy.Environment()
    dram = DramSystem(env, dram_config, exact=exact)
    ends = [0] * len(jobs)

    def job(index: int, start_ps: int, ranges: list[tuple[int, int]], write: bool) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(start_ps)
        yield dram.transfer(ranges, write)
        ends[index] = cast(int, env.now)                    # SimPy's stubs allow fractions too

    for index, (start_ps, ranges, write) in enumerate(jobs):
        env.process(job(index, start_ps, ranges, write))
    env.run()
    return ends, dram


@pytest.mark.parametrize(("memory", "activate_to_read"), [("ddr4-2400", "tRCD"), ("hbm3-6400", "tRCDRD")])
def test_idle_read_takes_trcd_cl_and_burst(memory: str, activate_to_read: str) -> None:
    """Plus the stated on-chip part; HBM3's two command edges wait for the next rising one (one tick each)."""
    device = load_memory(memory)
    ticks, half = device.ticks, device.standard.half_clock_ticks
    first = 1 if half else 0                                # the first rising edge
    column = first + ticks[activate_to_read] + (2 if half else 0)
    ends, _ = run(config(memory, on_chip_latency_ps=60_000, controller=QUIET), [(0, [(0, 32)], False)])
    assert ends == [device.clock.ps_of(column + ticks["tCL"] + ticks["tBL"]) + 60_000]


def test_streaming_reads_reach_the_pin_rate_less_refresh() -> None:
    """At least 90 % of the pins; what lacks is refresh (stated by the memory itself) and the first activate."""
    total = 32 << 20
    jobs = [(0, [(i << 20, 1 << 20)], False) for i in range(total >> 20)]
    ends, dram = run(config(), jobs)
    share = total / (max(ends) * 1e-12) / dram.peak_bytes_per_s
    assert share >= 0.90
    quiet_ends, quiet = run(config(controller=QUIET), jobs)
    without = total / (max(quiet_ends) * 1e-12) / quiet.peak_bytes_per_s
    assert without >= 0.985
    assert without - share <= 1.5 * dram.details(max(ends))["refresh_share"]


def test_writes_among_reads_pay_turnarounds() -> None:
    jobs = [(0, [(i << 20, 1 << 20)], i % 2 == 1) for i in range(16)]
    ends, dram = run(config(), jobs)
    reads_only, _ = run(config(), [(start, ranges, False) for start, ranges, _ in jobs])
    assert max(ends) > max(reads_only)
    assert dram.counters()["turnarounds"] > 0


def test_bytes_are_conserved_and_bursts_are_whole() -> None:
    ranges = [(5, 100), (1000, 1), (4096, 64), (4160, 64)]
    _, dram = run(config(), [(0, ranges, False), (0, [(1 << 20, 31)], True)])
    assert dram.read_bytes == 229
    assert dram.written_bytes == 31
    # 5..105 touches 4 bursts of 32 B, 1000 one, 4096..4224 four (joined); the write one.
    assert dram.read_burst_bytes == 32 * 9
    assert dram.written_burst_bytes == 32
    counts = dram.counters()
    assert counts["commands"]["RD"] == counts["reads"] == 9
    assert counts["commands"]["WR"] == counts["writes"] == 1


def test_a_transfer_of_nothing_is_done_at_once_and_one_beyond_the_memory_is_refused() -> None:
    env = simpy.Environment()
    dram = DramSystem(env, config())
    assert dram.transfer([(0, 0)], write=False).triggered
    with pytest.raises(ValueError, match="leaves the memory"):
        dram.transfer([(dram.capacity_bytes - 1, 2)], write=False)


jobs_strategy = st.lists(
    st.tuples(st.integers(0, 3_000_000),
              st.lists(st.tuples(st.integers(0, 1 << 24), st.integers(1, 40_000)), min_size=1, max_size=3), st.booleans()),
    min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(jobs=jobs_strategy, phases=st.sampled_from([1, 3]), refresh=st.sampled_from(["all_bank", "per_bank"]))
def test_channel_classes_equal_the_exact_run(jobs: Jobs, phases: int, refresh: str) -> None:
    """Ragged ranges and staggered refresh split the classes; every end time and every count stays the same."""
    options = ControllerConfig(refresh_phases=phases, refresh=refresh)
    ends, dram = run(config(controller=options), jobs)
    exact_ends, exact = run(config(controller=options), jobs, exact=True)
    assert ends == exact_ends
    assert dram.counters() == exact.counters()
    assert exact.channels.classes == dram.config.channels
    assert dram.reduction()["classes"] <= dram.config.channels


CONTROLLERS = (
    ControllerConfig(refresh_phases=2, refresh="per_bank"),
    ControllerConfig(refresh="per_bank", refresh_postponed_max=8, refresh_blocks_channel=False, row_hits_first=True),
    ControllerConfig(refresh_postponed_max=4, page_policy="timeout", page_timeout_cycles=200),
    ControllerConfig(refresh="none", row_hits_first=True, row_hit_cap=3),
    ControllerConfig(refresh_phases=3, scheduler="fcfs", page_policy="closed", merge_writes=True),
    ControllerConfig(scheduler="banked", merge_writes=True, merge_reads=True, keep_order=False),
)
#: A transfer: (rounds of all channels skipped, first channel, channels or None for whole rounds, rounds, written).
Move = tuple[int, int, int | None, int, bool]
rounds = st.sampled_from([0, 1, 2, 64, 4096])
moves = st.one_of(
    st.tuples(rounds, st.integers(0, 20), st.integers(1, 9), st.just(1), st.booleans()),
    st.tuples(rounds, st.just(0), st.none(), st.integers(1, 4), st.booleans()),
    st.tuples(rounds, st.just(0), st.none(), st.integers(1, 4), st.booleans()),
)
#: Until the next one, after the end or (negative: 1 less) after the start of this.
gaps_ns = st.sampled_from([0, 0, 3, 10, 20, 40, 80, 200, 500, 4_000, 10_000, -1, -4, -30])


def run_moves(dram_config: DramConfig, moved: list[tuple[Move, int]], *, exact: bool) -> tuple[list[int], DramSystem]:
    """End times of transfers that follow each other, some before the one before has ended."""
    env = simpy.Environment()
    dram = DramSystem(env, dram_config, exact=exact)
    part = dram_config.address_map().granule_bursts * dram_config.device.organisation.bytes_per_burst
    whole, ends = part * dram_config.channels, [0] * len(moved)

    def wait(event: simpy.Event, index: int) -> Generator[simpy.Event, Any, None]:
        yield event
        ends[index] = cast(int, env.now)

    def master() -> Generator[simpy.Event, Any, None]:
        for index, ((skipped, first, parts, number, write), gap_ns) in enumerate(moved):
            size = whole * number if parts is None else part * parts
            done = env.process(wait(dram.transfer([(whole * skipped + part * first, size)], write), index))
            if gap_ns >= 0:
                yield done
            yield env.timeout(1000 * (gap_ns if gap_ns >= 0 else -1 - gap_ns))

    env.process(master())
    env.run()
    return ends, dram


@settings(max_examples=80, deadline=None)
@given(moved=st.lists(st.tuples(moves, gaps_ns), min_size=3, max_size=30), controller=st.sampled_from(CONTROLLERS),
       memory=st.sampled_from(["hbm3-6400", "ddr4-2400", "lpddr5-6400", "gddr6-14000"]))
def test_channels_that_have_become_equal_are_one_class_again_and_every_count_stays(
    moved: list[tuple[Move, int]], controller: ControllerConfig, memory: str,
) -> None:
    """Equal to one class a channel: each end, count and energy, where classes are compared as often as can be."""
    try:
        some = config(memory, stacks=8 // min(8, load_memory(memory).channels), controller=controller)
        ends, exact = run_moves(some, moved, exact=True)
    except ConfigError:
        assume(False)                                   # this memory cannot be driven like that
    with mock.patch.object(channels, "_WORTH_A_LOOK", 0):
        found, dram = run_moves(some, moved, exact=False)
    assert found == ends
    end = max(ends) + 1_000_000
    details, wanted = dram.details(end), exact.details(end)
    assert details.pop("channel_classes") <= wanted.pop("channel_classes")
    assert details == wanted
    assert dram.energy_actions(end) == exact.energy_actions(end)
    assert sorted(int(c) for members in dram.channels.members for c in members) == list(range(some.channels))


def settled() -> tuple[DramSystem, int]:
    """A memory that has served reads and writes, and a cycle at which nothing is in flight."""
    moved: list[tuple[Move, int]] = [((0, 0, None, 3, True), 0), ((64, 0, None, 2, False), 4000), ((1, 0, None, 1, False), 20)]
    ends, dram = run_moves(config("hbm3-6400", stacks=2, controller=CONTROLLERS[0]), moved, exact=False)
    return dram, dram.clock.cycle_at(max(ends))


def alike(dram: DramSystem, changed: dict[int, int], now: int) -> bool:
    """Whether a channel is like another that has *changed* words at cycle *now*."""
    states = np.repeat(dram.channels.states[:1], 2, axis=0)
    for index, value in changed.items():
        states[1, index] = value
    into = np.zeros(2, np.int64)
    return bool(find_equals(states, dram.tables.params, dram.tables.rules, np.zeros(2, np.int64), now, into))


def test_classes_unite_only_where_no_later_request_could_tell_them_apart() -> None:
    """Every word that lives on parts two channels; waits that are over, counters and the places of requests do not."""
    dram, _ = settled()
    state, p = dram.channels.states[0], dram.tables.params
    now = int(state[at.S_NOW])
    assert alike(dram, {}, now)
    words = {index: int(state[index]) + 1 for index in (
        at.S_NOW, at.S_COLUMN_FROM, at.S_ROW_FROM, at.S_SPLIT_BANK, at.S_WRITE_MODE, at.S_LAST_WAS_WRITE, at.S_ROUND_ROBIN,
        at.S_DRAINING, at.S_DRAIN_HELD, at.S_NEXT_REFRESH, at.S_PRIORITY_COUNT)}
    words |= {int(p[offset]) + i: int(state[p[offset] + i]) + 1 for offset in (
        at.P_O_OPEN_ROW, at.P_O_PIM_ROW, at.P_O_OWED, at.P_O_NEXT_BANK, at.P_O_OPEN_BANKS) for i in range(int(p[at.P_SCOPES]))}
    waits = [at.S_READ_ROOM, at.S_WRITE_ROOM, at.S_WCK_UNTIL, at.S_CHAIN_READY,
             *range(int(p[at.P_O_BANK_READY]), int(p[at.P_O_HISTORY]))]
    for index, value in words.items() | {index: max(int(state[index]), now) + 1 for index in waits}.items():
        assert not alike(dram, {index: value}, now), index
    for index in [*waits, at.S_LAST_ADMIT]:
        assert alike(dram, {index: now - 1}, now) == (state[index] <= now), index
    slots = (at.P_O_SLOT_AGE, at.P_O_SLOT_DESC, at.P_O_FREE, at.P_O_COUNT, at.P_O_OPEN_CYCLES, at.P_O_OPEN_SINCE)
    for index in (at.S_ROW_HITS, at.S_READS_DONE, at.S_SEQUENCE, at.S_TAKEN, at.S_READ_LATENCY_MAX, *(p[o] for o in slots)):
        assert alike(dram, {int(index): 12345}, now), index


def test_windows_over_commands_bind_as_long_as_they_last() -> None:
    """Four activates: the ring may stand turned, and a cycle in it counts until its window is over."""
    dram, _ = settled()
    state, p = dram.channels.states[0], dram.tables.params
    now = int(state[at.S_NOW])
    rule = next(rule for rule in dram.tables.rules if rule[at.R_HISTORY] >= 0)
    ring, size = int(p[at.P_O_HISTORY] + rule[at.R_HISTORY]), int(rule[at.R_WINDOW])
    recent = [now - int(rule[at.R_WAIT]) + 1 + k for k in range(size)]
    straight = {ring: 0} | {ring + 1 + k: recent[k] for k in range(size)}
    assert not alike(dram, straight, now)
    assert alike(dram, straight | {ring + 1 + k: recent[k] - size for k in range(size)}, now)
    for index, value in straight.items():
        dram.channels.states[:, index] = value
    turned = {ring: 1} | {ring + 1 + (1 + k) % size: recent[k] for k in range(size)}
    assert alike(dram, turned, now)
    assert not alike(dram, turned | {ring: 0}, now)


@pytest.mark.parametrize("refresh", ["all_bank", "per_bank"])
def test_what_parted_the_channels_is_forgotten(refresh: str) -> None:
    """One channel is asked for a row of its own; a refresh of all banks closes it, or every channel opens others in its place."""
    device = load_memory("hbm3-6400")
    interval = device.clock.ps_of(device.ticks["tREFI"])
    whole = [(i << 22, 1 << 22) for i in range(2)]
    jobs: Jobs = [(0, [whole[0]], False), (interval, [(5 << 22, 32)], True), (12 * interval, [whole[1]], False),
                  (24 * interval, [whole[0]], False), (36 * interval, [whole[1]], False)]
    some = config(controller=ControllerConfig(refresh=refresh))
    ends, dram = run(some, jobs)
    assert (dram.channels.most, dram.channels.classes) == (2, 1)
    exact_ends, exact = run(some, jobs, exact=True)
    assert ends == exact_ends
    assert dram.counters() == exact.counters()
    assert dram.energy_actions(max(ends)) == exact.energy_actions(max(ends))
    assert dram.reduction()["used"]
    assert not exact.reduction()["used"]


def test_equal_channels_are_one_class() -> None:
    _, dram = run(config(stacks=2), [(0, [(0, 1 << 20)], False), (10**6, [(1 << 20, 1 << 20)], True)])
    assert dram.channels.classes == 1
    assert dram.reduction()["used"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), postponed=st.integers(0, 8), refresh=st.sampled_from(["all_bank", "per_bank"]))
def test_refresh_debt_stays_within_its_bound(seed: int, postponed: int, refresh: str) -> None:
    rng = np.random.default_rng(seed)
    jobs = [(int(rng.integers(0, 20_000_000)), [(int(rng.integers(0, 1 << 24)), int(rng.integers(1, 1 << 17)))],
             bool(rng.random() < 0.3)) for _ in range(12)]
    _, dram = run(config(controller=ControllerConfig(refresh_postponed_max=postponed, refresh=refresh)), jobs)
    assert dram.counters()["refreshes_owed_max"] <= postponed + 1


@settings(max_examples=25, deadline=None)
@given(jobs=jobs_strategy)
def test_no_request_is_lost_and_none_ends_before_it_could(jobs: Jobs) -> None:
    ends, dram = run(config(controller=ControllerConfig(scheduler="fr-fcfs", row_hits_first=True)), jobs)
    ticks = load_memory("hbm3-6400").ticks
    least_ps = dram.clock.ps_of(ticks["tCWL"] + ticks["tBL"])
    assert all(end - start >= least_ps for end, (start, _, _) in zip(ends, jobs, strict=True))
    counts = dram.counters()
    assert (counts["reads"] + counts["writes"]) * 32 == dram.read_burst_bytes + dram.written_burst_bytes


def test_one_read_and_its_standby_in_closed_form() -> None:
    """DDR4, no refresh: all closed until the ACT at cycle 1000, then open; one burst of tBL on the bus; 1 RD, 1 ACT."""
    device = load_memory("ddr4-2400")
    clock, ticks, energy = device.clock, device.ticks, command_energy(device)
    assert energy is not None
    start = clock.ps_of(1000)
    (end,), dram = run(config("ddr4-2400", controller=QUIET), [(start, [(0, 64)], False)])
    cycles = 1000 + ticks["tRCD"] + ticks["tCL"] + ticks["tBL"]
    assert end == clock.ps_of(cycles)
    actions = dram.energy_actions(end)
    assert {name: count for name, (count, _) in actions.items() if "standby" not in name} == {"ACT": 1, "RD": 1}
    assert actions["standby, a bank open (ps)"] == (clock.ps_of(cycles - 1000), energy.active_standby_w)
    assert actions["standby, all closed (ps)"] == (end - clock.ps_of(cycles - 1000), energy.precharge_standby_w)
    assert dram.details(end)["data_bus_busy_share"] == pytest.approx(ticks["tBL"] / cycles)


@pytest.mark.parametrize(("refresh", "name", "interval", "length", "banks"), [
    ("all_bank", "REFab", "tREFI", "tRFC", 1), ("per_bank", "REFpb", "tREFIpb", "tRFCpb", 32)])
def test_the_share_of_refresh_in_closed_form(refresh: str, name: str, interval: str, length: str, banks: int) -> None:
    """Each pseudo-channel has refreshed once an interval up to the end; a bank's refresh is its share of the pseudo-channel."""
    device = load_memory("hbm3-6400")
    ticks = device.ticks
    (end,), dram = run(config(controller=ControllerConfig(refresh=refresh)),
                       [(device.clock.ps_of(ticks[interval] * 21 // 2), [(0, 32 * 16 * 64)], False)])
    cycles = dram.clock.cycle_at(end)
    intervals = cycles // ticks[interval]
    assert 10 <= intervals <= 11
    details = dram.details(end)
    assert details["commands"][name] == intervals * 2 * 16
    assert details["refresh_share"] == pytest.approx(intervals * ticks[length] / banks / cycles)


def test_phases_stagger_the_refreshes_of_the_channels() -> None:
    """Group k of n begins k n-ths of an interval early: 0.63 intervals in, of four groups 2 and 3 have refreshed once."""
    device = load_memory("hbm3-6400")
    jobs: Jobs = [(device.clock.ps_of(device.ticks["tREFI"] * 63 // 100), [(0, 1 << 15)], False)]
    for phases, refreshed in ((1, 0), (2, 8), (4, 8), (8, 10)):
        options = ControllerConfig(refresh_phases=phases, refresh="all_bank")
        _, dram = run(config(controller=options), jobs, exact=True)
        assert dram.counters()["commands"]["REFab"] == 2 * refreshed, phases          # both pseudo-channels of a channel
        assert dram.channels.classes == 16


def test_debt_of_refreshes_reaches_what_may_be_postponed_under_load() -> None:
    """A busy channel puts refreshes off as long as it may, and no longer; what is due then counts besides."""
    jobs: Jobs = [(0, [(0, 3 << 20)], False)]
    owed = {}
    for postponed in (0, 2, 8):
        _, dram = run(config("ddr4-2400", controller=ControllerConfig(refresh_postponed_max=postponed)), jobs)
        owed[postponed] = dram.counters()["refreshes_owed_max"]
    assert owed == {0: 1, 2: 3, 8: 9}


@pytest.mark.parametrize("refresh", ["all_bank", "per_bank"])
def test_time_that_is_passed_over_owes_its_refreshes(refresh: str) -> None:
    """Twelve intervals and a bit, of two periods in which none fell: one refresh of each scope for each interval all the same."""
    _, dram = run(config(controller=ControllerConfig(refresh=refresh)), [(0, [(0, 4096)], False)])
    note, tables = dram.counted(1_000_000), dram.tables
    command = dram.config.device.standard.by_role("refresh_all" if refresh == "all_bank" else "refresh_bank")
    before = dram.counters()["commands"][command]
    passed_ps = dram.clock.ps_of(12 * int(tables.params[at.P_REFI]) + 5)
    dram.replay(note, {**note, "at_ps": note["at_ps"] + 1000}, 1, Traffic(), 2, passed_ps)
    scopes = int(tables.params[at.P_SCOPES]) * dram.config.channels
    assert 12 * scopes <= dram.counters()["commands"][command] - before <= 13 * scopes
