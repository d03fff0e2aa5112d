"""The checker finds every violation that is planted, and none in what the controllers issue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tilesim.memory.address import parse_mapping
from tilesim.memory.checker import BUS, EDGE, REFRESH, STATE, Checker
from tilesim.memory.controller import PRESETS, ControllerConfig, replay, tables_for
from tilesim.memory.standard import Memory, Rule, evaluate, load_memory, shipped
from tilesim.sim.errors import ConfigError

MEMORIES = sorted(path.stem for path in shipped("memories").glob("*.yaml"))
TREE = ("channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank")
CONTROLLERS = {
    **PRESETS,
    "closed": ControllerConfig(scheduler="fcfs", page_policy="closed"),
    "capped": ControllerConfig(row_hits_first=True, row_hit_cap=4, page_policy="timeout", page_timeout_cycles=60,
                               refresh_postponed_max=4),
}


def sizes(memory: Memory, level: str) -> tuple[int, int]:
    """(banks of one node of *level*, banks of its parent, the next wider node that holds more)."""
    spans = {name: int(np.prod([memory.organisation.level_sizes[below] for below in TREE[TREE.index(name) + 1:]], dtype=np.int64))
             for name in TREE}
    wider = [spans[name] for name in TREE[:TREE.index(level)] if spans[name] > spans[level]]
    return spans[level], min(wider, default=memory.organisation.banks)


def places(memory: Memory, rule: Rule) -> list[tuple[int, int]]:
    """Pairs of banks (of *after*, of *before*) that the rule holds between: first and last node, both ends of it, either side."""
    node, parent = sizes(memory, rule.level)
    last, banks = memory.organisation.banks - node, memory.organisation.banks
    if not rule.sibling:
        return sorted({(0, 0), (0, node - 1), (node - 1, 0), (last, banks - 1), (banks - 1, last)})
    return sorted({(0, node), (node, 0), (0, parent - 1), (parent - 1, 0), (banks - 1, last - 1), (last - 1, banks - 1)})


def stream(memory: Memory, rule: Rule, commands: tuple[str, str], banks: tuple[int, int], gap: int) -> np.ndarray:
    """A window of the first of *commands* and one of the second, the first and the last *gap* cycles apart."""
    after, before = (list(memory.standard.commands).index(name) for name in commands)
    rows = [(i, after, banks[0], 5) for i in range(rule.window)]
    return np.array([*rows, (gap, before, banks[1], 5)], np.int64)


def findings(checker: Checker, log: np.ndarray) -> set[int]:
    return {violation.rule for violation in checker.check(log)}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_planted_violation_of_every_rule_is_found(name: str) -> None:
    """For each pair of commands of each rule, at both ends of the channel: a cycle too early is found, exactly in time is not."""
    memory = load_memory(name)
    checker = Checker(memory.standard, memory.organisation, memory.ticks)
    planted = 0
    for index, rule in enumerate(memory.standard.rules):
        wait = evaluate(rule.wait, memory.ticks)
        if (rule.sibling and memory.organisation.level_sizes[rule.level] == 1) or wait < rule.window:
            continue
        for commands in itertools.product(rule.after, rule.before):
            for banks in places(memory, rule):
                assert index in findings(checker, stream(memory, rule, commands, banks, wait - 1)), (rule, commands, banks)
                assert index not in findings(checker, stream(memory, rule, commands, banks, wait)), (rule, commands, banks)
                planted += 1
    assert planted >= 2 * len(memory.standard.rules)


@pytest.mark.parametrize("name", MEMORIES)
def test_a_rule_holds_nobody_else_back(name: str) -> None:
    """Commands to single banks outside the rule's node (for siblings: inside it, or under another parent) go freely."""
    memory = load_memory(name)
    checker, commands = Checker(memory.standard, memory.organisation, memory.ticks), memory.standard.commands
    for index, rule in enumerate(memory.standard.rules):
        node, parent = sizes(memory, rule.level)
        wait, banks = evaluate(rule.wait, memory.ticks), memory.organisation.banks
        others = {node - 1, parent} if rule.sibling else {node, banks - 1} - {node - 1}
        others -= {banks}                # there is no such bank
        for pair in itertools.product(rule.after, rule.before):
            if wait < rule.window or any(commands[command].scope != "bank" for command in pair):
                continue
            for other in others:
                assert index not in findings(checker, stream(memory, rule, pair, (0, other), wait - 1)), (rule, pair, other)


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


def test_owed_refreshes_are_judged() -> None:
    """DDR4, tREFI 9360: one owed is the one just due; without refresh, or one cycle after the second due, two are."""
    memory = load_memory("ddr4-2400")
    names, interval = list(memory.standard.commands), memory.ticks["tREFI"]
    checker = Checker(memory.standard, memory.organisation, memory.ticks)
    ref, pre = names.index("REF"), names.index("PREA")

    def owed(cycles: list[int], end: int, most: int | None) -> list[int]:
        log = np.array([*([cycle, ref, 0, -1] for cycle in cycles), [end, pre, 0, -1]], np.int64)
        return [found.cycle for found in checker.check(log, refresh_debt_max=most) if found.rule == REFRESH]

    assert interval == 9360
    assert owed([], 10 * interval, None) == []
    assert owed([], 10 * interval, 8) == [9 * interval, 10 * interval]
    assert owed([], 10 * interval - 1, 9) == []
    assert owed([interval + 5, 2 * interval + 5], 2 * interval + 9, 1) == []
    assert owed([2 * interval], 2 * interval + 9, 1) == []
    assert owed([2 * interval + 1], 2 * interval + 9, 1) == [2 * interval]
    assert owed([1000, 2000], 4 * interval, 1) == [4 * interval]                           # two early ones are credit


def test_refreshes_of_another_scope_or_bank_do_not_count() -> None:
    """HBM3: both pseudo-channels owe their own; refreshing bank 0 over and over leaves the others' cells to fade."""
    memory = load_memory("hbm3-6400")
    names, ticks = list(memory.standard.commands), memory.ticks
    checker = Checker(memory.standard, memory.organisation, memory.ticks)
    whole, single = names.index("REFab"), names.index("REFpb")

    def owing(rows: list[tuple[int, int, int]], per_bank: bool) -> set[int]:
        log = np.array([(cycle, command, bank, -1) for cycle, command, bank in rows], np.int64)
        found = checker.check(log, 10_000, refresh_debt_max=1, per_bank=per_bank)
        return {violation.bank for violation in found if violation.rule == REFRESH}

    every, each = ticks["tREFI"], ticks["tREFIpb"]
    assert owing([(k * every + 1, whole, 0) for k in range(1, 6)], per_bank=False) == {32}
    assert owing([(k * every + i, whole, 32 * i) for k in range(1, 6) for i in range(2)], per_bank=False) == set()
    turns = [(k * each + i, single, 32 * i + (k - 1) % 32) for k in range(1, 100) for i in range(2)]
    assert owing(turns, per_bank=True) == set()
    assert owing([(cycle, command, bank // 32 * 32) for cycle, command, bank in turns], per_bank=True) == {
        bank for bank in range(64) if bank % 32}


@pytest.mark.parametrize("postponed", [0, 8])
@pytest.mark.parametrize(("name", "refresh"), [
    ("ddr4-2400", "all_bank"), ("hbm3-6400", "all_bank"), ("hbm3-6400", "per_bank"), ("lpddr5-6400", "per_bank")])
def test_controllers_owe_no_more_refreshes_than_may_be_postponed(name: str, refresh: str, postponed: int) -> None:
    memory = load_memory(name)
    options = ControllerConfig(refresh=refresh, refresh_postponed_max=postponed)
    for seed in range(2):
        log, _ = run_random(memory, options, 8000, seed)
        interval = memory.ticks["tREFIpb" if refresh == "per_bank" else "tREFI"]
        assert int(log[-1, 0]) > 10 * interval
        checker = Checker(memory.standard, memory.organisation, memory.ticks)
        assert not checker.check(log, refresh_debt_max=postponed + 1, per_bank=refresh == "per_bank")
        assert bool(checker.check(log, refresh_debt_max=postponed, per_bank=refresh == "per_bank"))      # and it is reached


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
