"""Every controller serves every request, also where reads and writes meet at few addresses and queues are tiny."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.memory import layout as at
from tilesim.memory.address import parse_mapping
from tilesim.memory.controller import PRESETS, ControllerConfig, replay, tables_for
from tilesim.memory.standard import load_memory
from tilesim.sim.errors import ConfigError

DDR4 = load_memory("ddr4-2400")
CONTROLLERS = {
    **PRESETS,
    "banked": ControllerConfig(scheduler="banked", keep_order=False),
    "shallow": ControllerConfig(scheduler="banked", keep_order=False, bank_queue=1, read_queue=2, write_queue=2),
    "no watermark": ControllerConfig(write_low_watermark=0),
    "one slot": ControllerConfig(read_queue=1, write_queue=1, merge_writes=True, keep_order=False),
}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(CONTROLLERS)), seed=st.integers(0, 10**6), hot=st.integers(1, 500), gap=st.integers(1, 40),
       writes=st.sampled_from([0.2, 0.5, 0.8]))
def test_every_request_is_served(name: str, seed: int, hot: int, gap: int, writes: float) -> None:
    controller, rng = CONTROLLERS[name], np.random.default_rng(seed)
    mapping = parse_mapping(DDR4.address_mapping, DDR4.organisation)
    tables = tables_for(DDR4.standard, DDR4.organisation, DDR4.ticks, mapping, controller)
    tick, write = np.cumsum(rng.integers(0, gap, 300)), rng.random(300) < writes
    run = replay(tables, rng.integers(0, hot, 300), tick, write, log_commands=10_000)
    columns = run.command_counts["RD"] + run.command_counts["WR"]
    assert columns + run.merged == 300
    assert run.row_hits + run.row_misses + run.row_conflicts == columns
    assert len(run.log) == sum(run.command_counts.values())
    assert (np.diff(run.log[:, at.L_CYCLE]) >= 0).all()


def test_conflicts_of_bank_queues_are_counted_once() -> None:
    """Ten rows of one bank in turn: the first finds it closed, each other the row before it."""
    mapping = parse_mapping("RoBaBgRaCo", DDR4.organisation)
    tables = tables_for(DDR4.standard, DDR4.organisation, DDR4.ticks, mapping, CONTROLLERS["banked"])
    row = DDR4.organisation.banks * DDR4.organisation.bursts_per_row
    run = replay(tables, np.arange(10) * row, np.zeros(10, np.int64), np.zeros(10, bool))
    assert (run.row_hits, run.row_misses, run.row_conflicts) == (0, 1, 9)


@pytest.mark.parametrize(("memory", "limit"), [("ddr5-4800", 4), ("ddr4-2400", 8)])
def test_no_more_refreshes_are_owed_than_the_standard_allows(memory: str, limit: int) -> None:
    device = load_memory(memory)
    mapping = parse_mapping(device.address_mapping, device.organisation, device.channels)
    tables_for(device.standard, device.organisation, device.ticks, mapping, ControllerConfig(refresh_postponed_max=limit))
    with pytest.raises(ConfigError, match=f"lets {limit} refreshes"):
        tables_for(device.standard, device.organisation, device.ticks, mapping, ControllerConfig(refresh_postponed_max=limit + 1))
