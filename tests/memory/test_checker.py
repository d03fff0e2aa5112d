"""The checker finds every violation that is planted, and none in what the controllers issue."""

from __future__ import annotations

import numpy as np
import pytest
from tilesim.memory.address import parse_mapping
from tilesim.memory.checker import BUS, EDGE, STATE, Checker
from tilesim.memory.controller import PRESETS, ControllerConfig, replay, tables_for
from tilesim.memory.standard import Memory, evaluate, load_memory, shipped
from tilesim.sim.errors import ConfigError

MEMORIES = sorted(path.stem for path in shipped("memories").glob("*.yaml"))
TREE = ("channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank")
CONTROLLERS = {
    **PRESETS,
    "closed": ControllerConfig(scheduler="fcfs", page_policy="closed"),
    "capped": ControllerConfig(row_hits_first=True, row_hit_cap=4, page_policy="timeout", page_timeout_cycles=60,
                               refresh_postponed_max=8),
}


def stream(memory: Memory, rule_index: int, gap: int) -> np.ndarray:
    """The window's *after* commands and one *before* of a rule, the first and the last *gap* cycles apart."""
    rule, organisation = memory.standard.rules[rule_index], memory.organisation
    names = list(memory.standard.commands)
    size = {level: organisation.level_sizes[level] for level in TREE}
    other = 0
    if rule.sibling:                     # the other end of the rule: a bank in the next node of the level
        other = int(np.prod([size[level] for level in TREE[TREE.index(rule.level) + 1:]], dtype=np.int64))
    rows = [(i, names.index(rule.after[0]), 0, 5) for i in range(rule.window)]
    rows.append((gap, names.index(rule.before[0]), other, 5))
    return np.array(rows, np.int64)


def findings(checker: Checker, log: np.ndarray) -> set[int]:
    return {violation.rule for violation in checker.check(log)}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_planted_violation_of_every_rule_is_found(name: str) -> None:
    """One cycle too early is found; exactly in time is not (tight on both sides)."""
    memory = load_memory(name)
    checker = Checker(memory.standard, memory.organisation, memory.ticks)
    for index, rule in enumerate(memory.standard.rules):
        wait = evaluate(rule.wait, memory.ticks)
        if (rule.sibling and memory.organisation.level_sizes[rule.level] == 1) or wait <= rule.window:
            continue
        assert index in findings(checker, stream(memory, index, wait - 1)), (name, rule)
        assert index not in findings(checker, stream(memory, index, wait)), (name, rule)


def test_states_buses_and_edges_are_judged() -> None:
    memory = load_memory("hbm3-6400")
    names = list(memory.standard.commands)
    checker = Checker(memory.standard, memory.organisation, memory.ticks)
    act, read = names.index("ACT"), names.index("RD")
    assert STATE in findings(checker, np.array([[1, read, 0, 5]]))                          # no row is open
    assert STATE in findings(checker, np.array([[1, act, 0, 5], [201, read, 0, 6]]))        # another row is open
    assert STATE in findings(checker, np.array([[1, act, 0, 5], [501, act, 0, 6]]))         # a row is open already
    assert EDGE in findings(checker, np.array([[2, act, 0, 5]]))                            # falling edge
    assert BUS in findings(checker, np.array([[1, act, 0, 5], [1, act, 32, 5]]))            # one row bus for both pseudo-channels
    assert not findings(checker, np.array([[1, act, 0, 5], [65, read, 0, 5]]))


def run_random(memory: Memory, controller: ControllerConfig, requests: int, seed: int) -> tuple[np.ndarray, int]:
    """(command log, violations) of random traffic with bursts of locality, 40 % writes."""
    rng = np.random.default_rng(seed)
    bursts = memory.organisation.channel_bytes // memory.organisation.bytes_per_burst
    start = rng.integers(0, bursts - 8, requests)
    mapping = parse_mapping(memory.address_mapping, memory.organisation)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapping, controller)
    run = replay(tables, start, np.zeros(requests, np.int64), rng.random(requests) < 0.4,
                 count=rng.integers(1, 8, requests), log_commands=40 * requests)
    return run.log, len(Checker(memory.standard, memory.organisation, memory.ticks).check(run.log))


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("name", MEMORIES)
def test_controllers_break_no_rule(name: str, controller: str) -> None:
    memory = load_memory(name)
    if CONTROLLERS[controller].scheduler == "banked" and memory.standard.by_role("activate_2"):
        with pytest.raises(ConfigError, match="two-part activates"):
            run_random(memory, CONTROLLERS[controller], 4, seed=1)
        return
    log, violations = run_random(memory, CONTROLLERS[controller], 400, seed=1)
    assert len(log) > 400
    assert violations == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMORIES)
def test_no_violation_in_a_hundred_million_commands(name: str) -> None:
    """All memories together: 10**8 commands of random traffic."""
    memory, wanted, seen, seed = load_memory(name), 10**8 // len(MEMORIES) + 1, 0, 0
    while seen < wanted:
        log, violations = run_random(memory, memory.controller if seed % 2 else PRESETS["ramulator"], 60_000, seed)
        assert violations == 0
        seen, seed = seen + len(log), seed + 1
