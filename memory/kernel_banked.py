"""A scheduler with a command queue for each bank, served round robin (the structure of DRAMsim3's controller).

Requests wait in a read and a write queue; one a cycle moves to its bank's command queue, where the first ready command in order
goes out: a row hit from anywhere, a precharge only for the head and when no hit waits or enough hits were served.
"""

# The layout is the vocabulary of the kernels: its names are used bare.
# ruff: noqa: F403, F405
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .kernel_parts import (
    admit,
    finish_request,
    next_arrival,
    next_horizon,
    push_refreshes,
    record,
    retire_column,
    retire_refresh,
    unlink,
    waiting,
)
from .layout import *

Int64Array = npt.NDArray[np.int64]


@compiled
def run_banked(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, until: int, stop: int,
) -> None:
    """Advance one channel through every cycle before *until*; with *stop*, return as soon as a transfer has ended."""
    may_move = True
    while True:
        arrival = next_arrival(s, p, segments, desc)
        now = s[S_NOW]
        if arrival >= NEVER and s[S_BANK_QUEUED] == 0 and s[S_READS] + s[S_WRITES] > 0:
            may_move = True                             # nothing comes before what waits here has gone
        at, bank, command, slot = next_command(s, p, now)
        soonest = min(arrival, s[S_NEXT_REFRESH], now if may_move else at, at)
        if soonest >= until:
            break
        if soonest > now:
            now = soonest
        if arrival <= now:
            admit_banked(s, p, desc, transfers, now)
            may_move = True
        if s[S_NEXT_REFRESH] <= now:
            push_refreshes(s, p)
            at, bank, command, slot = next_command(s, p, now)
        if at <= now:
            may_move |= issue(s, p, rules, first, desc, transfers, log, bank, command, slot, now)
            if p[P_DUAL_BUS]:
                is_column = command == p[P_RD] or command == p[P_WR]
                at, bank, command, slot = next_command(s, p, now)
                if at <= now:
                    s[S_ROUND_ROBIN] = bank
                    if is_column != (command == p[P_RD] or command == p[P_WR]):
                        may_move |= issue(s, p, rules, first, desc, transfers, log, bank, command, slot, now)
        if may_move:
            may_move = move_request(s, p)
        s[S_NOW] = now + 1
        if stop and s[S_FINISHED] > 0:
            return
    s[S_NOW] = max(s[S_NOW], until)


@compiled
def next_command(s: Int64Array, p: Int64Array, now: int) -> tuple[int, int, int, int]:
    """(cycle, bank, command, slot) of the next command: of a due refresh, else of the first bank in turn that is ready."""
    banks, groups, group_shift = p[P_BANKS], p[P_GROUPS], p[P_GROUP_SHIFT]
    group_ready, bank_ready = p[P_O_GROUP_READY], p[P_O_BANK_READY]
    activate, precharge, read, write = p[P_ACT], p[P_PRE], p[P_RD], p[P_WR]
    best, best_bank, best_command, best_slot = NEVER, -1, -1, -1
    if s[S_PRIORITY_COUNT] > 0:
        scope = -1 - s[p[P_O_PRIORITY] + s[S_PRIORITY_HEAD]]
        low = scope << p[P_SCOPE_SHIFT]
        for bank in range(low, low + (1 << p[P_SCOPE_SHIFT])):
            if s[p[P_O_OPEN_ROW] + bank] >= 0:
                at = max(s[bank_ready + precharge * banks + bank], now)
                if at < best:
                    best, best_bank, best_command = at, bank, precharge
        if best_bank < 0:
            best = max(s[p[P_O_SCOPE_READY] + p[P_REFAB] * p[P_SCOPES] + scope], now) | p[P_ALIGN_ROW]
            best_bank, best_command = low, p[P_REFAB]
        return best, best_bank, best_command, -1
    head, hit_read, hit_write = p[P_O_QUEUE], p[P_O_QUEUE] + 2 * banks, p[P_O_QUEUE] + 3 * banks
    for turn in range(banks):
        bank = (s[S_ROUND_ROBIN] + 1 + turn) % banks
        slot = s[head + bank]
        if slot < 0:
            continue
        group = bank >> group_shift
        row = s[p[P_O_OPEN_ROW] + bank]
        if row < 0:
            at = max(s[bank_ready + activate * banks + bank], now) | p[P_ALIGN_ROW]
            if at < best:
                best, best_bank, best_command, best_slot = at, bank, activate, slot
            continue
        wanted_read, wanted_write = s[hit_read + bank], s[hit_write + bank]
        if s[p[P_O_SLOT_ROW] + slot] != row and (
                (wanted_read < 0 and wanted_write < 0) or s[p[P_O_HITS_SERVED] + bank] >= p[P_QUEUE_HIT_CAP]):
            at = max(s[bank_ready + precharge * banks + bank], now)
            if at < best:
                best, best_bank, best_command, best_slot = at, bank, precharge, slot
        read_at, write_at = NEVER, NEVER
        if wanted_read >= 0:
            read_at = max(s[group_ready + read * groups + group], s[bank_ready + read * banks + bank], now) | p[P_ALIGN_COLUMN]
        if wanted_write >= 0:
            write_at = max(s[group_ready + write * groups + group], s[bank_ready + write * banks + bank], now) | p[P_ALIGN_COLUMN]
        if read_at < write_at or (read_at == write_at and wanted_read >= 0 and s[p[P_O_SLOT_AGE] + wanted_read]
                                  < s[p[P_O_SLOT_AGE] + wanted_write]):
            if read_at < best:
                best, best_bank, best_command, best_slot = read_at, bank, read, wanted_read
        elif write_at < best:
            best, best_bank, best_command, best_slot = write_at, bank, write, wanted_write
    return best, best_bank, best_command, best_slot


@compiled
def issue(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, desc: Int64Array, transfers: Int64Array,
    log: Int64Array, bank: int, command: int, slot: int, now: int,
) -> bool:
    """Issue *command* and let the bank follow; gives whether its command queue has room again."""
    row = s[p[P_O_SLOT_ROW] + slot] if slot >= 0 else -1
    column = s[p[P_O_SLOT_COL] + slot] if slot >= 0 else -1
    record(s, p, rules, first, log, command, bank, row, column, s[p[P_O_SLOT_AGE] + slot] if slot >= 0 else -1, now)
    scope = bank >> p[P_SCOPE_SHIFT]
    if command == p[P_REFAB]:
        retire_refresh(s, p)
        return False
    if slot >= 0:
        s[S_ROUND_ROBIN] = bank
    if command == p[P_ACT]:
        s[p[P_O_OPEN_ROW] + bank] = row
        s[p[P_O_HITS_SERVED] + bank] = 0
        if s[p[P_O_SLOT_SEEN] + slot] == 0:
            s[p[P_O_SLOT_SEEN] + slot] = 1
            s[S_ROW_MISSES + s[p[P_O_SLOT_WRITE] + slot]] += 1
        if s[p[P_O_OPEN_BANKS] + scope] == 0:
            s[p[P_O_OPEN_SINCE] + scope] = now
        s[p[P_O_OPEN_BANKS] + scope] += 1
    elif command == p[P_PRE]:
        s[p[P_O_OPEN_ROW] + bank] = CLOSED
        if slot >= 0 and s[p[P_O_SLOT_SEEN] + slot] == 0:
            s[p[P_O_SLOT_SEEN] + slot] = 1
            s[S_ROW_CONFLICTS + s[p[P_O_SLOT_WRITE] + slot]] += 1
        s[p[P_O_OPEN_BANKS] + scope] -= 1
        if s[p[P_O_OPEN_BANKS] + scope] == 0:
            s[p[P_O_OPEN_CYCLES] + scope] += now - s[p[P_O_OPEN_SINCE] + scope]
    else:
        write = s[p[P_O_SLOT_WRITE] + slot]
        s[S_ROW_HITS + write] += s[p[P_O_SLOT_SEEN] + slot] == 0
        s[p[P_O_HITS_SERVED] + bank] += 1
        end = now + p[P_READ_LATENCY + write]
        _leave_bank(s, p, bank, slot)
        twin = s[p[P_O_TWIN] + slot]
        retire_column(s, p, desc, transfers, slot, write, now, end)
        while twin >= 0:
            after = s[p[P_O_TWIN] + twin]
            latency = end - s[p[P_O_SLOT_TICK] + twin] + 1
            s[S_READ_LATENCY_SUM] += latency
            s[S_READ_LATENCY_MAX] = max(s[S_READ_LATENCY_MAX], latency)
            s[S_READS_DONE] += 1
            finish_request(s, desc, transfers, s[p[P_O_SLOT_DESC] + twin], end)
            s[p[P_O_FREE] + s[S_FREE]] = twin
            s[S_FREE] += 1
            twin = after
    _find_hits(s, p, bank)
    return bool(command == p[P_RD] or command == p[P_WR])


@compiled
def _leave_bank(s: Int64Array, p: Int64Array, bank: int, slot: int) -> None:
    """Take *slot* out of its bank's command queue."""
    head, tail = p[P_O_QUEUE] + bank, p[P_O_QUEUE] + p[P_BANKS] + bank
    after, before = s[p[P_O_NEXT] + slot], s[p[P_O_PREV] + slot]
    if before >= 0:
        s[p[P_O_NEXT] + before] = after
    else:
        s[head] = after
    if after >= 0:
        s[p[P_O_PREV] + after] = before
    else:
        s[tail] = before
    s[p[P_O_QUEUE] + 4 * p[P_BANKS] + bank] -= 1
    s[S_BANK_QUEUED] -= 1


@compiled
def _find_hits(s: Int64Array, p: Int64Array, bank: int) -> None:
    """The oldest read and the oldest write in the bank's queue that want its open row."""
    hit_read, hit_write = -1, -1
    row = s[p[P_O_OPEN_ROW] + bank]
    slot = s[p[P_O_QUEUE] + bank] if row >= 0 else -1
    while slot >= 0:
        if s[p[P_O_SLOT_ROW] + slot] == row:
            if s[p[P_O_SLOT_WRITE] + slot]:
                if hit_write < 0:
                    hit_write = slot
            elif hit_read < 0:
                hit_read = slot
        slot = s[p[P_O_NEXT] + slot]
    s[p[P_O_QUEUE] + 2 * p[P_BANKS] + bank], s[p[P_O_QUEUE] + 3 * p[P_BANKS] + bank] = hit_read, hit_write


@compiled
def move_request(s: Int64Array, p: Int64Array) -> bool:
    """Move the oldest request of the queue in turn whose bank has room; gives whether one moved."""
    banks = p[P_BANKS]
    if s[S_DRAINING] == 0 and s[S_DRAIN_HELD] == 0:
        exhausted = (s[S_DESC_HEAD] == s[S_DESC_TAIL] or s[S_HEAD_FREE] == 0) and s[S_READS] == 0
        idle = s[S_BANK_QUEUED] == 0
        # Where nothing more comes (or what comes waits for them) the last writes go as well; the original leaves them for ever.
        if s[S_WRITES] >= p[P_WRITE_DEPTH] or (idle and (s[S_WRITES] > p[P_DRAIN_IDLE] or (exhausted and s[S_WRITES] > 0))):
            s[S_DRAINING] = s[S_WRITES]
    s[S_DRAIN_HELD] = 0
    queue = 1 if s[S_DRAINING] > 0 else 0
    oldest, chosen = NEVER, -1
    for k in range(s[S_BUSY_READ + queue]):
        bank = s[p[P_O_BUSY] + queue * banks + k]
        slot = s[p[P_O_HEAD] + queue * banks + bank]
        age = s[p[P_O_SLOT_AGE] + slot]
        if age < oldest and s[p[P_O_QUEUE] + 4 * banks + bank] < p[P_BANK_DEPTH]:
            oldest, chosen = age, slot
    if chosen < 0:
        return False
    bank = s[p[P_O_SLOT_BANK] + chosen]
    if queue:
        row, column = s[p[P_O_SLOT_ROW] + chosen], s[p[P_O_SLOT_COL] + chosen]
        if pending(s, p, bank, row, column, 0, -1) >= 0:
            s[S_DRAINING] = 0                           # a read of that address must go first
            # While it waits in the read queue, that queue has the next turn; the original drains again, and for ever.
            s[S_DRAIN_HELD] = waiting(s, p, 0, bank, row, column) >= 0
            return bool(s[S_READS] > 0)
        s[S_DRAINING] -= 1
    unlink(s, p, chosen, s[S_NOW])
    tail = p[P_O_QUEUE] + banks + bank
    last = s[tail]
    s[p[P_O_NEXT] + chosen], s[p[P_O_PREV] + chosen] = -1, last
    s[tail] = chosen
    if last >= 0:
        s[p[P_O_NEXT] + last] = chosen
    else:
        s[p[P_O_QUEUE] + bank] = chosen
    s[p[P_O_QUEUE] + 4 * banks + bank] += 1
    s[S_BANK_QUEUED] += 1
    hit = p[P_O_QUEUE] + (2 + queue) * banks + bank
    if s[hit] < 0 and s[p[P_O_OPEN_ROW] + bank] == s[p[P_O_SLOT_ROW] + chosen]:
        s[hit] = chosen
    return True


@compiled
def pending(s: Int64Array, p: Int64Array, bank: int, row: int, column: int, write: int, beside: int) -> int:
    """The slot of a request (read or *write*) to that place that has not gone out yet, other than *beside*, or -1."""
    slot = s[p[P_O_HEAD] + write * p[P_BANKS] + bank]
    while slot >= 0 and (slot == beside or s[p[P_O_SLOT_ROW] + slot] != row or s[p[P_O_SLOT_COL] + slot] != column):
        slot = s[p[P_O_NEXT] + slot]
    if slot >= 0:
        return int(slot)
    slot = s[p[P_O_QUEUE] + bank]
    while slot >= 0 and (s[p[P_O_SLOT_WRITE] + slot] != write or s[p[P_O_SLOT_ROW] + slot] != row
                         or s[p[P_O_SLOT_COL] + slot] != column):
        slot = s[p[P_O_NEXT] + slot]
    return int(slot)


@compiled
def admit_banked(s: Int64Array, p: Int64Array, desc: Int64Array, transfers: Int64Array, now: int) -> None:
    """Take the next request: into its queue, or beside a request to the same address that has not gone out yet."""
    slot = admit(s, p, desc, transfers, now)
    if slot < 0:
        return
    s[p[P_O_TWIN] + slot] = -1
    bank, write = s[p[P_O_SLOT_BANK] + slot], s[p[P_O_SLOT_WRITE] + slot]
    row, column, d = s[p[P_O_SLOT_ROW] + slot], s[p[P_O_SLOT_COL] + slot], s[p[P_O_SLOT_DESC] + slot]
    if p[P_MERGE]:
        other = pending(s, p, bank, row, column, 1, slot)
        if other >= 0:                # the write waits in the bank's queue: it serves this one too
            _forget(s, p, slot, now)
            s[S_MERGED + write] += 1
            s[S_READS_DONE + write] += 1
            if write == 0:
                s[S_READ_LATENCY_SUM] += 1
            finish_request(s, desc, transfers, d, now + 1)
            s[p[P_O_FREE] + s[S_FREE]] = slot
            s[S_FREE] += 1
            return
    if p[P_MERGE_READS] and write == 0:
        other = pending(s, p, bank, row, column, 0, slot)
        if other >= 0:
            _forget(s, p, slot, now)
            s[S_MERGED] += 1
            s[p[P_O_TWIN] + slot] = s[p[P_O_TWIN] + other]
            s[p[P_O_TWIN] + other] = slot


@compiled
def _forget(s: Int64Array, p: Int64Array, slot: int, now: int) -> None:
    """Take *slot* out of the queue that it has only just entered."""
    write = s[p[P_O_SLOT_WRITE] + slot]
    room = s[S_READ_ROOM + write]
    unlink(s, p, slot, now)
    s[S_READ_ROOM + write] = room


@compiled
def advance_banked(
    states: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, descs: Int64Array,
    transfers: Int64Array, logs: Int64Array, bound: Int64Array, until: int,
) -> int:
    """:func:`tilesim.memory.advance.advance` for this scheduler."""
    channels, finished = states.shape[0], 0
    while True:
        horizon = until if channels == 1 else next_horizon(states, p, descs, bound, until)
        for c in range(channels):
            if states[c, S_NOW] < horizon:
                states[c, S_FINISHED] = 0
                log = logs[c if logs.shape[0] > 1 else 0]
                run_banked(states[c], p, rules, first, segments, descs[c], transfers, log, horizon, int(channels == 1))
                finished += states[c, S_FINISHED]
        if channels == 1 or finished > 0 or horizon >= until:
            return finished
