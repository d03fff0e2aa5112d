"""The channels of a memory as classes: channels with the same starting state and the same requests are simulated once.

A class is one row of controller state and one list of descriptors. A transfer that asks different things of a class's members
splits it: the representative's state and list are copied. Classes that a transfer asks alike while nothing is in flight become
one again when nothing is left of what parted them (:mod:`tilesim.memory.kernel_equal`): equal to the exact run, to the cycle.
What the class that goes has counted besides is kept, so that sums over all channels stay right. With *exact*, every channel is
a class of its own and remains one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import layout as at
from .address import Asked
from .advance import advance
from .controller import descriptors
from .kernel_equal import find_equals
from .tables import Tables

Int64Array = npt.NDArray[np.int64]
_FIRST_DESCRIPTORS = 64
#: Classes are compared after they served so many bursts alike: about what it costs to compare, unite and part them.
_WORTH_A_LOOK = 1000
NO_LOG = np.zeros((1, 0, at.L_SIZE), np.int64)


class Channels:
    """States and descriptors of the classes, and which channels each class stands for."""

    def __init__(self, tables: Tables, channels: int, refresh_phases: int, *, exact: bool) -> None:
        self.tables, self.total = tables, channels
        phase = np.arange(channels) * refresh_phases // channels if refresh_phases > 1 else np.zeros(channels, np.int64)
        keys = np.arange(channels) if exact else phase
        kinds, first = np.unique(keys, return_index=True)
        self.members: list[Int64Array] = [np.flatnonzero(keys == kind) for kind in kinds]
        self._note_members()
        self._states = tables.new_states(len(kinds))                # room for more classes than there are
        interval = int(tables.params[at.P_REFI])
        if interval > 0 and refresh_phases > 1:
            # The k-th of n groups begins k n-ths of an interval earlier, so that its bound on postponing holds too.
            self._states[:, at.S_NEXT_REFRESH] -= phase[first] * interval // refresh_phases
        self._descriptors = np.zeros((len(kinds), _FIRST_DESCRIPTORS, at.D_SIZE), np.int64)
        self._unites = not exact
        self._served_twice = 0                                      # bursts that several classes served alike
        self._besides = np.zeros(self._states.shape[1], np.int64)   # counts of classes that are gone beyond their successors'
        self._open_besides = 0
        self.most, self.fewest = len(kinds), channels               # classes at a time, of those that were asked something

    def _note_members(self) -> None:
        """The first member of each class, and for each channel the first member of its class."""
        self._first = np.array([members[0] for members in self.members], np.int64)
        self._stand_in = np.empty(self.total, np.int64)
        for members in self.members:
            self._stand_in[members] = members[0]

    @property
    def classes(self) -> int:
        return len(self.members)

    @property
    def states(self) -> Int64Array:
        """(classes, words)"""
        return self._states[:len(self.members)]

    @property
    def descriptors(self) -> Int64Array:
        """(classes, descriptors, D_SIZE)"""
        return self._descriptors[:len(self.members)]

    def advance(self, transfers: Int64Array, bound: Int64Array, until: int) -> int:
        """Advance all classes to cycle *until* or to the end of a transfer; gives how many ended."""
        return advance(self.states, self.tables, self.descriptors, transfers, NO_LOG, bound, until)

    def submit(self, asked: Asked, tick: int, write: bool, transfers: Int64Array, transfer: int, *, idle: bool) -> None:
        """Queue what is *asked* from cycle *tick* on for row *transfer* of the table.

        *idle*: nothing is in flight, and no cycle behind *tick* was simulated.
        """
        if idle:
            self.states[:, [at.S_DESC_HEAD, at.S_DESC_TAIL, at.S_DESC_LOW]] = 0
        self._split(asked.kind, transfers)
        if self._unites and len(self.members) > len(asked.runs):
            self._served_twice += (len(self.members) - len(asked.runs)) * asked.bursts // len(asked.runs)
            if idle and self._served_twice > _WORTH_A_LOOK:
                self._unite(asked.kind, tick, transfers)
                self._served_twice = 0
        self.most, self.fewest = max(self.most, len(self.members)), min(self.fewest, len(self.members))
        kinds = asked.kind[self._first]
        if max(len(runs) for runs in asked.runs) == 1:
            runs = np.array([runs[0] if len(runs) else (0, 0) for runs in asked.runs])[kinds]
            transfers[transfer] = self._submit_one(runs[:, 0], runs[:, 1], tick, write, transfer), 0
            return
        rows, made = [descriptors(runs[:, 0], runs[:, 1], tick, write, transfer) for runs in asked.runs], 0
        for k, kind in enumerate(kinds):
            number = len(rows[kind])
            if number:
                tail = self._room(k, number)
                self._descriptors[k, tail:tail + number] = rows[kind]
                self._states[k, at.S_DESC_TAIL] = tail + number
                made += number
        transfers[transfer] = made, 0

    def _submit_one(self, start: Int64Array, count: Int64Array, tick: int, write: bool, transfer: int) -> int:
        """Queue one run of bursts for each class that has any; gives how many have."""
        wanted = np.flatnonzero(count)
        if int(self.states[:, at.S_DESC_TAIL].max()) == self._descriptors.shape[1]:
            for k in wanted:
                self._room(int(k), 1)
        tail = self._states[wanted, at.S_DESC_TAIL]
        self._descriptors[wanted, tail] = descriptors(start[wanted], count[wanted], tick, write, transfer)
        self._states[wanted, at.S_DESC_TAIL] = tail + 1
        return len(wanted)

    def _split(self, kind: Int64Array, transfers: Int64Array) -> None:
        """Part every class whose members are asked different things."""
        other = kind != kind[self._stand_in]
        if not other.any():
            return
        mixed = np.unique(self._stand_in[other])
        for k in [k for k, members in enumerate(self.members) if members[0] in mixed]:
            members, old = self.members[k], len(self.members)
            parts = [members[kind[members] == i] for i in np.unique(kind[members])]
            self.members[k] = parts[0]
            self.members.extend(parts[1:])
            while len(self.members) > len(self._states):
                self._states = np.concatenate((self._states, np.zeros_like(self._states)))
                self._descriptors = np.concatenate((self._descriptors, np.zeros_like(self._descriptors)))
            tail = int(self._states[k, at.S_DESC_TAIL])
            self.states[old:], self.descriptors[old:, :tail] = self._states[k], self._descriptors[k, :tail]
            table = self._descriptors[k, :tail]
            in_flight = table[table[:, at.D_LEFT] > 0, at.D_TRANSFER]
            np.add.at(transfers[:, at.X_LEFT], in_flight, len(parts) - 1)     # each ends in more places now
        self._note_members()

    def _unite(self, kind: Int64Array, tick: int, transfers: Int64Array) -> None:
        """Make one of all classes that are asked the same and, nothing being in flight, will do the same."""
        asked = kind[self._first]
        if len(np.unique(asked)) == len(asked):
            return
        ended = self.advance(transfers, np.zeros((len(transfers), 2), np.int64), tick)
        assert ended == 0, "nothing was in flight"
        into = np.empty_like(asked)
        if not find_equals(self.states, self.tables.params, self.tables.rules, asked, tick, into):
            return
        for k in np.flatnonzero(into != np.arange(len(into))):
            j, gone = into[k], len(self.members[k])
            ours, other = self._states[j], self._states[k]
            self._besides += gone * (other - ours)
            self._open_besides += gone * (self._open_cycles(other, tick) - self._open_cycles(ours, tick))
            ours[at.S_OWED_MAX] = max(ours[at.S_OWED_MAX], other[at.S_OWED_MAX])
            self.members[j] = np.sort(np.concatenate((self.members[j], self.members[k])))
        left = np.flatnonzero(into == np.arange(len(into)))
        self._states[:len(left)] = self._states[left]                         # all descriptors are done: they need not move
        self.members = [self.members[k] for k in left]
        self._note_members()

    def _room(self, k: int, number: int) -> int:
        """Where *number* more descriptors of class *k* go: finished ones are dropped, the table grows when it must."""
        state = self.states[k]
        tail = int(state[at.S_DESC_TAIL])
        if tail + number <= self.descriptors.shape[1]:
            return tail
        done = int(state[at.S_DESC_LOW])
        left = self.descriptors[k, :, at.D_LEFT]
        waiting = np.flatnonzero(left[done:int(state[at.S_DESC_HEAD])])
        done = done + int(waiting[0]) if len(waiting) else int(state[at.S_DESC_HEAD])
        if done:
            self.descriptors[k, :tail - done] = self.descriptors[k, done:tail].copy()
            for index in (at.S_DESC_HEAD, at.S_DESC_TAIL):
                state[index] -= done
            state[at.S_DESC_LOW] = 0
            offset, slots = int(self.tables.params[at.P_O_SLOT_DESC]), int(self.tables.params[at.P_SLOTS])
            state[offset:offset + slots] -= done
            tail -= done
        while tail + number > self._descriptors.shape[1]:
            self._descriptors = np.concatenate((self._descriptors, np.zeros_like(self._descriptors)), axis=1)
        return tail

    def counters(self) -> dict[str, Any]:
        """Sums over all channels."""
        weight = np.array([len(members) for members in self.members], np.int64)
        p, total = self.tables.params, (self.states * weight[:, None]).sum(axis=0) + self._besides
        counts = total[p[at.P_O_COUNT]:p[at.P_O_COUNT] + p[at.P_COMMANDS]]
        pairs = {name: int(total[first] + total[first + 1]) for name, first in (
            ("row_hits", at.S_ROW_HITS), ("row_misses", at.S_ROW_MISSES), ("row_conflicts", at.S_ROW_CONFLICTS))}
        return {
            "commands": {name: int(n) for name, n in zip(self.tables.commands, counts, strict=True)},
            **pairs,
            "reads": int(total[at.S_READS_DONE]), "writes": int(total[at.S_WRITES_DONE]),
            "merged": int(total[at.S_MERGED] + total[at.S_MERGED + 1]), "turnarounds": int(total[at.S_TURNAROUNDS]),
            "refreshes_owed_max": int(self.states[:, at.S_OWED_MAX].max()),
        }

    def refreshes_owed(self) -> float:
        """Refreshes postponed, a mean over all scopes (ranks, pseudo-channels) of all channels."""
        p = self.tables.params
        scopes = int(p[at.P_SCOPES])
        owed = self.states[:, p[at.P_O_OWED]:p[at.P_O_OWED] + scopes].sum(axis=1)
        return float(sum(len(members) * int(own) for members, own in zip(self.members, owed, strict=True))) / (self.total * scopes)

    def open_cycles(self, end: int) -> int:
        """Cycles up to *end* with at least one bank open, summed over every scope (rank, pseudo-channel) of every channel."""
        return self._open_besides + sum(len(members) * self._open_cycles(state, end)
                                        for state, members in zip(self.states, self.members, strict=True))

    def _open_cycles(self, state: Int64Array, end: int) -> int:
        """The same for one channel in *state*."""
        p = self.tables.params
        scopes = int(p[at.P_SCOPES])
        past = state[p[at.P_O_OPEN_CYCLES]:p[at.P_O_OPEN_CYCLES] + scopes]
        since = state[p[at.P_O_OPEN_SINCE]:p[at.P_O_OPEN_SINCE] + scopes]
        is_open = state[p[at.P_O_OPEN_BANKS]:p[at.P_O_OPEN_BANKS] + scopes] > 0
        return int(past.sum() + np.maximum(0, end - since[is_open]).sum())
