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

import numpy as np
import numpy.typing as npt

from .compiled import compiled, inlined
from .kernel_parts import (
    admit,
    close_bank,
    hold_row,
    issue_column,
    next_arrival,
    next_horizon,
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


@inlined
def column_ready(s: Int64Array, p: Int64Array, command: int, bank: int, column_from: int) -> int:
    """The first cycle at which the column *command* may go to *bank*."""
    at = max(s[p[P_O_GROUP_READY] + command * p[P_GROUPS] + (bank >> p[P_GROUP_SHIFT])],
             s[p[P_O_BANK_READY] + command * p[P_BANKS] + bank], column_from)
    return int(at | p[P_ALIGN_COLUMN])


@inlined
def row_ready(s: Int64Array, p: Int64Array, command: int, bank: int, row_from: int) -> int:
    """The first cycle at which the row *command* may go to *bank*; precharges need no rising edge."""
    at = max(s[p[P_O_BANK_READY] + command * p[P_BANKS] + bank], row_from)
    return int(at if command == p[P_PRE] else at | p[P_ALIGN_ROW])


@compiled
def scan_active(s: Int64Array, p: Int64Array, column_from: int) -> tuple[int, int, int]:
    """(cycle, rank, slot) of the next column command for a row that was opened for its request.

    These come first, so that a row is not closed before it is used.
    """
    best_at, best_rank, best_slot = NEVER, NEVER, -1
    for k in range(s[S_ACTIVES]):
        bank = s[p[P_O_ACTIVE_LIST] + k]
        slot = s[p[P_O_ACTIVE] + bank]
        at = column_ready(s, p, p[P_RD + s[p[P_O_SLOT_WRITE] + slot]], bank, column_from)
        rank = _ACTIVE * _CLASS + s[p[P_O_SLOT_AGE] + slot]
        if at < best_at or (at == best_at and rank < best_rank):
            best_at, best_rank, best_slot = at, rank, slot
    return best_at, best_rank, best_slot


@compiled
def _oldest(s: Int64Array, p: Int64Array, queue: int) -> int:
    """Age of the oldest request of *queue* for an in-order scheduler, -1 for one that may choose."""
    if p[P_SCHEDULER] != SCHED_IN_ORDER:
        return -1
    banks, oldest = p[P_BANKS], NEVER
    for k in range(s[S_BUSY_READ + queue]):
        bank = s[p[P_O_BUSY] + queue * banks + k]
        oldest = min(oldest, s[p[P_O_SLOT_AGE] + s[p[P_O_HEAD] + queue * banks + bank]])
    return oldest


@compiled
def scan_hits(s: Int64Array, p: Int64Array, queue: int, column_from: int, low: int, high: int) -> tuple[int, int, int]:
    """(cycle, rank, slot) of the next column command for a waiting request; banks [low, high) must rest."""
    banks, command, cap = p[P_BANKS], p[P_RD + queue], p[P_HIT_CAP]
    group_at, bank_at = p[P_O_GROUP_READY] + command * p[P_GROUPS], p[P_O_BANK_READY] + command * banks
    busy, hits, group_shift, ages = p[P_O_BUSY] + queue * banks, p[P_O_HIT] + queue * banks, p[P_GROUP_SHIFT], p[P_O_SLOT_AGE]
    align = p[P_ALIGN_COLUMN]
    base = (_HIT if p[P_HIT_FIRST] else _OTHER) * _CLASS
    best_at, best_rank, best_slot = NEVER, NEVER, -1
    if s[S_HIT_BANKS + queue] == 0:
        return best_at, best_rank, best_slot
    oldest = _oldest(s, p, queue)
    for k in range(s[S_BUSY_READ + queue]):
        bank = s[busy + k]
        slot = s[hits + bank]
        if slot < 0 or low <= bank < high:
            continue
        age = s[ages + slot]
        if oldest >= 0 and age != oldest:
            continue
        if cap > 0 and s[p[P_O_HITS_SERVED] + bank] >= cap:
            miss = s[p[P_O_MISS] + queue * banks + bank]
            if miss >= 0 and s[ages + miss] < age:
                continue
        at = max(s[group_at + (bank >> group_shift)], s[bank_at + bank], column_from) | align
        if at < best_at or (at == best_at and base + age < best_rank):
            best_at, best_rank, best_slot = at, base + age, slot
    return best_at, best_rank, best_slot


@compiled
def scan_misses(s: Int64Array, p: Int64Array, queue: int, row_from: int, low: int, high: int) -> tuple[int, int, int]:
    """(cycle, rank, slot) of the next activate or precharge for a waiting request; banks [low, high) must rest."""
    banks = p[P_BANKS]
    open_from = NEVER if s[S_SPLIT_BANK] >= 0 else row_from
    if p[P_SCHEDULER] == SCHED_IN_ORDER:
        best = _oldest_miss(s, p, queue, row_from, open_from, low, high)
    else:
        best = min(_best_miss(s, p, queue, row_from, open_from, 0, low), _best_miss(s, p, queue, row_from, open_from, high, banks))
    wait = best >> KEY_BITS
    if wait >= WAIT_LIMIT:
        return NEVER, NEVER, -1
    slot = s[p[P_O_MISS] + queue * banks + (best & ((1 << BANK_BITS) - 1))]
    return row_from + wait, _OTHER * _CLASS + s[p[P_O_SLOT_AGE] + slot], slot


@inlined
def _best_miss(s: Int64Array, p: Int64Array, queue: int, row_from: int, open_from: int, first: int, end: int) -> int:
    """The lowest wait << KEY_BITS | key of the banks [first, end); activates may go from *open_from* on.

    No branch on what the data say: a random stream spends its time here, and the loop becomes vector instructions.
    """
    banks, count, align = p[P_BANKS], end - first, p[P_ALIGN_ROW]
    activate, precharge = p[P_O_BANK_READY] + p[P_ACT] * banks + first, p[P_O_BANK_READY] + p[P_PRE] * banks + first
    state, key = p[P_O_OPEN_ROW] + first, p[P_O_MISS_KEY] + queue * banks + first
    open_rows, keys = s[state:state + count], s[key:key + count]
    activates, precharges = s[activate:activate + count], s[precharge:precharge + count]
    best = NO_KEY
    for k in range(count):
        at = max(activates[k], open_from) | align if open_rows[k] < 0 else max(precharges[k], row_from)
        best = min(best, (min(at - row_from, WAIT_LIMIT) << KEY_BITS) + keys[k])
    return best


@compiled
def _oldest_miss(s: Int64Array, p: Int64Array, queue: int, row_from: int, open_from: int, low: int, high: int) -> int:
    """The same for a scheduler that serves only the oldest request of all."""
    banks = p[P_BANKS]
    oldest = _oldest(s, p, queue)
    for bank in range(banks):
        key = s[p[P_O_MISS_KEY] + queue * banks + bank]
        if key >> BANK_BITS == oldest and not low <= bank < high:
            return _best_miss(s, p, queue, row_from, open_from, bank, bank + 1)
    return NO_KEY


@inlined
def _miss_candidate(s: Int64Array, p: Int64Array, queue: int, bank: int, row_from: int) -> tuple[int, int, int]:
    """What :func:`scan_misses` says of one bank."""
    slot = s[p[P_O_MISS] + queue * p[P_BANKS] + bank]
    state = s[p[P_O_OPEN_ROW] + bank]
    if slot < 0 or s[p[P_O_HELD] + bank] or (state < 0 and s[S_SPLIT_BANK] >= 0):
        return NEVER, NEVER, -1
    at = row_ready(s, p, p[P_PRE] if state >= 0 else p[P_ACT], bank, row_from)
    return at, _OTHER * _CLASS + s[p[P_O_SLOT_AGE] + slot], slot


@compiled
def _special_row(s: Int64Array, p: Int64Array, row_from: int) -> tuple[int, int, int, int]:
    """(cycle, rank, target, command) of the next row command that no queue asks for: second activate, refresh, tidying.

    The target is a slot, or -1 - bank.
    """
    best_at, best_rank, best_target, best_command = NEVER, NEVER, -1, -1
    split_bank = s[S_SPLIT_BANK]
    if split_bank >= 0:
        # The second half of an activate waits for a cycle that nobody else wants, until its deadline.
        best_at = row_ready(s, p, p[P_ACT2], split_bank, row_from)
        best_rank = (_URGENT if best_at >= s[S_SPLIT_DEADLINE] else _DEFERRED) * _CLASS
        best_target, best_command = s[S_SPLIT_SLOT], p[P_ACT2]
    if s[S_PRIORITY_COUNT] > 0:
        target = s[p[P_O_PRIORITY] + s[S_PRIORITY_HEAD]]
        at, command, bank = _refresh_candidate(s, p, target, row_from)
        rank = _REFRESH * _CLASS
        if at < best_at or (at == best_at and rank < best_rank):
            best_at, best_rank, best_target, best_command = at, rank, -1 - bank, command
    if p[P_PAGE_TIMEOUT] >= 0:
        at, bank = _idle_row(s, p, row_from)
        rank = _TIDY * _CLASS
        if at < best_at or (at == best_at and rank < best_rank):
            best_at, best_rank, best_target, best_command = at, rank, -1 - bank, p[P_PRE]
    return best_at, best_rank, best_target, best_command


@compiled
def _refresh_candidate(s: Int64Array, p: Int64Array, target: int, row_from: int) -> tuple[int, int, int]:
    """(cycle, command, bank) of what the refresh *target* needs next: its banks closed, then the refresh itself."""
    scopes = p[P_SCOPES]
    split_bank = s[S_SPLIT_BANK]
    if target >= 0:                                     # one bank
        command = p[P_PRE] if s[p[P_O_OPEN_ROW] + target] >= 0 else p[P_REFPB]
        if s[p[P_O_ACTIVE] + target] >= 0 or split_bank == target:
            return NEVER, command, target
        return row_ready(s, p, command, target, row_from), command, target
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


@compiled
def _idle_row(s: Int64Array, p: Int64Array, row_from: int) -> tuple[int, int]:
    """(cycle, bank) of the first open row that nobody waits for and whose time is up."""
    banks = p[P_BANKS]
    best, best_bank = NEVER, 0
    for bank in range(banks):
        if s[p[P_O_OPEN_ROW] + bank] < 0 or s[p[P_O_ACTIVE] + bank] >= 0:
            continue
        if s[p[P_O_HIT] + bank] >= 0 or s[p[P_O_HIT] + banks + bank] >= 0:
            continue
        at = row_ready(s, p, p[P_PRE], bank, max(row_from, s[p[P_O_LAST_USE] + bank] + p[P_PAGE_TIMEOUT]))
        if at < best:
            best, best_bank = at, bank
    return best, best_bank


@compiled
def run_ready(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, until: int, stop: int,
) -> None:
    """Advance one channel through every cycle before *until*; with *stop*, return as soon as a transfer has ended.

    The best candidate of each kind (a request in service, a hit, a miss) is kept from one decision to the next as long as
    nothing could have changed it: it is still the best if its cycle has not gone by, and what an event changes is merged in.
    """
    dual, banks = p[P_DUAL_BUS], p[P_BANKS]
    keeps = p[P_COUPLED] == 0 and p[P_SCHEDULER] == SCHED_READY and p[P_HIT_CAP] == 0 and p[P_PAGE_TIMEOUT] < 0
    hit_base = (_HIT if p[P_HIT_FIRST] else _OTHER) * _CLASS
    active_good = hit_good = miss_good = False
    active_at, active_rank, active_slot = NEVER, NEVER, -1
    hit_at, hit_rank, hit_slot = NEVER, NEVER, -1
    miss_at, miss_rank, miss_slot = NEVER, NEVER, -1
    low, high = 0, 0                                                # banks that rest, where what is kept was looked for
    arrival = next_arrival(s, p, segments, desc)
    while True:
        if p[P_POSTPONE] > 0 and s[S_READS] + s[S_WRITES] + s[S_ACTIVES] + s[S_PRIORITY_COUNT] == 0 and s[S_SPLIT_BANK] < 0:
            pull_owed_refreshes(s, p)
        event = min(arrival, s[S_NEXT_REFRESH])
        column_from, row_from = s[S_COLUMN_FROM], s[S_ROW_FROM]
        column_at, column_rank, column_slot = NEVER, NEVER, -1
        row_at, row_rank, row_target, row_command = NEVER, NEVER, -1, -1
        if event > row_from:                                        # else it belongs to this cycle and comes first
            if not active_good or active_at < column_from:
                active_at, active_rank, active_slot = scan_active(s, p, column_from)
                active_good = True
            column_at, column_rank, column_slot = active_at, active_rank, active_slot
            rest_low, rest_high = 0, 0
            if s[S_PRIORITY_COUNT] > 0 or s[S_SPLIT_BANK] >= 0 or p[P_PAGE_TIMEOUT] >= 0:
                row_at, row_rank, row_target, row_command = _special_row(s, p, row_from)
                if s[S_PRIORITY_COUNT] > 0:
                    rest_low, rest_high = _resting_banks(s, p)
            if rest_low != low or rest_high != high:
                low, high = rest_low, rest_high
                hit_good = miss_good = False
            # In a cycle whose only slot goes to a request in service the queues are not even looked at.
            if high < banks and (dual or s[S_PRIORITY_COUNT] > 0 or active_at > column_from):
                queue = s[S_WRITE_MODE]
                update_mode(s, p)
                if s[S_WRITE_MODE] != queue or not keeps:
                    queue = s[S_WRITE_MODE]
                    hit_good = miss_good = False
                if not hit_good or hit_at < column_from:
                    hit_at, hit_rank, hit_slot = scan_hits(s, p, queue, column_from, low, high)
                    hit_good = True
                if not miss_good or miss_at < row_from:
                    miss_at, miss_rank, miss_slot = scan_misses(s, p, queue, row_from, low, high)
                    miss_good = True
                if hit_at < column_at or (hit_at == column_at and hit_rank < column_rank):
                    column_at, column_rank, column_slot = hit_at, hit_rank, hit_slot
                if miss_at < row_at or (miss_at == row_at and miss_rank < row_rank):
                    row_at, row_rank, row_target = miss_at, miss_rank, miss_slot
                    row_command = -1
        if event <= min(column_at, row_at) or event <= row_from:
            if event >= until:
                break
            if event > s[S_NOW]:
                s[S_NOW] = event
                s[S_COLUMN_FROM] = max(s[S_COLUMN_FROM], event)
                s[S_ROW_FROM] = max(s[S_ROW_FROM], event)
            if arrival != event:
                push_refreshes(s, p)
                continue
            slot = admit(s, p, desc, transfers, event)
            arrival = next_arrival(s, p, segments, desc)
            if stop and s[S_FINISHED] > 0:
                return
            if slot >= 0 and s[p[P_O_SLOT_WRITE] + slot] == s[S_WRITE_MODE]:
                queue, bank = s[S_WRITE_MODE], s[p[P_O_SLOT_BANK] + slot]
                if low <= bank < high:
                    continue
                if s[p[P_O_HIT] + queue * banks + bank] == slot:
                    at = column_ready(s, p, p[P_RD + queue], bank, s[S_COLUMN_FROM])
                    if at < hit_at:                                 # the youngest loses every tie
                        hit_at, hit_rank, hit_slot = at, hit_base + s[p[P_O_SLOT_AGE] + slot], slot
                elif s[p[P_O_MISS] + queue * banks + bank] == slot:
                    at, rank, slot = _miss_candidate(s, p, queue, bank, s[S_ROW_FROM])
                    if at < miss_at:
                        miss_at, miss_rank, miss_slot = at, rank, slot
            continue
        if min(column_at, row_at) >= until:
            break
        if column_at < row_at or (column_at == row_at and (dual or column_rank < row_rank)):
            bank = s[p[P_O_SLOT_BANK] + column_slot]
            now = issue_column(s, p, rules, first, desc, transfers, log, column_slot, column_at)
            active_good = hit_good = False
            if now < 0:
                # The data clock must be synchronised, but that would make the second activate late: it goes first.
                now = column_at
                _issue_row(s, p, rules, first, log, s[S_SPLIT_SLOT], p[P_ACT2], now)
                miss_good = False
            s[S_COLUMN_FROM] = now + 1
            s[S_ROW_FROM] = now if dual else now + 1
            if miss_at < now + p[P_COLUMN_TO_ROW] or (miss_slot >= 0 and s[p[P_O_SLOT_BANK] + miss_slot] == bank):
                miss_good = False
            elif miss_good and not low <= bank < high:
                at, rank, slot = _miss_candidate(s, p, s[S_WRITE_MODE], bank, s[S_ROW_FROM])
                if at < miss_at or (at == miss_at and rank < miss_rank):
                    miss_at, miss_rank, miss_slot = at, rank, slot
        else:
            now = row_at
            if row_command < 0:
                bank = s[p[P_O_SLOT_BANK] + row_target]
                row_command = p[P_PRE] if s[p[P_O_OPEN_ROW] + bank] >= 0 else p[P_ACT]
            bank = _issue_row(s, p, rules, first, log, row_target, row_command, now)
            s[S_COLUMN_FROM] = max(column_from, now + 1)
            s[S_ROW_FROM] = now + 1
            miss_good = False
            if row_command != p[P_ACT] and row_command != p[P_ACT2] and row_command != p[P_PRE]:
                active_good = hit_good = False
            if min(active_at, hit_at) < now + p[P_ROW_TO_COLUMN]:
                active_good = hit_good = False
            if hit_slot >= 0 and s[p[P_O_SLOT_BANK] + hit_slot] == bank:
                hit_good = False
            slot = s[p[P_O_ACTIVE] + bank]
            if slot >= 0:                                           # its row was opened just now
                at = column_ready(s, p, p[P_RD + s[p[P_O_SLOT_WRITE] + slot]], bank, s[S_COLUMN_FROM])
                rank = _ACTIVE * _CLASS + s[p[P_O_SLOT_AGE] + slot]
                if at < active_at or (at == active_at and rank < active_rank):
                    active_at, active_rank, active_slot = at, rank, slot
                queue = s[S_WRITE_MODE]
                slot = s[p[P_O_HIT] + queue * banks + bank]
                if slot >= 0 and not low <= bank < high:
                    at = column_ready(s, p, p[P_RD + queue], bank, s[S_COLUMN_FROM])
                    rank = hit_base + s[p[P_O_SLOT_AGE] + slot]
                    if at < hit_at or (at == hit_at and rank < hit_rank):
                        hit_at, hit_rank, hit_slot = at, rank, slot
        s[S_NOW] = now if dual else now + 1
        arrival = next_arrival(s, p, segments, desc)
        if stop and s[S_FINISHED] > 0:
            return
    s[S_NOW] = max(s[S_NOW], until)
    s[S_COLUMN_FROM] = max(s[S_COLUMN_FROM], until)
    s[S_ROW_FROM] = max(s[S_ROW_FROM], until)


@compiled
def _resting_banks(s: Int64Array, p: Int64Array) -> tuple[int, int]:
    """Banks [low, high) that serve no request because a refresh is due; all of them where it stops the channel."""
    if p[P_REFRESH_BLOCKS]:
        return 0, int(p[P_BANKS])
    target = s[p[P_O_PRIORITY] + s[S_PRIORITY_HEAD]]
    if target >= 0:
        return int(target), int(target + 1)
    low = (-1 - target) << p[P_SCOPE_SHIFT]
    return int(low), int(low + (1 << p[P_SCOPE_SHIFT]))


@compiled
def _issue_row(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, log: Int64Array, slot: int, command: int, now: int,
) -> int:
    """Issue a row command for the request in *slot*, or for bank -1 - *slot* when no request asked for it; gives the bank."""
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
            hold_row(s, p, bank)
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
    return int(bank)


@compiled
def advance_ready(
    states: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, descs: Int64Array,
    transfers: Int64Array, logs: Int64Array, bound: Int64Array, until: int,
) -> int:
    """:func:`tilesim.memory.advance.advance` for a scheduler that looks at all requests."""
    channels, finished = states.shape[0], 0
    while True:
        horizon = until if channels == 1 else next_horizon(states, p, descs, bound, until)
        for c in range(channels):
            if states[c, S_NOW] < horizon:
                states[c, S_FINISHED] = 0
                log = logs[c if logs.shape[0] > 1 else 0]
                run_ready(states[c], p, rules, first, segments, descs[c], transfers, log, horizon, int(channels == 1))
                finished += states[c, S_FINISHED]
        if channels == 1 or finished > 0 or horizon >= until:
            return finished
