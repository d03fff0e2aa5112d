"""The compiled kernels against their uncompiled source, and rules of the scheduler seen from outside."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.memory import layout as at
from tilesim.memory.address import parse_mapping
from tilesim.memory.advance import advance
from tilesim.memory.controller import PRESETS, ControllerConfig, Replay, descriptors, replay, tables_for
from tilesim.memory.standard import load_memory

CASES = [(memory, preset) for memory in ("ddr4-2400", "hbm3-6400", "lpddr5-6400") for preset in ("ramulator", "dramsim3")]


def serve(
    memory_name: str, controller: ControllerConfig, start: np.ndarray, write: np.ndarray, tick: np.ndarray | None = None,
) -> Replay:
    memory = load_memory(memory_name)
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapping, controller)
    return replay(tables, start, np.zeros_like(start) if tick is None else tick, write, log_commands=20 * len(start))


def digest(memory: str, preset: str) -> str:
    """A hash of every command of a short mixed run."""
    if memory == "lpddr5-6400" and preset == "dramsim3":
        preset = "ramulator"                                 # that scheduler knows no two-part activate
    rng = np.random.default_rng(7)
    run = serve(memory, PRESETS[preset], rng.integers(0, 5000, 300), rng.random(300) < 0.4)
    return hashlib.sha256(run.log.tobytes()).hexdigest()


def test_uncompiled_source_gives_the_same_commands() -> None:
    script = (f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_kernel as t\n"
              "for memory, preset in t.CASES: print(t.digest(memory, preset))")
    plain = subprocess.run([sys.executable, "-c", script], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True,
                           text=True, check=True)
    assert plain.stdout.split() == [digest(memory, preset) for memory, preset in CASES]


def test_a_waiting_write_serves_later_requests_to_its_address() -> None:
    """Reads elsewhere keep the controller in read mode; with merging the write then absorbs a read and a write."""
    start = np.array([0, 4096, 8192, 12288, 9, 9, 9])
    write = np.array([False, False, False, False, True, False, True])
    run = serve("ddr4-2400", ControllerConfig(merge_writes=True), start, write)
    assert run.merged == 2
    assert run.command_counts["WR"] == 1
    assert run.command_counts["RD"] == 4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scheduler=st.sampled_from(["fr-fcfs", "fcfs", "banked"]), hits=st.booleans(),
       hot=st.integers(1, 40))
def test_no_request_overtakes_one_it_depends_on(seed: int, scheduler: str, hits: bool, hot: int) -> None:
    """To one address, reads and writes go out as they came (but for reads among themselves)."""
    rng = np.random.default_rng(seed)
    start, write = rng.integers(0, hot, 300) * 97, rng.random(300) < 0.5
    run = serve("ddr4-2400", ControllerConfig(scheduler=scheduler, row_hits_first=hits and scheduler == "fr-fcfs"), start, write)
    names = list(run.command_counts)
    columns = [entry for entry in run.log if names[entry[at.L_COMMAND]] in ("RD", "WR")]
    assert sorted(entry[at.L_REQUEST] for entry in columns) == list(range(300))
    latest: dict[tuple[int, int, int], tuple[int, int]] = {}      # newest of all, newest write, by place
    for entry in columns:
        place, age = (int(entry[at.L_BANK]), int(entry[at.L_ROW]), int(entry[at.L_COLUMN])), int(entry[at.L_REQUEST])
        is_write = bool(write[age])
        newest_any, newest_write = latest.get(place, (-1, -1))
        assert age > (newest_any if is_write else newest_write)
        latest[place] = (max(newest_any, age), max(newest_write, age) if is_write else newest_write)


@pytest.mark.parametrize("scheduler", ["fr-fcfs", "fcfs", "banked"])
def test_every_request_is_served_once(scheduler: str) -> None:
    rng = np.random.default_rng(3)
    write = rng.random(3000) < 0.5
    run = serve("ddr4-2400", ControllerConfig(scheduler=scheduler), rng.integers(0, 1 << 20, 3000), write)
    assert run.command_counts["WR"] == write.sum()
    assert run.command_counts["RD"] == (~write).sum()


def test_first_ready_serves_a_hit_before_an_older_conflict() -> None:
    """Three reads of one bank: row 0, row 1, row 0 again. In order takes two row cycles more."""
    memory = load_memory("ddr4-2400")
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    rows = mapping.encode(np.zeros(3, np.int64), np.array([0, 1, 0]), np.array([0, 0, 1]))
    served = {}
    for scheduler in ("fr-fcfs", "fcfs"):
        run = serve("ddr4-2400", ControllerConfig(scheduler=scheduler), rows, np.zeros(3, bool))
        served[scheduler] = (run.last_data_cycle, run.command_counts["ACT"])
    assert served["fr-fcfs"][1] == 2
    assert served["fcfs"][1] == 3
    assert served["fr-fcfs"][0] < served["fcfs"][0]


def test_a_closed_page_policy_closes_rows_that_nobody_waits_for() -> None:
    tick = np.array([0, 2000])
    memory = load_memory("ddr4-2400")
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    start = mapping.encode(np.zeros(2, np.int64), np.zeros(2, np.int64), np.arange(2))      # two columns of one row
    kept = serve("ddr4-2400", ControllerConfig(), start, np.zeros(2, bool), tick)
    closed = serve("ddr4-2400", ControllerConfig(page_policy="closed"), start, np.zeros(2, bool), tick)
    assert kept.command_counts["ACT"] == 1
    assert closed.command_counts["ACT"] == 2
    assert closed.command_counts["PRE" if "PRE" in closed.command_counts else "PREpb"] >= 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), memory_name=st.sampled_from(["ddr4-2400", "hbm3-6400"]), hot=st.sampled_from([6, 1 << 12]),
       controller=st.sampled_from([ControllerConfig(), ControllerConfig(merge_writes=True), PRESETS["dramsim3"]]),
       transfers=st.integers(1, 4), lengths=st.sampled_from([1, 40]), behind=st.integers(1, 400))
def test_no_channel_passes_the_end_of_a_transfer(
    seed: int, memory_name: str, hot: int, controller: ControllerConfig, transfers: int, lengths: int, behind: int,
) -> None:
    """Who waits for a transfer may ask for more when it ends: until then no channel may have run on, however many wait behind."""
    rng, channels, memory = np.random.default_rng(seed), 3, load_memory(memory_name)
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapping, controller)
    states, parts = tables.new_states(channels), rng.integers(1, behind + 1, transfers)
    queued = np.zeros((channels, int(parts.sum()), at.D_SIZE), np.int64)
    for channel in range(channels):
        rows = [descriptors(rng.integers(0, hot, n), rng.integers(1, lengths + 1, n), np.full(n, 1 + 9 * x),
                            np.full(n, x % 2 == 1), x) for x, n in enumerate(parts)]
        queued[channel] = np.concatenate(rows)
    states[:, at.S_DESC_TAIL] = queued.shape[1]
    table = np.stack((channels * parts, np.zeros_like(parts)), axis=1)
    no_log, bound = np.zeros((1, 0, at.L_SIZE), np.int64), np.zeros((transfers, 2), np.int64)
    alive = set(range(transfers))
    while alive:
        assert advance(states, tables, queued, table, no_log, bound, at.NEVER)
        ended = {x for x in alive if table[x, at.X_LEFT] == 0}
        assert states[:, at.S_NOW].max() <= min(table[x, at.X_FINISH] for x in ended)
        alive -= ended


def test_requests_of_a_channel_cost_the_same_whatever_their_number() -> None:
    """Channels are rows: nothing in one call depends on how many there are but the loop over them."""
    memory = load_memory("ddr4-2400")
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapping, PRESETS["ramulator"])
    states = tables.new_states(16)
    assert states.shape == (16, tables.params[at.P_STATE_WORDS])
    assert (states == states[0]).all()
