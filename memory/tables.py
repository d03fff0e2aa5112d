"""A memory and a controller as the flat arrays that the kernels obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import layout as at
from .standard import DramStandard, Organisation, Role, Rule, evaluate

Int64Array = npt.NDArray[np.int64]
#: Levels of a channel's tree, from the channel down; a bank's flat number packs them most significant first.
TREE = ("channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank")
_ROLES: tuple[tuple[int, Role], ...] = (
    (at.P_ACT, "activate"), (at.P_ACT2, "activate_2"), (at.P_PRE, "precharge"), (at.P_PREA, "precharge_all"),
    (at.P_RD, "read"), (at.P_WR, "write"), (at.P_REFAB, "refresh_all"), (at.P_REFPB, "refresh_bank"),
    (at.P_CAS_RD, "sync_read"), (at.P_CAS_WR, "sync_write"),
)


#: Reads that may share bursts of waiting ones; each is accepted without room in the queue, so more must be refused at some point.
_TWIN_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Tables:
    """What the kernels need to know of one device under one controller; shared by all of its channels."""

    params: Int64Array
    rules: Int64Array
    first_rule: Int64Array
    segments: Int64Array
    commands: tuple[str, ...]

    def new_states(self, channels: int) -> Int64Array:
        """The state of *channels* channels that have just come out of initialisation: all banks closed, nothing queued."""
        p = self.params
        state = np.zeros(int(p[at.P_STATE_WORDS]), np.int64)
        for offset, words in ((at.P_O_HEAD, 2), (at.P_O_TAIL, 2), (at.P_O_HIT, 2), (at.P_O_MISS, 2), (at.P_O_BUSY_AT, 2),
                              (at.P_O_ACTIVE, 1), (at.P_O_OPEN_ROW, 1), (at.P_O_PIM_ROW, 1)):
            state[p[offset]:p[offset] + words * p[at.P_BANKS]] = -1
        state[p[at.P_O_QUEUE]:p[at.P_O_QUEUE] + 4 * p[at.P_BANKS]] = -1
        state[p[at.P_O_HISTORY]:p[at.P_O_OPEN_ROW]] = -1
        for rule in self.rules:
            if rule[at.R_HISTORY] >= 0:
                nodes = int(p[at.P_BANKS]) >> int(rule[at.R_NODE_SHIFT])
                ring = int(p[at.P_O_HISTORY] + rule[at.R_HISTORY])
                state[ring:ring + nodes * (int(rule[at.R_WINDOW]) + 1):int(rule[at.R_WINDOW]) + 1] = 0
        slots = int(p[at.P_SLOTS])
        state[p[at.P_O_FREE]:p[at.P_O_FREE] + slots] = np.arange(slots)
        state[at.S_FREE] = slots
        state[p[at.P_O_MISS_KEY]:p[at.P_O_MISS_KEY] + 2 * p[at.P_BANKS]] = at.NO_KEY
        state[at.S_NEXT_REFRESH] = p[at.P_REFI] if p[at.P_REFI] > 0 else at.NEVER
        state[at.S_SPLIT_BANK] = -1
        state[at.S_LAST_ADMIT] = state[at.S_HEAD_CHECKED] = -1
        return np.tile(state, (channels, 1))


def _shift(size: int, what: str) -> int:
    if size & (size - 1):
        raise ValueError(f"{what} is {size}; the flat bank numbering needs a power of two")
    return size.bit_length() - 1


def level_shifts(organisation: Organisation) -> dict[str, int]:
    """For each level, how far a flat bank number is shifted to give the node of that level."""
    shifts, below = {}, 0
    for level in reversed(TREE):
        shifts[level] = below
        below += _shift(organisation.level_sizes[level], level)
    return shifts


def compile_tables(
    standard: DramStandard, organisation: Organisation, timing: Mapping[str, int], *, segments: Int64Array, xors: int,
    controller: Mapping[int, int],
) -> Tables:
    """The arrays for *standard* with *timing* (in ticks); *controller* gives the parameters P_SCHEDULER and after."""
    params = np.zeros(at.P_SIZE, np.int64)
    names = tuple(standard.commands)
    number = {name: i for i, name in enumerate(names)}
    shifts = level_shifts(organisation)
    banks, commands = organisation.banks, len(names)
    params[at.P_BANKS], params[at.P_COMMANDS] = banks, commands
    params[at.P_GROUP_SHIFT] = shifts["bank_group"]
    params[at.P_GROUPS] = banks >> shifts["bank_group"]
    params[at.P_SCOPE_SHIFT] = shifts[standard.refresh_level]
    params[at.P_SCOPES] = banks >> shifts[standard.refresh_level]
    for index, role in _ROLES:
        name = standard.by_role(role)
        params[index] = -1 if name is None else number[name]
    params[at.P_READ_LATENCY] = timing["tCL"] + timing["tBL"]
    params[at.P_WRITE_LATENCY] = timing["tCWL"] + timing["tBL"]
    params[at.P_BURST] = timing["tBL"]
    params[at.P_REFI] = timing["tREFI"]
    params[at.P_SPLIT_WINDOW] = evaluate(standard.split_activate_window, timing)
    post = standard.data_clock_post
    params[at.P_WCK_POST] = -1 if post is None else evaluate(post, timing)
    params[at.P_DUAL_BUS] = standard.dual_bus
    params[at.P_ALIGN_COLUMN] = params[at.P_ALIGN_ROW] = standard.half_clock_ticks
    for index, value in controller.items():
        params[index] = value
    # A write that merges ends when it is admitted, one a cycle; reads of one address end all at once.
    params[at.P_MIN_COLUMN_GAP] = 0 if params[at.P_MERGE_READS] else 1 if params[at.P_MERGE] else max(
        1, timing["tBL"] // organisation.pseudo_channels)
    params[at.P_LOOKAHEAD] = 1 if params[at.P_MERGE] or params[at.P_MERGE_READS] else (
        timing["tBL"] + min(timing["tCL"], timing["tCWL"]))
    params[at.P_SEGMENTS], params[at.P_XORS] = len(segments) - xors, xors
    rows = _rule_rows(standard, timing, shifts, number, banks, used_commands(params))
    history_words = sum((banks >> key.node) * (key.window + 1) for key in rows if key.window > 1)
    _place(params, history_words)
    _couple(params, rows, banks)
    longest = max(rows.values(), default=0)
    if banks > 1 << at.BANK_BITS or longest >= at.WAIT_LIMIT:
        raise ValueError(f"a channel of {banks} banks, or a timing of {longest} ticks, is more than the scheduler's keys hold")
    rules, first, waits = _pack_rules(rows, params)
    return Tables(np.concatenate((params, waits)), rules, first, segments, names)


def used_commands(params: Int64Array) -> set[int]:
    """The commands that this controller may issue; rules for others cost time and bind nothing."""
    used = {int(params[index]) for index, _ in _ROLES}
    if params[at.P_PER_BANK]:
        used.discard(int(params[at.P_REFAB]))
    else:
        used.discard(int(params[at.P_REFPB]))
    return used - {-1}


@dataclass(frozen=True, slots=True, order=True)
class _Key:
    """What makes two rules the same but for their wait. Shifts turn a bank's number into its node."""

    issued: int
    section: int
    kind: int
    scoped: bool                         # the target addresses a whole scope
    target: int
    node: int
    parent: int
    window: int


def _rule_rows(
    standard: DramStandard, timing: Mapping[str, int], shifts: Mapping[str, int], number: Mapping[str, int], banks: int,
    used: set[int],
) -> dict[_Key, int]:
    """The rules between used commands, each once with its longest wait."""
    rows: dict[_Key, int] = {}
    scope_shift = shifts[standard.refresh_level]
    whole = {n for name, n in number.items() if standard.commands[name].scope in ("rank", "channel")}
    for rule in standard.rules:
        wait = evaluate(rule.wait, timing)
        node, parent = shifts[rule.level], _parent_shift(rule.level, shifts, banks)
        if rule.sibling and node == parent:
            continue                             # an only child has no siblings
        for after in rule.after:
            for before in rule.before:
                issued, target = number[after], number[before]
                if issued in used and target in used:
                    key = _key(rule, issued, target, whole, node, parent, scope_shift)
                    rows[key] = max(rows.get(key, wait), wait)
    return rows


def _key(rule: Rule, issued: int, target: int, whole: set[int], node: int, parent: int, scope_shift: int) -> _Key:
    """Where one rule acts: on a bank, on all that lies in a node, or on what lies beside it."""
    window = 1 if rule.sibling else rule.window
    section = at.SECTION_OTHER if window > 1 else at.SECTION_NODE
    if target in whole:
        return _Key(issued, section, at.KIND_NODE, True, target, max(node, scope_shift), 0, window)
    if rule.level == "bank":
        if rule.sibling:
            return _Key(issued, at.SECTION_OTHER, at.KIND_SIBLING_BANKS, False, target, 0, parent, window)
        if issued in whole:
            return _Key(issued, at.SECTION_OTHER, at.KIND_SCOPE_BANKS, False, target, 0, 0, window)
        return _Key(issued, section if window > 1 else at.SECTION_BANK, at.KIND_BANK, False, target, 0, 0, window)
    if issued in whole:
        node = max(node, scope_shift)
    if rule.sibling:
        return _Key(issued, at.SECTION_NODE, at.KIND_SIBLINGS, False, target, node, parent, 1)
    return _Key(issued, section, at.KIND_NODE, False, target, node, 0, window)


def _couple(params: Int64Array, rows: Mapping[_Key, int], banks: int) -> None:
    """How far a command of one bus moves all commands of the other; partial effects make the buses coupled."""
    columns = {int(params[i]) for i in (at.P_RD, at.P_WR)}
    requested = {int(params[i]) for i in (at.P_ACT, at.P_PRE)}
    channel = _shift(banks, "banks")
    for key, wait in rows.items():
        if key.scoped or key.section == at.SECTION_BANK:
            continue
        for after, before, index in ((columns, requested, at.P_COLUMN_TO_ROW), (requested, columns, at.P_ROW_TO_COLUMN)):
            if key.issued in after and key.target in before:
                if key.section == at.SECTION_NODE and key.kind == at.KIND_NODE and key.node == channel:
                    params[index] = max(int(params[index]), wait)
                elif wait > 0:
                    params[at.P_COUPLED] = 1


def _parent_shift(level: str, shifts: Mapping[str, int], banks: int) -> int:
    """The shift of the next wider level that has more than one node below it, or the whole channel."""
    wider = TREE[:TREE.index(level)]
    return shifts[wider[-1]] if wider else _shift(banks, "banks")


#: A wait that never binds.
_NO_WAIT = -at.NEVER


def _pack_rules(rows: Mapping[_Key, int], params: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """The rules as rows, for each command the first row of each section, and the tables of waits of section 1.

    What readiness is kept for: row commands for each bank, column commands for each group, commands to a scope for each scope.
    """
    count = np.zeros(int(params[at.P_COMMANDS]) * at.SECTIONS + 1, np.int64)
    history = 0
    packed: list[tuple[int, int, _Key, int]] = []
    tables: list[Int64Array] = []
    above: dict[tuple[int, int], list[tuple[_Key, int]]] = {}
    for key, wait in rows.items():
        if key.section == at.SECTION_NODE:
            above.setdefault((key.issued, key.target), []).append((key, wait))
        else:
            packed.append((key.issued, key.section, key, wait))
    tabled = [(issued, at.SECTION_NODE, rules[0][0], 0) for (issued, _), rules in above.items()]
    lines = []
    for issued, section, key, wait in sorted(packed + tabled):
        base, unit = _place_of(key, params)
        node, ring = key.node, -1
        if section == at.SECTION_NODE:
            rules = above[issued, key.target]
            node = max(max(rule.node, rule.parent) for rule, _ in rules)
            wait = at.P_SIZE + sum(len(table) for table in tables)
            tables.append(_waits(rules, node, unit, params))
        elif key.window > 1:
            ring = history
            history += (int(params[at.P_BANKS]) >> key.node) * (key.window + 1)
        lines.append((base, wait, node, node - unit, key.parent, key.window, ring, key.kind, key.target))
        count[issued * at.SECTIONS + section + 1] += 1
    return np.array(lines, np.int64).reshape(-1, at.R_SIZE), np.cumsum(count), np.concatenate([*tables, np.zeros(0, np.int64)])


def _place_of(key: _Key, params: Int64Array) -> tuple[int, int]:
    """Where the readiness of the key's target stands in the state row, and the shift from a bank to its entry there."""
    banks, groups, scopes = (int(params[i]) for i in (at.P_BANKS, at.P_GROUPS, at.P_SCOPES))
    if key.scoped:
        return int(params[at.P_O_SCOPE_READY]) + key.target * scopes, int(params[at.P_SCOPE_SHIFT])
    columns = {int(params[i]) for i in (at.P_RD, at.P_WR, at.P_CAS_RD, at.P_CAS_WR)}
    if key.kind in (at.KIND_NODE, at.KIND_SIBLINGS) and key.target in columns:
        return int(params[at.P_O_GROUP_READY]) + key.target * groups, int(params[at.P_GROUP_SHIFT])
    return int(params[at.P_O_BANK_READY]) + key.target * banks, 0


def _waits(rules: list[tuple[_Key, int]], node: int, unit: int, params: Int64Array) -> Int64Array:
    """[group that the command went to, flattened with entry of its node] → cycles until the target may follow there."""
    group_shift = int(params[at.P_GROUP_SHIFT])
    table = np.full((int(params[at.P_GROUPS]), 1 << (node - unit)), _NO_WAIT, np.int64)
    for group in range(len(table)):
        bank = group << group_shift
        entry_banks = ((bank >> node) << node) + (np.arange(table.shape[1]) << unit)
        for rule, wait in rules:
            inside = entry_banks >> rule.node == bank >> rule.node
            if rule.kind == at.KIND_SIBLINGS:
                inside = ~inside & (entry_banks >> rule.parent == bank >> rule.parent)
            table[group, inside] = np.maximum(table[group, inside], wait)
    return table.ravel()


def _place(params: Int64Array, history_words: int) -> None:
    """Give every variable part of the state row its offset."""
    banks, groups, scopes = (int(params[i]) for i in (at.P_BANKS, at.P_GROUPS, at.P_SCOPES))
    commands = int(params[at.P_COMMANDS])
    reads, writes = int(params[at.P_READ_DEPTH]), int(params[at.P_WRITE_DEPTH])
    slots = reads + writes + banks * max(1, int(params[at.P_BANK_DEPTH])) + 1
    slots += _TWIN_SLOTS if params[at.P_MERGE_READS] else 0
    params[at.P_SLOTS] = slots
    sizes = (
        (at.P_O_BANK_READY, commands * banks), (at.P_O_GROUP_READY, commands * groups),
        (at.P_O_SCOPE_READY, commands * scopes), (at.P_O_HISTORY, history_words), (at.P_O_OPEN_ROW, banks),
        (at.P_O_PIM_ROW, banks), (at.P_O_ACTIVE, banks), (at.P_O_HITS_SERVED, banks), (at.P_O_LAST_USE, banks),
        (at.P_O_HEAD, 2 * banks), (at.P_O_TAIL, 2 * banks), (at.P_O_HIT, 2 * banks), (at.P_O_MISS, 2 * banks),
        (at.P_O_BUSY, 2 * banks), (at.P_O_BUSY_AT, 2 * banks), (at.P_O_ACTIVE_LIST, banks), (at.P_O_NEXT, slots),
        (at.P_O_PREV, slots), (at.P_O_SLOT_BANK, slots), (at.P_O_SLOT_ROW, slots), (at.P_O_SLOT_COL, slots),
        (at.P_O_SLOT_AGE, slots), (at.P_O_SLOT_TICK, slots), (at.P_O_SLOT_DESC, slots), (at.P_O_SLOT_WRITE, slots),
        (at.P_O_SLOT_SEEN, slots), (at.P_O_FREE, slots), (at.P_O_PRIORITY, 64), (at.P_O_OPEN_BANKS, scopes),
        (at.P_O_OPEN_SINCE, scopes), (at.P_O_OPEN_CYCLES, scopes), (at.P_O_OWED, scopes), (at.P_O_NEXT_BANK, scopes),
        (at.P_O_COUNT, commands), (at.P_O_MISS_KEY, 2 * banks), (at.P_O_HELD, banks),
        (at.P_O_TWIN, slots), (at.P_O_QUEUE, 5 * banks),
    )
    offset = at.S_SCALARS
    for index, words in sizes:
        params[index] = offset
        offset += words
    params[at.P_STATE_WORDS] = offset
