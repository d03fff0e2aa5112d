"""An independent judge of command streams: every rule of a standard, bank states, buses, clock edges, owed refreshes.

It shares nothing with the scheduler but the table of rules. The scheduler pushes earliest cycles *forward* when a command
issues; the checker looks *back* from each command at the last ones that its rules name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from .standard import DramStandard, Organisation, evaluate

Int64Array = npt.NDArray[np.int64]
_TREE = ("channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank")
_NEVER = -(1 << 40)
#: What is judged beside the rules of the table; negative numbers stand for them in the findings.
STATE, BUS, EDGE, DEADLINE, DATA_CLOCK, REFRESH = -1, -2, -3, -4, -5, -6
_WORDS = {
    STATE: "the bank's state does not allow it", BUS: "its command bus is taken in that cycle",
    EDGE: "it may only start on a rising clock edge", DEADLINE: "the second activate comes too late",
    DATA_CLOCK: "the data clock is not synchronised", REFRESH: "more refreshes are owed than may be",
}
_ROLES = ("activate", "activate_2", "precharge", "precharge_all", "read", "write", "refresh_all", "refresh_bank", "sync_read",
          "sync_write", "read_precharge", "write_precharge", "other")
_ACT, _ACT2, _PRE, _PREA, _RD, _WR, _REFA, _REFB, _SYNC_R, _SYNC_W, _RDA, _WRA = range(12)


@dataclass(frozen=True, slots=True)
class Violation:
    """One command that came too early or where it must not."""

    position: int                        # in the stream
    cycle: int
    command: str
    bank: int
    rule: int                            # index in the standard's rules, or STATE, BUS, EDGE …
    text: str


class Checker:
    """Judges streams of one channel of a device."""

    def __init__(self, standard: DramStandard, organisation: Organisation, timing: Mapping[str, int]) -> None:
        self.standard, self.organisation = standard, organisation
        self.names = tuple(standard.commands)
        self._timing = dict(timing)
        sizes = [organisation.level_sizes[level] for level in _TREE]
        #: For each level, how many banks one of its nodes holds.
        self._span = np.array([int(np.prod(sizes[i + 1:])) for i in range(len(_TREE))], np.int64)
        self._banks = organisation.banks
        scope_level = _TREE.index(standard.refresh_level)
        self._scope_span = int(self._span[scope_level])
        rows = [
            (self.names.index(before), self.names.index(after), _TREE.index(rule.level), evaluate(rule.wait, timing),
             1 if rule.sibling else rule.window, int(rule.sibling), i)
            for i, rule in enumerate(standard.rules) for after in rule.after for before in rule.before]
        self._rules = np.array(sorted(rows), np.int64).reshape(-1, 7)
        self._first = np.searchsorted(self._rules[:, 0], np.arange(len(self.names) + 1)).astype(np.int64)
        window = int(self._rules[:, 4].max()) if len(self._rules) else 1
        self._last = np.zeros((len(_TREE), len(self.names), self._banks, window + 1), np.int64)
        commands = [standard.commands[name] for name in self.names]
        self._role = np.array([_ROLES.index(command.role) for command in commands], np.int64)
        self._whole = np.array([command.scope in ("rank", "channel") for command in commands], np.bool_)
        post = standard.data_clock_post
        self._options = np.array([
            standard.dual_bus, standard.half_clock_ticks, evaluate(standard.split_activate_window, timing),
            -1 if post is None else evaluate(post, timing), timing["tCL"] + timing["tBL"], timing["tCWL"] + timing["tBL"],
        ], np.int64)

    def check(self, log: Int64Array, limit: int = 1000, *, refresh_debt_max: int | None = None,
              per_bank: bool = False) -> list[Violation]:
        """The first *limit* violations in *log*: rows of (cycle, command, bank, row, …) in order of time, from cycle 0 on.

        With *refresh_debt_max*, no rank (or pseudo-channel) may owe more refreshes than that, the one just due included: of all
        its banks every tREFI or, *per_bank*, of one bank every tREFIpb. Refreshes that come early count as credit without a bound.
        """
        found = np.zeros((limit, 2), np.int64)
        self._last[:] = _NEVER
        open_row = np.full(self._banks, -1, np.int64)
        count = _judge(np.ascontiguousarray(log), self._rules, self._first, self._span, self._scope_span, self._last, open_row,
                       self._role, self._whole, self._options, found)
        violations = [self._violation(log, int(position), int(rule)) for position, rule in found[:count]]
        if refresh_debt_max is not None:
            violations += self._owed(log, refresh_debt_max, per_bank)
        return sorted(violations, key=lambda violation: violation.position)[:limit]

    def _owed(self, log: Int64Array, most: int, per_bank: bool) -> list[Violation]:
        """Each due refresh that finds too many owed: by scope, and of single banks also by bank."""
        cycles, commands, banks = (log[:, column] for column in range(3))
        whole, single = (np.isin(commands, np.flatnonzero(self._role == role)) for role in (_REFA, _REFB))
        span, interval = self._scope_span, self._timing["tREFIpb" if per_bank else "tREFI"]
        found: list[Violation] = []
        for low in range(0, self._banks, span):
            mine = (banks >= low) & (banks < low + span)
            if not per_bank:
                found += self._late(cycles, cycles[whole & mine], interval, most, low, f"banks {low} to {low + span - 1}")
                continue
            # A refresh of all banks stands for one of each.
            issued = np.sort(np.concatenate((cycles[single & mine], np.repeat(cycles[whole & mine], span))))
            found += self._late(cycles, issued, interval, most, low, f"banks {low} to {low + span - 1}")
            for bank in range(low, low + span):
                own = cycles[(whole & mine) | (single & (banks == bank))]
                found += self._late(cycles, own, interval * span, -(-most // span), bank, f"bank {bank}")
        return found

    def _late(self, cycles: Int64Array, issued: Int64Array, interval: int, most: int, bank: int, whose: str) -> list[Violation]:
        """The dues, one every *interval* up to the last of *cycles*, at which more than *most* are not among *issued*."""
        due = np.arange(interval, int(cycles[-1]) + 1 if len(cycles) else 0, interval)
        debt = np.arange(1, len(due) + 1) - np.searchsorted(issued, due, side="right")
        late = np.flatnonzero(debt > most)
        return [Violation(int(np.searchsorted(cycles, due[i])), int(due[i]), "refresh", bank, REFRESH,
                          f"cycle {due[i]}: {whose}: {_WORDS[REFRESH]}: {debt[i]}, allowed {most}") for i in late]

    def _violation(self, log: Int64Array, position: int, rule: int) -> Violation:
        cycle, command, bank = (int(value) for value in log[position, :3])
        name = self.names[command]
        if rule < 0:
            why = _WORDS[rule]
        else:
            told = self.standard.rules[rule]
            why = f"{told.level}: {'/'.join(told.after)} -> {name} needs {told.wait}"
        return Violation(position, cycle, name, bank, rule, f"cycle {cycle}: {name} to bank {bank}: {why}")


@njit(cache=True, nogil=True)
def _judge(
    log: Int64Array, rules: Int64Array, first: Int64Array, span: Int64Array, scope_span: int, last: Int64Array,
    open_row: Int64Array, role: Int64Array, whole: npt.NDArray[np.bool_], options: Int64Array, found: Int64Array,
) -> int:
    """Fill *found* with (position, rule) of what is wrong; gives how many."""
    banks, window = open_row.shape[0], last.shape[3] - 1
    dual, half, split_window, post, read_latency, write_latency = options
    count, data_clock_until = 0, 0
    bus_cycle = np.full(2, _NEVER)
    split_until = np.full(banks, _NEVER)
    for i in range(log.shape[0]):
        now, command, bank, row = log[i, 0], log[i, 1], log[i, 2], log[i, 3]
        kind = role[command]
        low, size = bank, 1
        if whole[command]:
            low, size = bank // scope_span * scope_span, scope_span
        is_column = kind in (_RD, _WR, _RDA, _WRA)
        wrong = 0
        bus = 1 if dual and is_column else 0
        if now <= bus_cycle[bus]:
            wrong = BUS
        bus_cycle[bus] = now
        if half and now % 2 == 0 and kind != _PRE and kind != _PREA:
            wrong = EDGE
        for b in range(low, low + size):
            if kind == _ACT:
                if open_row[b] != -1:
                    wrong = STATE
                open_row[b] = -2 if split_window > 0 else row
                split_until[b] = now + split_window
            elif kind == _ACT2:
                if open_row[b] != -2:
                    wrong = STATE
                elif now > split_until[b]:
                    wrong = DEADLINE
                open_row[b] = row
            elif is_column:
                if open_row[b] != row:
                    wrong = STATE
                if kind in (_RDA, _WRA):
                    open_row[b] = -1
            elif kind in (_PRE, _PREA):
                if open_row[b] == -2 or (kind == _PRE and open_row[b] < 0):
                    wrong = STATE
                open_row[b] = -1
            elif (kind in (_REFA, _REFB)) and open_row[b] != -1:
                wrong = STATE
        if post >= 0 and (is_column or kind in (_SYNC_R, _SYNC_W)):
            latency = read_latency if kind in (_RD, _RDA) else write_latency
            if kind in (_SYNC_R, _SYNC_W):
                data_clock_until = max(data_clock_until, now + 2)
            elif now >= data_clock_until:
                wrong = DATA_CLOCK
            else:
                data_clock_until = max(data_clock_until, now + latency + post)
        if wrong != 0 and count < found.shape[0]:
            found[count, 0], found[count, 1] = i, wrong
            count += 1
        for r in range(first[command], first[command + 1]):
            after, level, wait, back, sibling, rule = rules[r, 1], rules[r, 2], rules[r, 3], rules[r, 4], rules[r, 5], rules[r, 6]
            latest = _latest(last, after, level, back, sibling, low, size, span, window, banks)
            if now - latest < wait and count < found.shape[0]:
                found[count, 0], found[count, 1] = i, rule
                count += 1
        _note(last, command, low, size, span, window, now)
    return count


@njit(cache=True, nogil=True)
def _latest(
    last: Int64Array, after: int, level: int, back: int, sibling: int, low: int, size: int, span: Int64Array, window: int,
    banks: int,
) -> int:
    """When *after* was issued for the *back*-th last time at the nodes of *level* that hold banks [low, low + size)."""
    width = span[level]
    begin, end = low // width, (low + size - 1) // width + 1
    latest = _NEVER
    if sibling:
        # The nodes beside it: level sizes may be one, so the parent is the next wider node that holds more banks.
        parent = banks
        for wider in range(level - 1, -1, -1):
            if span[wider] > width:
                parent = span[wider]
                break
        own_begin, own_end = begin, end
        begin = low // parent * parent // width
        end = begin + parent // width
        for node in range(begin, end):
            if node < own_begin or node >= own_end:
                issued = last[level, after, node, window]
                if issued > 0:
                    latest = max(latest, last[level, after, node, (issued - 1) % window])
        return int(latest)
    for node in range(begin, end):
        issued = last[level, after, node, window]
        if issued >= back:
            latest = max(latest, last[level, after, node, (issued - back) % window])
    return int(latest)


@njit(cache=True, nogil=True)
def _note(last: Int64Array, command: int, low: int, size: int, span: Int64Array, window: int, now: int) -> None:
    """Remember that *command* went to banks [low, low + size): once for every node that holds any of them."""
    for level in range(last.shape[0]):
        width = span[level]
        for node in range(low // width, (low + size - 1) // width + 1):
            issued = max(0, last[level, command, node, window])
            last[level, command, node, issued % window] = now
            last[level, command, node, window] = issued + 1
