"""Write draining seen from outside: it begins above the high watermark and ends below the low one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tilesim.memory import layout as at
from tilesim.memory.address import parse_mapping
from tilesim.memory.controller import replay, tables_for
from tilesim.memory.options import ControllerConfig
from tilesim.memory.standard import load_memory

MEMORY = load_memory("ddr4-2400")


def groups(writes: int, **options: float) -> list[tuple[str, int]]:
    """Runs of RD and WR in the log: 20 reads of one bank (a row cycle each) come first, then *writes* to other banks."""
    mapping = parse_mapping(MEMORY.address_mapping, MEMORY.organisation)
    order = np.arange(writes)
    start = np.concatenate((mapping.encode(np.zeros(20, np.int64), np.arange(20), np.zeros(20, np.int64)),
                            mapping.encode(1 + order % 15, 100 + order, np.zeros(writes, np.int64))))
    tables = tables_for(MEMORY.standard, MEMORY.organisation, MEMORY.ticks, mapping, ControllerConfig(**options))
    run = replay(tables, start, np.zeros_like(start), np.arange(len(start)) >= 20, log_commands=1000)
    names = list(run.command_counts)
    columns = [names[command] for command in run.log[:, at.L_COMMAND] if names[command] in ("RD", "WR")]
    return [(name, len(list(run))) for name, run in itertools.groupby(columns)]


@pytest.mark.parametrize(("low", "left"), [(0.2, 6), (0.5, 15), (0.05, 1)])
def test_draining_leaves_what_lies_below_the_low_watermark(low: float, left: int) -> None:
    """Of 32 entries, draining ends when fewer than low · 32 wait: 6.4, 16 and 1.6. They go when no read waits any more."""
    assert groups(26, write_low_watermark=low)[-1] == ("WR", left)


def test_draining_begins_above_the_high_watermark() -> None:
    """25 writes are not more than 0.8 · 32 = 25.6, and wait for all reads; 26 are, and do not."""
    assert groups(25) == [("RD", 20), ("WR", 25)]
    assert len(groups(26)) > 2
