"""The channels of a memory as classes: channels with the same starting state and the same requests are simulated once.

A class is one row of controller state and one list of descriptors. A transfer that asks different things of a class's members
splits it: the representative's state and list are copied. With *exact*, every channel is a class of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import layout as at
from .controller import descriptors
from .tables import Tables

Int64Array = npt.NDArray[np.int64]
_FIRST_DESCRIPTORS = 64


class Channels:
    """States and descriptors of the classes, and which channels each class stands for."""

    def __init__(self, tables: Tables, channels: int, refresh_phases: int, *, exact: bool) -> None:
        self.tables, self.total = tables, channels
        phase = np.arange(channels) * refresh_phases // channels if refresh_phases > 1 else np.zeros(channels, np.int64)
        keys = np.arange(channels) if exact else phase
        kinds, first = np.unique(keys, return_index=True)
        self.members: list[Int64Array] = [np.flatnonzero(keys == kind) for kind in kinds]
        self._note_members()
        self.states = tables.new_states(len(kinds))
        interval = int(tables.params[at.P_REFI])
        if interval > 0 and refresh_phases > 1:
            # The k-th of n groups begins k n-ths of an interval earlier, so that its bound on postponing holds too.
            self.states[:, at.S_NEXT_REFRESH] -= phase[first] * interval // refresh_phases
        self.descriptors = np.zeros((len(kinds), _FIRST_DESCRIPTORS, at.D_SIZE), np.int64)

    def _note_members(self) -> None:
        """The first member of each class, and for each channel the first member of its class."""
        self._first = np.array([members[0] for members in self.members], np.int64)
        self._stand_in = np.empty(self.total, np.int64)
        for members in self.members:
            self._stand_in[members] = members[0]

    @property
    def classes(self) -> int:
        return len(self.members)

    def submit(
        self, low: Int64Array, high: Int64Array, tick: int, write: bool, transfers: Int64Array, transfer: int,
    ) -> None:
        """Queue the channel-local bursts [low, high) of each channel (rows) and range (columns) for row *transfer* of the table."""
        self._split(low, high, transfers)
        if low.shape[1] == 1:
            transfers[transfer] = self._submit_one(low[self._first, 0], high[self._first, 0], tick, write, transfer), 0
            return
        made = 0
        for k, members in enumerate(self.members):
            start = low[members[0]]
            count = high[members[0]] - start
            wanted = count > 0
            number = int(wanted.sum())
            if not number:
                continue
            tail = self._room(k, number)
            self.descriptors[k, tail:tail + number] = descriptors(
                start[wanted], count[wanted], np.full(number, tick), np.full(number, write), transfer)
            self.states[k, at.S_DESC_TAIL] = tail + number
            made += number
        transfers[transfer] = made, 0

    def _submit_one(self, low: Int64Array, high: Int64Array, tick: int, write: bool, transfer: int) -> int:
        """Queue one run of bursts for each class that has any; gives how many have."""
        wanted = np.flatnonzero(high > low)
        if int(self.states[:, at.S_DESC_TAIL].max()) == self.descriptors.shape[1]:
            for k in wanted:
                self._room(int(k), 1)
        tail = self.states[wanted, at.S_DESC_TAIL]
        count = (high - low)[wanted]
        self.descriptors[wanted, tail] = descriptors(low[wanted], count, np.full_like(count, tick), write, transfer)
        self.states[wanted, at.S_DESC_TAIL] = tail + 1
        return len(wanted)

    def _split(self, low: Int64Array, high: Int64Array, transfers: Int64Array) -> None:
        """Part every class whose members are asked different things."""
        wanted = np.concatenate((low, high - low), axis=1)
        wanted[:, :low.shape[1]] *= high > low            # where nothing is wanted it does not matter from where
        if (wanted == wanted[self._stand_in]).all():
            return
        for k in range(len(self.members)):
            members = self.members[k]
            rows = wanted[members]
            if (rows == rows[0]).all():
                continue
            alike: dict[bytes, list[int]] = {}
            for row, member in zip(rows.astype(">i8"), members.tolist(), strict=True):
                alike.setdefault(row.tobytes(), []).append(member)
            # In the order of their numbers, which is that of big-endian bytes: numbers of bursts are not negative.
            parts = [np.array(alike[row], np.int64) for row in sorted(alike)]
            self.members[k] = parts[0]
            self.members.extend(parts[1:])
            for part in self.descriptors[k, :int(self.states[k, at.S_DESC_TAIL])]:
                if part[at.D_LEFT] > 0:                   # a transfer in flight now ends in more places
                    transfers[part[at.D_TRANSFER], at.X_LEFT] += len(parts) - 1
            self.states = np.concatenate((self.states, np.repeat(self.states[k:k + 1], len(parts) - 1, axis=0)))
            self.descriptors = np.concatenate((self.descriptors, np.repeat(self.descriptors[k:k + 1], len(parts) - 1, axis=0)))
        self._note_members()

    def _room(self, k: int, number: int) -> int:
        """Where *number* more descriptors of class *k* go: finished ones are dropped, the table grows when it must."""
        state = self.states[k]
        tail = int(state[at.S_DESC_TAIL])
        if tail + number <= self.descriptors.shape[1]:
            return tail
        done = int(state[at.S_DESC_LOW])
        left = self.descriptors[k, :, at.D_LEFT]
        while done < state[at.S_DESC_HEAD] and left[done] == 0:
            done += 1
        if done:
            self.descriptors[k, :tail - done] = self.descriptors[k, done:tail].copy()
            for index in (at.S_DESC_HEAD, at.S_DESC_TAIL):
                state[index] -= done
            state[at.S_DESC_LOW] = 0
            offset, slots = int(self.tables.params[at.P_O_SLOT_DESC]), int(self.tables.params[at.P_SLOTS])
            state[offset:offset + slots] -= done
            tail -= done
        while tail + number > self.descriptors.shape[1]:
            self.descriptors = np.concatenate((self.descriptors, np.zeros_like(self.descriptors)), axis=1)
        return tail

    def counters(self) -> dict[str, Any]:
        """Sums over all channels."""
        weight = np.array([len(members) for members in self.members], np.int64)
        p, total = self.tables.params, (self.states * weight[:, None]).sum(axis=0)
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

    def open_cycles(self, end: int) -> int:
        """Cycles up to *end* with at least one bank open, summed over every scope (rank, pseudo-channel) of every channel."""
        p, total = self.tables.params, 0
        scopes = int(p[at.P_SCOPES])
        for state, members in zip(self.states, self.members, strict=True):
            past = state[p[at.P_O_OPEN_CYCLES]:p[at.P_O_OPEN_CYCLES] + scopes]
            since = state[p[at.P_O_OPEN_SINCE]:p[at.P_O_OPEN_SINCE] + scopes]
            is_open = state[p[at.P_O_OPEN_BANKS]:p[at.P_O_OPEN_BANKS] + scopes] > 0
            total += len(members) * int(past.sum() + np.maximum(0, end - since[is_open]).sum())
        return total
