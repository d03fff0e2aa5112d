"""The parts of the compiled controller that every scheduler shares: rules, bank state, queues, refresh, descriptors."""

# The layout is the vocabulary of the kernels: its names are used bare.
# ruff: noqa: F403, F405
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import compiled, inlined
from .layout import *

Int64Array = npt.NDArray[np.int64]
PRIORITY_RING = 64
#: Descriptors of one channel that are looked at one by one for the end of their transfers.
LOOKED = 256


@inlined
def apply_rules(s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, command: int, bank: int, now: int) -> None:
    """Push the earliest cycles of later commands out, as *command* to *bank* at *now* demands."""
    sections = SECTIONS * command
    for i in range(first[sections], first[sections + 1]):
        at = rules[i, R_BASE] + bank
        s[at] = max(s[at], now + rules[i, R_WAIT])
    group = bank >> p[P_GROUP_SHIFT]
    for i in range(first[sections + 1], first[sections + 2]):
        span = rules[i, R_SPAN_SHIFT]
        size = 1 << span
        low = rules[i, R_BASE] + ((bank >> rules[i, R_NODE_SHIFT]) << span)
        table = rules[i, R_WAIT] + (group << span)
        ready, waits = s[low:low + size], p[table:table + size]
        for k in range(size):                           # no branch on what the data say: this loop becomes vector instructions
            ready[k] = max(ready[k], now + waits[k])
    for i in range(first[sections + 2], first[sections + 3]):
        _apply_other(s, p, rules, i, bank, now)


@compiled
def _apply_other(s: Int64Array, p: Int64Array, rules: Int64Array, i: int, bank: int, now: int) -> None:
    """The rarer rules: windows over the last commands, siblings, whole scopes."""
    since = now
    node = bank >> rules[i, R_NODE_SHIFT]
    if rules[i, R_HISTORY] >= 0:
        window = rules[i, R_WINDOW]
        ring = p[P_O_HISTORY] + rules[i, R_HISTORY] + node * (window + 1)
        position = s[ring]
        s[ring + 1 + position] = now
        position = position + 1 if position + 1 < window else 0
        s[ring] = position
        since = s[ring + 1 + position]
        if since < 0:
            return
    ready = since + rules[i, R_WAIT]
    kind, base, span = rules[i, R_KIND], rules[i, R_BASE], rules[i, R_SPAN_SHIFT]
    parent_shift = rules[i, R_PARENT_SHIFT]
    if kind == KIND_NODE:
        low = base + (node << span)
        entries = s[low:low + (1 << span)]
        for k in range(1 << span):
            entries[k] = max(entries[k], ready)
    elif kind == KIND_SCOPE_BANKS:
        for at in range(base + bank, base + bank + (1 << p[P_SCOPE_SHIFT])):
            s[at] = max(s[at], ready)
    elif kind == KIND_SIBLING_BANKS:
        parent = (bank >> parent_shift) << parent_shift
        for other in range(parent, parent + (1 << parent_shift)):
            if other != bank:
                s[base + other] = max(s[base + other], ready)
    else:
        s[base + bank] = max(s[base + bank], ready)


@inlined
def record(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, log: Int64Array, command: int, bank: int, row: int,
    column: int, age: int, now: int,
) -> None:
    """Issue *command*: count it, log it if there is room, and apply its rules."""
    s[p[P_O_COUNT] + command] += 1
    if log.shape[0] > 0:
        entry = s[S_LOG]
        if entry < log.shape[0]:
            log[entry, L_CYCLE], log[entry, L_COMMAND], log[entry, L_BANK] = now, command, bank
            log[entry, L_ROW], log[entry, L_COLUMN], log[entry, L_REQUEST] = row, column, age
            s[S_LOG] = entry + 1
    apply_rules(s, p, rules, first, command, bank, now)


@inlined
def finish_request(s: Int64Array, desc: Int64Array, transfers: Int64Array, d: int, end: int) -> None:
    """Note that the last data beat of one request of descriptor *d* is over before cycle *end*."""
    desc[d, D_FINISH] = max(desc[d, D_FINISH], end)
    desc[d, D_LEFT] -= 1
    if desc[d, D_LEFT] == 0:
        x = desc[d, D_TRANSFER]
        transfers[x, X_FINISH] = max(transfers[x, X_FINISH], desc[d, D_FINISH])
        transfers[x, X_LEFT] -= 1
        if transfers[x, X_LEFT] == 0:
            s[S_FINISHED] += 1


@inlined
def next_arrival(s: Int64Array, p: Int64Array, segments: Int64Array, desc: Int64Array) -> int:
    """The cycle at which the next request enters its queue: one a cycle, in order, when the queue has room."""
    d = s[S_DESC_HEAD]
    if d == s[S_DESC_TAIL]:
        return NEVER
    write = desc[d, D_WRITE]
    if s[S_HEAD_CHECKED] != s[S_TAKEN]:
        bank, row, column = decode(p, segments, desc[d, D_START] + s[S_DESC_POS])
        s[S_HEAD_BANK], s[S_HEAD_ROW], s[S_HEAD_COLUMN] = bank, row, column
        s[S_HEAD_CHECKED] = s[S_TAKEN]
        s[S_HEAD_FREE] = 1 - p[P_KEEP_ORDER]
    opposite = s[S_WRITES - write]
    if s[S_HEAD_FREE] == 0 and opposite + s[S_ACTIVES] + s[S_BANK_QUEUED] > 0 and _head_conflicts(s, p, write):
        return NEVER
    if s[S_READS + write] >= p[P_READ_DEPTH + write] and (p[P_MERGE] == 0 or head_merges(s, p) < 0):
        return NEVER
    at = max(desc[d, D_TICK], s[S_LAST_ADMIT] + 1, s[S_READ_ROOM + write])
    if p[P_DEPENDENT]:
        at = max(at, s[S_CHAIN_READY])
    return int(at)


@inlined
def waiting(s: Int64Array, p: Int64Array, queue: int, bank: int, row: int, column: int) -> int:
    """The slot of a request to that place that waits in *queue*, or -1."""
    slot = s[p[P_O_HEAD] + queue * p[P_BANKS] + bank]
    while slot >= 0 and (s[p[P_O_SLOT_ROW] + slot] != row or s[p[P_O_SLOT_COL] + slot] != column):
        slot = s[p[P_O_NEXT] + slot]
    return int(slot)


@inlined
def head_merges(s: Int64Array, p: Int64Array) -> int:
    """The waiting write that serves the request at the head (which then needs no room in its queue), or -1."""
    if s[S_WRITES] == 0:
        return -1
    return waiting(s, p, 1, s[S_HEAD_BANK], s[S_HEAD_ROW], s[S_HEAD_COLUMN])


@compiled
def _head_conflicts(s: Int64Array, p: Int64Array, write: int) -> bool:
    """Whether an earlier request to the head's address must go out before it may be seen: read after write, write after read."""
    bank, row, column = s[S_HEAD_BANK], s[S_HEAD_ROW], s[S_HEAD_COLUMN]
    slot = s[p[P_O_ACTIVE] + bank]
    if (slot >= 0 and s[p[P_O_SLOT_WRITE] + slot] != write and s[p[P_O_SLOT_COL] + slot] == column
            and s[p[P_O_SLOT_ROW] + slot] == row):
        return True
    split = s[S_SPLIT_BANK] == bank
    if split and s[p[P_O_SLOT_ROW] + s[S_SPLIT_SLOT]] == row:
        return True
    if (write or p[P_MERGE] == 0) and waiting(s, p, 1 - write, bank, row, column) >= 0:
        return True
    if p[P_SCHEDULER] == SCHED_BANKED:
        slot = s[p[P_O_QUEUE] + bank]
        while slot >= 0:
            if s[p[P_O_SLOT_WRITE] + slot] != write and s[p[P_O_SLOT_ROW] + slot] == row and s[p[P_O_SLOT_COL] + slot] == column:
                return True
            slot = s[p[P_O_NEXT] + slot]
    s[S_HEAD_FREE] = 1                                  # later requests stay behind the head: it remains free
    return False


@inlined
def decode(p: Int64Array, segments: Int64Array, index: int) -> tuple[int, int, int]:
    """(flat bank, row, column) of the channel-local burst *index*."""
    bank, row, column = 0, 0, 0
    for i in range(p[P_SEGMENTS]):
        value = ((index >> segments[i, A_FROM]) & segments[i, A_MASK]) << segments[i, A_TO]
        if segments[i, A_FIELD] == FIELD_BANK:
            bank |= value
        elif segments[i, A_FIELD] == FIELD_ROW:
            row |= value
        else:
            column |= value
    for i in range(p[P_SEGMENTS], p[P_SEGMENTS] + p[P_XORS]):     # bank bits permuted by row bits
        bank ^= ((row >> segments[i, A_FROM]) & segments[i, A_MASK]) << segments[i, A_TO]
    return bank, row, column


@inlined
def admit(s: Int64Array, p: Int64Array, desc: Int64Array, transfers: Int64Array, now: int) -> int:
    """Take the next request into its queue; gives its slot, or -1 when a waiting write already serves it."""
    d = s[S_DESC_HEAD]
    write = desc[d, D_WRITE]
    bank, row, column = s[S_HEAD_BANK], s[S_HEAD_ROW], s[S_HEAD_COLUMN]
    s[S_LAST_ADMIT] = now
    merged = p[P_MERGE] and head_merges(s, p) >= 0
    if not merged and s[S_READS + write] >= p[P_READ_DEPTH + write]:
        return -1                                       # the write that would have served it has left meanwhile
    s[S_TAKEN] += 1
    desc[d, D_ADMIT] = now
    s[S_DESC_POS] += 1
    if s[S_DESC_POS] == desc[d, D_COUNT]:
        s[S_DESC_HEAD], s[S_DESC_POS] = d + 1, 0
    if merged:
        s[S_MERGED + write] += 1
        if write == 0:
            s[S_READ_LATENCY_SUM] += 1
            s[S_READ_LATENCY_MAX] = max(s[S_READ_LATENCY_MAX], 1)
        s[S_READS_DONE + write] += 1
        finish_request(s, desc, transfers, d, now + 1)
        return -1
    banks = p[P_BANKS]
    s[S_FREE] -= 1
    slot = s[p[P_O_FREE] + s[S_FREE]]
    s[p[P_O_SLOT_BANK] + slot], s[p[P_O_SLOT_ROW] + slot], s[p[P_O_SLOT_COL] + slot] = bank, row, column
    s[p[P_O_SLOT_AGE] + slot], s[p[P_O_SLOT_TICK] + slot], s[p[P_O_SLOT_DESC] + slot] = s[S_SEQUENCE], now, d
    s[p[P_O_SLOT_WRITE] + slot], s[p[P_O_SLOT_SEEN] + slot] = write, 0
    s[S_SEQUENCE] += 1
    if p[P_DEPENDENT]:
        s[S_CHAIN_READY] = NEVER
    s[S_READS + write] += 1
    at = write * banks + bank
    last = s[p[P_O_TAIL] + at]
    s[p[P_O_NEXT] + slot], s[p[P_O_PREV] + slot] = -1, last
    s[p[P_O_TAIL] + at] = slot
    if last >= 0:
        s[p[P_O_NEXT] + last] = slot
    else:
        s[p[P_O_HEAD] + at] = slot
        s[p[P_O_BUSY] + write * banks + s[S_BUSY_READ + write]] = bank
        s[p[P_O_BUSY_AT] + at] = s[S_BUSY_READ + write]
        s[S_BUSY_READ + write] += 1
    if s[p[P_O_OPEN_ROW] + bank] == row:
        if s[p[P_O_HIT] + at] < 0:
            set_hit(s, p, at, slot)
    elif s[p[P_O_MISS] + at] < 0:
        set_miss(s, p, at, slot)
    return int(slot)


@inlined
def unlink(s: Int64Array, p: Int64Array, slot: int, now: int) -> None:
    """Take *slot* out of its queue at cycle *now*; its bank's oldest hit and miss follow."""
    banks = p[P_BANKS]
    bank, row, write = s[p[P_O_SLOT_BANK] + slot], s[p[P_O_SLOT_ROW] + slot], s[p[P_O_SLOT_WRITE] + slot]
    at = write * banks + bank
    after, before = s[p[P_O_NEXT] + slot], s[p[P_O_PREV] + slot]
    if before >= 0:
        s[p[P_O_NEXT] + before] = after
    else:
        s[p[P_O_HEAD] + at] = after
    if after >= 0:
        s[p[P_O_PREV] + after] = before
    else:
        s[p[P_O_TAIL] + at] = before
    if s[p[P_O_HEAD] + at] < 0:
        gap, last = s[p[P_O_BUSY_AT] + at], s[S_BUSY_READ + write] - 1
        moved = s[p[P_O_BUSY] + write * banks + last]
        s[p[P_O_BUSY] + write * banks + gap] = moved
        s[p[P_O_BUSY_AT] + write * banks + moved] = gap
        s[p[P_O_BUSY_AT] + at] = -1
        s[S_BUSY_READ + write] = last
    open_row = s[p[P_O_OPEN_ROW] + bank]
    if s[p[P_O_HIT] + at] == slot:
        while after >= 0 and s[p[P_O_SLOT_ROW] + after] != row:
            after = s[p[P_O_NEXT] + after]
        set_hit(s, p, at, after)
    elif s[p[P_O_MISS] + at] == slot:
        while after >= 0 and s[p[P_O_SLOT_ROW] + after] == open_row:
            after = s[p[P_O_NEXT] + after]
        set_miss(s, p, at, after)
    if s[S_READS + write] == p[P_READ_DEPTH + write]:
        s[S_READ_ROOM + write] = now + 1
    s[S_READS + write] -= 1


@inlined
def set_hit(s: Int64Array, p: Int64Array, at: int, slot: int) -> None:
    """The oldest hit of queue and bank *at* is *slot* (-1: none)."""
    s[S_HIT_BANKS + int(at >= p[P_BANKS])] += int(slot >= 0) - int(s[p[P_O_HIT] + at] >= 0)
    s[p[P_O_HIT] + at] = slot


@inlined
def set_miss(s: Int64Array, p: Int64Array, at: int, slot: int) -> None:
    """The oldest miss of queue and bank *at* is *slot* (-1: none)."""
    s[p[P_O_MISS] + at] = slot
    bank = at if at < p[P_BANKS] else at - p[P_BANKS]
    key = (s[p[P_O_SLOT_AGE] + slot] << BANK_BITS) + bank
    s[p[P_O_MISS_KEY] + at] = NO_KEY if slot < 0 or s[p[P_O_HELD] + bank] else key


@inlined
def hold_row(s: Int64Array, p: Int64Array, bank: int) -> None:
    """No request may ask for a row command to *bank*: its row was opened (or is being opened) and not used yet."""
    s[p[P_O_HELD] + bank] = 1
    s[p[P_O_MISS_KEY] + bank] = s[p[P_O_MISS_KEY] + p[P_BANKS] + bank] = NO_KEY


@inlined
def release_row(s: Int64Array, p: Int64Array, bank: int) -> None:
    """The row of *bank* was used: requests for others may close it."""
    s[p[P_O_HELD] + bank] = 0
    set_miss(s, p, bank, s[p[P_O_MISS] + bank])
    set_miss(s, p, p[P_BANKS] + bank, s[p[P_O_MISS] + p[P_BANKS] + bank])


@compiled
def open_bank(s: Int64Array, p: Int64Array, bank: int, slot: int, now: int) -> None:
    """Row of *slot* is in the row buffer; the request itself is in service until its column command."""
    banks, row = p[P_BANKS], s[p[P_O_SLOT_ROW] + slot]
    s[p[P_O_OPEN_ROW] + bank] = row
    s[p[P_O_ACTIVE] + bank] = slot
    s[p[P_O_ACTIVE_LIST] + s[S_ACTIVES]] = bank
    s[S_ACTIVES] += 1
    s[p[P_O_HITS_SERVED] + bank] = 0
    s[p[P_O_LAST_USE] + bank] = now
    scope = bank >> p[P_SCOPE_SHIFT]
    if s[p[P_O_OPEN_BANKS] + scope] == 0:
        s[p[P_O_OPEN_SINCE] + scope] = now
    s[p[P_O_OPEN_BANKS] + scope] += 1
    hold_row(s, p, bank)
    for at in range(bank, 2 * banks, banks):
        hit, miss = -1, -1
        waiting = s[p[P_O_HEAD] + at]
        while waiting >= 0 and (hit < 0 or miss < 0):
            if s[p[P_O_SLOT_ROW] + waiting] == row:
                if hit < 0:
                    hit = waiting
            elif miss < 0:
                miss = waiting
            waiting = s[p[P_O_NEXT] + waiting]
        set_hit(s, p, at, hit)
        set_miss(s, p, at, miss)


@compiled
def close_bank(s: Int64Array, p: Int64Array, bank: int, now: int) -> None:
    """The row buffer of *bank* is empty: whatever waits for it is a miss."""
    banks = p[P_BANKS]
    s[p[P_O_OPEN_ROW] + bank] = CLOSED
    s[p[P_O_HELD] + bank] = 0
    for at in range(bank, 2 * banks, banks):
        set_hit(s, p, at, -1)
        set_miss(s, p, at, s[p[P_O_HEAD] + at])
    scope = bank >> p[P_SCOPE_SHIFT]
    s[p[P_O_OPEN_BANKS] + scope] -= 1
    if s[p[P_O_OPEN_BANKS] + scope] == 0:
        s[p[P_O_OPEN_CYCLES] + scope] += now - s[p[P_O_OPEN_SINCE] + scope]


@compiled
def issue_column(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, desc: Int64Array, transfers: Int64Array,
    log: Int64Array, slot: int, at: int,
) -> int:
    """Issue the read or write of *slot*; gives its cycle, or -1 when a pending second activate must go before."""
    bank, write = s[p[P_O_SLOT_BANK] + slot], s[p[P_O_SLOT_WRITE] + slot]
    row, column, age = s[p[P_O_SLOT_ROW] + slot], s[p[P_O_SLOT_COL] + slot], s[p[P_O_SLOT_AGE] + slot]
    now = at
    if p[P_WCK_POST] >= 0:
        if at >= s[S_WCK_UNTIL]:                        # the data clock has stopped: one cycle to synchronise it
            if s[S_SPLIT_BANK] >= 0 and s[S_SPLIT_DEADLINE] <= at + 1:
                return -1
            record(s, p, rules, first, log, p[P_CAS_RD + write], bank, row, column, age, at)
            s[S_WCK_SYNCS] += 1
            now = at + 1
        s[S_WCK_UNTIL] = max(s[S_WCK_UNTIL], now + p[P_READ_LATENCY + write] + p[P_WCK_POST])
    if s[p[P_O_SLOT_SEEN] + slot] == 0:
        s[S_ROW_HITS + write] += 1
    record(s, p, rules, first, log, p[P_RD + write], bank, row, column, age, now)
    if s[p[P_O_ACTIVE] + bank] == slot:
        s[p[P_O_ACTIVE] + bank] = -1
        release_row(s, p, bank)
        actives = p[P_O_ACTIVE_LIST]
        s[S_ACTIVES] -= 1
        for k in range(s[S_ACTIVES]):
            if s[actives + k] == bank:
                s[actives + k] = s[actives + s[S_ACTIVES]]
                break
    else:
        unlink(s, p, slot, now)
    s[p[P_O_HITS_SERVED] + bank] += 1
    s[p[P_O_LAST_USE] + bank] = now
    end = now + p[P_READ_LATENCY + write]
    retire_column(s, p, desc, transfers, slot, write, now, end)
    return now


@inlined
def retire_column(
    s: Int64Array, p: Int64Array, desc: Int64Array, transfers: Int64Array, slot: int, write: int, now: int, end: int,
) -> None:
    """Count the data of *slot*, whose burst ends before cycle *end*, and free it."""
    if write == 0:
        # A request seen in cycle t was accepted at the end of cycle t - 1.
        latency = end - s[p[P_O_SLOT_TICK] + slot] + 1
        s[S_READ_LATENCY_SUM] += latency
        s[S_READ_LATENCY_MAX] = max(s[S_READ_LATENCY_MAX], latency)
    s[S_READS_DONE + write] += 1
    s[S_TURNAROUNDS] += s[S_LAST_WAS_WRITE] != write
    s[S_LAST_WAS_WRITE] = write
    s[S_LAST_COLUMN] = now
    s[S_LAST_DATA] = max(s[S_LAST_DATA], end)
    if p[P_DEPENDENT]:
        s[S_CHAIN_READY] = end + 1
    finish_request(s, desc, transfers, s[p[P_O_SLOT_DESC] + slot], end)
    s[p[P_O_FREE] + s[S_FREE]] = slot
    s[S_FREE] += 1


@inlined
def update_mode(s: Int64Array, p: Int64Array) -> None:
    """Read or write mode: writes gather until the high watermark (or no read waits), then drain to the low one."""
    if s[S_WRITE_MODE] == 0:
        if s[S_WRITES] >= p[P_DRAIN_ON] or s[S_READS] == 0:
            s[S_WRITE_MODE] = 1
    elif s[S_WRITES] <= p[P_DRAIN_OFF] and s[S_READS] > 0:
        s[S_WRITE_MODE] = 0


@compiled
def push_refreshes(s: Int64Array, p: Int64Array) -> None:
    """One more refresh is due in every scope; those that may not be postponed any longer become urgent."""
    s[S_NEXT_REFRESH] += p[P_REFI]
    for scope in range(p[P_SCOPES]):
        s[p[P_O_OWED] + scope] += 1
        waiting = 0
        for k in range(s[S_PRIORITY_COUNT]):
            target = s[p[P_O_PRIORITY] + (s[S_PRIORITY_HEAD] + k) % PRIORITY_RING]
            waiting += (-1 - target if target < 0 else target >> p[P_SCOPE_SHIFT]) == scope
        s[S_OWED_MAX] = max(s[S_OWED_MAX], s[p[P_O_OWED] + scope] + waiting)
        while s[p[P_O_OWED] + scope] > p[P_POSTPONE]:
            push_refresh(s, p, scope)


@compiled
def pull_owed_refreshes(s: Int64Array, p: Int64Array) -> bool:
    """The channel is idle: pay back one owed refresh of each scope; gives whether there was one."""
    pulled = False
    for scope in range(p[P_SCOPES]):
        if s[p[P_O_OWED] + scope] > 0:
            push_refresh(s, p, scope)
            pulled = True
    return pulled


@compiled
def push_refresh(s: Int64Array, p: Int64Array, scope: int) -> None:
    """Make one owed refresh of *scope* urgent."""
    s[p[P_O_OWED] + scope] -= 1
    target = -1 - scope
    if p[P_PER_BANK]:
        target = (scope << p[P_SCOPE_SHIFT]) + s[p[P_O_NEXT_BANK] + scope]
        s[p[P_O_NEXT_BANK] + scope] = (s[p[P_O_NEXT_BANK] + scope] + 1) % (1 << p[P_SCOPE_SHIFT])
    s[p[P_O_PRIORITY] + (s[S_PRIORITY_HEAD] + s[S_PRIORITY_COUNT]) % PRIORITY_RING] = target
    s[S_PRIORITY_COUNT] += 1


@compiled
def retire_refresh(s: Int64Array, p: Int64Array) -> None:
    """The refresh at the head of the urgent ones was issued."""
    s[S_PRIORITY_HEAD] = (s[S_PRIORITY_HEAD] + 1) % PRIORITY_RING
    s[S_PRIORITY_COUNT] -= 1


@compiled
def next_horizon(states: Int64Array, p: Int64Array, descs: Int64Array, bound: Int64Array, until: int) -> int:
    """How far all channels may run ahead: to *until*, or to where the first transfer might end."""
    bound[:, 0] = -1
    horizon = until
    for c in range(states.shape[0]):
        s, desc = states[c], descs[c]
        while s[S_DESC_LOW] < s[S_DESC_TAIL] and desc[s[S_DESC_LOW], D_LEFT] == 0:
            s[S_DESC_LOW] += 1
        looked = min(s[S_DESC_TAIL], s[S_DESC_LOW] + LOOKED)
        last = s[S_DESC_TAIL] - 1
        if looked <= last:
            x = desc[last, D_TRANSFER]
            if desc[looked, D_TRANSFER] == x:
                bound[x, 1] += last + 1 - looked        # descriptors of a transfer stand together: all of them are of this one
                looked = s[S_DESC_TAIL]
            else:
                # What lies behind has not been admitted: one request a cycle is, so none of it ends sooner than this.
                horizon = min(horizon, s[S_NOW] + max(0, looked - s[S_DESC_HEAD]) + p[P_LOOKAHEAD])
        for d in range(s[S_DESC_LOW], min(looked, s[S_DESC_LOW] + LOOKED)):
            bound[desc[d, D_TRANSFER], 1] += desc[d, D_LEFT]
        for d in range(s[S_DESC_LOW], min(looked, s[S_DESC_LOW] + LOOKED + 1)):
            x = desc[d, D_TRANSFER]
            if bound[x, 1] > 0:
                soonest = s[S_NOW] + (bound[x, 1] - 1) * p[P_MIN_COLUMN_GAP] + p[P_LOOKAHEAD]
                bound[x, 0], bound[x, 1] = max(bound[x, 0], soonest), 0
    for x in range(bound.shape[0]):
        if 0 <= bound[x, 0] < horizon:
            horizon = bound[x, 0]
    return horizon
