"""When two channels with nothing to do will do the same from now on, whatever they are asked: then one stands for both.

A channel's past lives on in its open rows, its refreshes and the waits between commands. A wait that is over by *now* is like any
other that is; slots, ages and lists that no request stands in say nothing. What is left is compared word by word.
"""

# The layout is the vocabulary of the kernels: its names are used bare.
# ruff: noqa: F403, F405
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .kernel_parts import PRIORITY_RING
from .layout import *

Int64Array = npt.NDArray[np.int64]


@compiled
def find_equals(states: Int64Array, p: Int64Array, rules: Int64Array, kinds: Int64Array, now: int, equal_to: Int64Array) -> int:
    """For each channel the first of its kind that will do the same from cycle *now* on (itself at worst); gives how many others.

    All of them must have been advanced to *now* and have nothing in flight. *kinds* and *equal_to* have an entry a channel.
    """
    found = 0
    for k in range(states.shape[0]):
        equal_to[k] = k
        for j in range(k):
            if kinds[j] == kinds[k] and equal_to[j] == j and same_future(states[j], states[k], p, rules, now):
                equal_to[k] = j
                found += 1
                break
    return found


@compiled
def same_future(a: Int64Array, b: Int64Array, p: Int64Array, rules: Int64Array, now: int) -> bool:
    """Whether two states with nothing in flight, advanced to *now*, differ in nothing that a later request could notice."""
    banks, scopes = p[P_BANKS], p[P_SCOPES]
    for at in range(p[P_O_OPEN_ROW], p[P_O_OPEN_ROW] + 2 * banks):          # both row buffers: most likely to differ
        if a[at] != b[at]:
            return False
    if a[S_NOW] < now or a[S_NOW] != b[S_NOW] or a[S_COLUMN_FROM] != b[S_COLUMN_FROM] or a[S_ROW_FROM] != b[S_ROW_FROM]:
        return False
    if (a[S_SPLIT_BANK] >= 0 or b[S_SPLIT_BANK] >= 0 or a[S_WRITE_MODE] != b[S_WRITE_MODE]
            or a[S_LAST_WAS_WRITE] != b[S_LAST_WAS_WRITE] or a[S_ROUND_ROBIN] != b[S_ROUND_ROBIN]
            or a[S_DRAINING] != b[S_DRAINING] or a[S_DRAIN_HELD] != b[S_DRAIN_HELD]):
        return False
    if (max(a[S_LAST_ADMIT] + 1, now) != max(b[S_LAST_ADMIT] + 1, now) or max(a[S_READ_ROOM], now) != max(b[S_READ_ROOM], now)
            or max(a[S_WRITE_ROOM], now) != max(b[S_WRITE_ROOM], now) or max(a[S_WCK_UNTIL], now) != max(b[S_WCK_UNTIL], now)
            or max(a[S_CHAIN_READY], now) != max(b[S_CHAIN_READY], now)):
        return False
    for at in range(p[P_O_BANK_READY], p[P_O_HISTORY]):                     # banks, groups and scopes: waits between commands
        if max(a[at], now) != max(b[at], now):
            return False
    return (_same_refresh(a, b, p, scopes) and _same_rows(a, b, p, banks, now) and _same_windows(a, b, p, rules, now))


@compiled
def _same_refresh(a: Int64Array, b: Int64Array, p: Int64Array, scopes: int) -> bool:
    """Whether the same refreshes are owed, urgent and next."""
    if a[S_NEXT_REFRESH] != b[S_NEXT_REFRESH] or a[S_PRIORITY_COUNT] != b[S_PRIORITY_COUNT]:
        return False
    ring = p[P_O_PRIORITY]
    for k in range(a[S_PRIORITY_COUNT]):
        if a[ring + (a[S_PRIORITY_HEAD] + k) % PRIORITY_RING] != b[ring + (b[S_PRIORITY_HEAD] + k) % PRIORITY_RING]:
            return False
    for scope in range(scopes):
        if (a[p[P_O_OWED] + scope] != b[p[P_O_OWED] + scope] or a[p[P_O_NEXT_BANK] + scope] != b[p[P_O_NEXT_BANK] + scope]
                or a[p[P_O_OPEN_BANKS] + scope] != b[p[P_O_OPEN_BANKS] + scope]):
            return False
    return True


@compiled
def _same_rows(a: Int64Array, b: Int64Array, p: Int64Array, banks: int, now: int) -> bool:
    """Whether the open rows (the same in both) have what the scheduler looks at: hits up to its cap, time since their last use."""
    cap = p[P_QUEUE_HIT_CAP] if p[P_SCHEDULER] == SCHED_BANKED else p[P_HIT_CAP]
    timeout = p[P_PAGE_TIMEOUT]
    served, used = p[P_O_HITS_SERVED], p[P_O_LAST_USE]
    for bank in range(banks):
        if a[p[P_O_OPEN_ROW] + bank] < 0:
            continue
        if min(a[served + bank], cap) != min(b[served + bank], cap):
            return False
        if timeout >= 0 and max(a[used + bank] + timeout, now) != max(b[used + bank] + timeout, now):
            return False
    return True


@compiled
def _same_windows(a: Int64Array, b: Int64Array, p: Int64Array, rules: Int64Array, now: int) -> bool:
    """Whether the windows over the last commands (four activates, …) hold the same cycles, oldest first, where they still bind."""
    for i in range(rules.shape[0]):
        if rules[i, R_HISTORY] < 0:
            continue
        window, wait = rules[i, R_WINDOW], rules[i, R_WAIT]
        for node in range(p[P_BANKS] >> rules[i, R_NODE_SHIFT]):
            ring = p[P_O_HISTORY] + rules[i, R_HISTORY] + node * (window + 1)
            for k in range(window):
                x, y = a[ring + 1 + (a[ring] + k) % window], b[ring + 1 + (b[ring] + k) % window]
                if x != y and max(x + wait, y + wait) > now:
                    return False
    return True
