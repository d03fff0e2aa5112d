"""The compiled DRAM controller: what each cycle decides, on flat arrays, skipping cycles in which nothing can happen.

Every function here is plain Python that numba compiles; run uncompiled (``NUMBA_DISABLE_JIT=1``) it is its own reference.
Time is in integer cycles of the memory's tick. A channel is one row of state; see :mod:`tilesim.memory.layout`.

The scheduler keeps, for each bank and queue, the oldest request that wants the open row (a *hit*) and the oldest that does not
(a *miss*), so that a decision looks at busy banks, not at requests. A decision gives the cycle of the next column and of the
next row command; only an arrival or a refresh that comes before it makes it void.
"""

# The layout is the vocabulary of the kernels: its names are used bare.
# ruff: noqa: F403, F405
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from .kernel_banked import run_banked
from .kernel_parts import (
    admit,
    close_bank,
    issue_column,
    next_arrival,
    open_bank,
    pull_owed_refreshes,
    push_refreshes,
    record,
    retire_refresh,
    unlink,
    update_mode,
)
from .layout import *

Int64Array = npt.NDArray[np.int64]

#: Classes of candidates in one cycle, most urgent first. A rank is class · 2**50 + age.
_URGENT, _ACTIVE, _REFRESH, _HIT, _OTHER, _TIDY, _DEFERRED = 0, 1, 2, 3, 4, 5, 6
_CLASS = 1 << 50


@njit(cache=True, nogil=True, _nrt=False)
def scan(s: Int64Array, p: Int64Array) -> tuple[int, int, int, int, int, int, int]:
    """The next column command and the next row command: (cycle, rank, slot) and (cycle, rank, bank or slot, command).

    A row command's target is a slot (ACT, PRE for a request), or -1 - bank (refresh, page closing).
    """
    banks, groups, group_shift = p[P_BANKS], p[P_GROUPS], p[P_GROUP_SHIFT]
    bank_ready, group_ready = p[P_O_BANK_READY], p[P_O_GROUP_READY]
    open_row, active, slot_age = p[P_O_OPEN_ROW], p[P_O_ACTIVE], p[P_O_SLOT_AGE]
    read, write, precharge, activate = p[P_RD], p[P_WR], p[P_PRE], p[P_ACT]
    column_from, row_from = s[S_COLUMN_FROM], s[S_ROW_FROM]
    align_column, align_row = p[P_ALIGN_COLUMN], p[P_ALIGN_ROW]
    column_at, column_rank, column_slot = NEVER, NEVER, -1
    row_at, row_rank, row_slot, row_command = NEVER, NEVER, -1, -1

    # Requests whose row was opened for them come first, so that it is not closed before it is used.
    for k in range(s[S_ACTIVES]):
        bank = s[p[P_O_ACTIVE_LIST] + k]
        slot = s[active + bank]
        command = write if s[p[P_O_SLOT_WRITE] + slot] else read
        at = max(s[group_ready + command * groups + (bank >> group_shift)], s[bank_ready + command * banks + bank], column_from)
        if align_column:
            at |= 1
        rank = _ACTIVE * _CLASS + s[slot_age + slot]
        if at < column_at or (at == column_at and rank < column_rank):
            column_at, column_rank, column_slot = at, rank, slot

    split_bank = s[S_SPLIT_BANK]
    if split_bank >= 0:
        # The second half of an activate waits for a cycle that nobody else wants, until its deadline.
        second = p[P_ACT2]
        at = max(s[group_ready + second * groups + (split_bank >> group_shift)], s[bank_ready + second * banks + split_bank],
                 row_from)
        row_at, row_rank, row_slot, row_command = at, _DEFERRED * _CLASS, s[S_SPLIT_SLOT], second
        if at >= s[S_SPLIT_DEADLINE]:
            row_rank = _URGENT * _CLASS

    target, blocked_low, blocked_high = 0, 0, 0
    if s[S_PRIORITY_COUNT] > 0:
        target = s[p[P_O_PRIORITY] + s[S_PRIORITY_HEAD]]
        at, command, bank = _refresh_candidate(s, p, target, row_from)
        rank = _REFRESH * _CLASS
        if at < row_at or (at == row_at and rank < row_rank):
            row_at, row_rank, row_slot, row_command = at, rank, -1 - bank, command
        if p[P_REFRESH_BLOCKS]:
            return column_at, column_rank, column_slot, row_at, row_rank, row_slot, row_command
        blocked_low = bank
        blocked_high = bank + 1 if target >= 0 else bank + (1 << p[P_SCOPE_SHIFT])
    elif p[P_DUAL_BUS] == 0 and column_at == column_from:
        # A ready request in service takes the only slot; the queues are not even looked at in this cycle.
        return column_at, column_rank, column_slot, row_at, row_rank, row_slot, row_command

    update_mode(s, p)
    queue = s[S_WRITE_MODE]
    command = write if queue else read
    hit_at, miss_at = p[P_O_HIT] + queue * banks, p[P_O_MISS] + queue * banks
    busy = p[P_O_BUSY] + queue * banks
    hit_class, other_class = _OTHER * _CLASS, _OTHER * _CLASS
    if p[P_HIT_FIRST]:
        hit_class = _HIT * _CLASS
    oldest = -1
    if p[P_SCHEDULER] == SCHED_IN_ORDER:
        oldest = NEVER
        for k in range(s[S_BUSY_READ + queue]):
            oldest = min(oldest, s[slot_age + s[p[P_O_HEAD] + queue * banks + s[busy + k]]])
    cap = p[P_HIT_CAP]
    for k in range(s[S_BUSY_READ + queue]):
        bank = s[busy + k]
        if blocked_low <= bank < blocked_high:
            continue
        group = bank >> group_shift
        hit, miss = s[hit_at + bank], s[miss_at + bank]
        if hit >= 0:
            age = s[slot_age + hit]
            capped = cap > 0 and miss >= 0 and s[p[P_O_HITS_SERVED] + bank] >= cap and s[slot_age + miss] < age
            if not capped and (oldest < 0 or age == oldest):
                at = max(s[group_ready + command * groups + group], s[bank_ready + command * banks + bank], column_from)
                if align_column:
                    at |= 1
                rank = hit_class + age
                if at < column_at or (at == column_at and rank < column_rank):
                    column_at, column_rank, column_slot = at, rank, hit
        if miss >= 0:
            age = s[slot_age + miss]
            if oldest >= 0 and age != oldest:
                continue
            state = s[open_row + bank]
            if state == CLOSED:
                if split_bank >= 0:
                    continue
                at = max(s[group_ready + activate * groups + group], s[bank_ready + activate * banks + bank], row_from)
                if align_row:
                    at |= 1
                needed = activate
            elif state >= 0 and s[active + bank] < 0:
                at = max(s[group_ready + precharge * groups + group], s[bank_ready + precharge * banks + bank], row_from)
                needed = precharge
            else:
                continue
            rank = other_class + age
            if at < row_at or (at == row_at and rank < row_rank):
                row_at, row_rank, row_slot, row_command = at, rank, miss, needed
    if p[P_PAGE_TIMEOUT] >= 0:
        at, bank = _idle_row(s, p, row_from)
        rank = _TIDY * _CLASS
        if at < row_at or (at == row_at and rank < row_rank):
            row_at, row_rank, row_slot, row_command = at, rank, -1 - bank, precharge
    return column_at, column_rank, column_slot, row_at, row_rank, row_slot, row_command


@njit(cache=True, nogil=True, _nrt=False)
def _refresh_candidate(s: Int64Array, p: Int64Array, target: int, row_from: int) -> tuple[int, int, int]:
    """(cycle, command, bank) of what the refresh *target* needs next: its banks closed, then the refresh itself."""
    banks, groups, scopes = p[P_BANKS], p[P_GROUPS], p[P_SCOPES]
    split_bank = s[S_SPLIT_BANK]
    if target >= 0:                                     # one bank
        group = target >> p[P_GROUP_SHIFT]
        command = p[P_PRE] if s[p[P_O_OPEN_ROW] + target] >= 0 else p[P_REFPB]
        if s[p[P_O_ACTIVE] + target] >= 0 or split_bank == target:
            return NEVER, command, target
        at = max(s[p[P_O_GROUP_READY] + command * groups + group], s[p[P_O_BANK_READY] + command * banks + target], row_from)
        if command == p[P_REFPB] and p[P_ALIGN_ROW]:
            at |= 1
        return at, command, target
    scope = -1 - target
    first = scope << p[P_SCOPE_SHIFT]
    last = first + (1 << p[P_SCOPE_SHIFT])
    if first <= split_bank < last:
        return NEVER, p[P_PREA], first
    if s[p[P_O_OPEN_BANKS] + scope] > 0:
        for k in range(s[S_ACTIVES]):
            if first <= s[p[P_O_ACTIVE_LIST] + k] < last:
                return NEVER, p[P_PREA], first
        return max(s[p[P_O_SCOPE_READY] + p[P_PREA] * scopes + scope], row_from), p[P_PREA], first
    at = max(s[p[P_O_SCOPE_READY] + p[P_REFAB] * scopes + scope], row_from)
    if p[P_ALIGN_ROW]:
        at |= 1
    return at, p[P_REFAB], first


@njit(cache=True, nogil=True, _nrt=False)
def _idle_row(s: Int64Array, p: Int64Array, row_from: int) -> tuple[int, int]:
    """(cycle, bank) of the first open row that nobody waits for and whose time is up."""
    banks, groups, precharge = p[P_BANKS], p[P_GROUPS], p[P_PRE]
    best, best_bank = NEVER, 0
    for bank in range(banks):
        if s[p[P_O_OPEN_ROW] + bank] < 0 or s[p[P_O_ACTIVE] + bank] >= 0:
            continue
        if s[p[P_O_HIT] + bank] >= 0 or s[p[P_O_HIT] + banks + bank] >= 0:
            continue
        at = max(s[p[P_O_GROUP_READY] + precharge * groups + (bank >> p[P_GROUP_SHIFT])],
                 s[p[P_O_BANK_READY] + precharge * banks + bank],
                 max(row_from, s[p[P_O_LAST_USE] + bank] + p[P_PAGE_TIMEOUT]))
        if at < best:
            best, best_bank = at, bank
    return best, best_bank


@njit(cache=True, nogil=True, _nrt=False)
def run_ready(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, until: int, stop: int,
) -> None:
    """Advance one channel through every cycle before *until*; with *stop*, return as soon as a transfer has ended."""
    dual = p[P_DUAL_BUS]
    fresh = False
    column_at, column_rank, column_slot = NEVER, 0, -1
    row_at, row_rank, row_slot, row_command = NEVER, 0, -1, -1
    arrival = next_arrival(s, p, segments, desc)
    while True:
        if p[P_POSTPONE] > 0 and s[S_READS] + s[S_WRITES] + s[S_ACTIVES] + s[S_PRIORITY_COUNT] == 0 and s[S_SPLIT_BANK] < 0:
            fresh = not pull_owed_refreshes(s, p) and fresh
        event = min(arrival, s[S_NEXT_REFRESH])
        if not fresh and event > s[S_ROW_FROM]:
            column_at, column_rank, column_slot, row_at, row_rank, row_slot, row_command = scan(s, p)
            fresh = True
        best = min(column_at, row_at)
        if not fresh or event <= best:
            if event >= until:
                break
            if event > s[S_NOW]:
                s[S_NOW] = event
                s[S_COLUMN_FROM] = max(s[S_COLUMN_FROM], event)
                s[S_ROW_FROM] = max(s[S_ROW_FROM], event)
            if arrival == event:
                admit(s, p, segments, desc, transfers, event)
                arrival = next_arrival(s, p, segments, desc)
                if stop and s[S_FINISHED] > 0:
                    return
            else:
                push_refreshes(s, p)
            fresh = False
            continue
        if best >= until:
            break
        fresh = False
        if column_at < row_at or (column_at == row_at and (dual or column_rank < row_rank)):
            now = issue_column(s, p, rules, first, desc, transfers, log, column_slot, column_at)
            if now < 0:
                # The clock of the data must be synchronised, but that would make the second activate late: it goes first.
                now = column_at
                _issue_row(s, p, rules, first, log, s[S_SPLIT_SLOT], p[P_ACT2], now)
            s[S_COLUMN_FROM] = now + 1
            s[S_ROW_FROM] = now if dual else now + 1
        else:
            now = row_at
            _issue_row(s, p, rules, first, log, row_slot, row_command, now)
            s[S_COLUMN_FROM] = max(s[S_COLUMN_FROM], now + 1)
            s[S_ROW_FROM] = now + 1
        s[S_NOW] = now if dual else now + 1
        arrival = next_arrival(s, p, segments, desc)
        if stop and s[S_FINISHED] > 0:
            return
    s[S_NOW] = max(s[S_NOW], until)
    s[S_COLUMN_FROM] = max(s[S_COLUMN_FROM], until)
    s[S_ROW_FROM] = max(s[S_ROW_FROM], until)


@njit(cache=True, nogil=True, _nrt=False)
def _issue_row(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, log: Int64Array, slot: int, command: int, now: int,
) -> None:
    """Issue a row command for the request in *slot*, or for bank -1 - *slot* when no request asked for it."""
    bank = s[p[P_O_SLOT_BANK] + slot] if slot >= 0 else -1 - slot
    if slot >= 0 and s[p[P_O_SLOT_SEEN] + slot] == 0:
        s[p[P_O_SLOT_SEEN] + slot] = 1
        write = s[p[P_O_SLOT_WRITE] + slot]
        s[(S_ROW_CONFLICTS if command == p[P_PRE] else S_ROW_MISSES) + write] += 1
    row = s[p[P_O_SLOT_ROW] + slot] if slot >= 0 else -1
    column = s[p[P_O_SLOT_COL] + slot] if slot >= 0 else -1
    record(s, p, rules, first, log, command, bank, row, column, s[p[P_O_SLOT_AGE] + slot] if slot >= 0 else -1, now)
    if command == p[P_ACT]:
        unlink(s, p, slot, now)
        if p[P_ACT2] >= 0:
            s[p[P_O_OPEN_ROW] + bank] = ACTIVATING
            s[S_SPLIT_BANK], s[S_SPLIT_SLOT], s[S_SPLIT_DEADLINE] = bank, slot, now + p[P_SPLIT_WINDOW]
        else:
            open_bank(s, p, bank, slot, now)
    elif command == p[P_ACT2]:
        s[S_SPLIT_BANK] = -1
        open_bank(s, p, bank, slot, now)
    elif command == p[P_PRE]:
        close_bank(s, p, bank, now)
    elif command == p[P_PREA]:
        for other in range(bank, bank + (1 << p[P_SCOPE_SHIFT])):
            if s[p[P_O_OPEN_ROW] + other] >= 0:
                close_bank(s, p, other, now)
    else:
        retire_refresh(s, p)


@njit(cache=True, nogil=True, _nrt=False)
def run_channel(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, until: int, stop: int,
) -> None:
    """Advance one channel with the scheduler that its parameters name."""
    if p[P_SCHEDULER] == SCHED_BANKED:
        run_banked(s, p, rules, first, segments, desc, transfers, log, until, stop)
    else:
        run_ready(s, p, rules, first, segments, desc, transfers, log, until, stop)


@njit(cache=True, nogil=True, _nrt=False)
def advance(
    states: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, descs: Int64Array,
    transfers: Int64Array, logs: Int64Array, bound: Int64Array, until: int,
) -> int:
    """Advance all channels to *until*, or to the cycle at which the first transfer may end; gives how many ended.

    No channel passes the end of a transfer, because who waits for it may send more at that cycle. A transfer cannot end
    before its slowest channel has moved what is left at one burst a column gap; that bound is how far all may run ahead.
    """
    channels = states.shape[0]
    log_of = logs.shape[0] > 1
    finished = 0
    if channels == 1:
        states[0, S_FINISHED] = 0
        run_channel(states[0], p, rules, first, segments, descs[0], transfers, logs[0], until, 1)
        return int(states[0, S_FINISHED])
    while True:
        bound[:] = -1
        for c in range(channels):
            s, desc = states[c], descs[c]
            while s[S_DESC_LOW] < s[S_DESC_TAIL] and desc[s[S_DESC_LOW], D_LEFT] == 0:
                s[S_DESC_LOW] += 1
            for d in range(s[S_DESC_LOW], s[S_DESC_TAIL]):
                if desc[d, D_LEFT] > 0:
                    soonest = s[S_NOW] + (desc[d, D_LEFT] - 1) * p[P_MIN_COLUMN_GAP] + p[P_LOOKAHEAD]
                    x = desc[d, D_TRANSFER]
                    bound[x] = max(bound[x], soonest)
        horizon = until
        for x in range(bound.shape[0]):
            if 0 <= bound[x] < horizon:
                horizon = bound[x]
        for c in range(channels):
            if states[c, S_NOW] < horizon:
                states[c, S_FINISHED] = 0
                run_channel(states[c], p, rules, first, segments, descs[c], transfers, logs[c if log_of else 0], horizon, 0)
                finished += states[c, S_FINISHED]
        if finished > 0 or horizon >= until:
            return finished


def kernel_signature() -> dict[str, Any]:
    """The compiled entry points, for tests that compare them with their uncompiled source."""
    return {"advance": advance, "run_channel": run_channel, "scan": scan}
