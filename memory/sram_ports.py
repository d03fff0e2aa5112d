"""Banked SRAM under contention: lanes that collide in banks, requesters that share ports, tiles that share bandwidth.

Words interleave over the banks; each bank has one read and one write port (see :class:`tilesim.memory.sram.SramConfig`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from numba import njit

from .sram import SramConfig

Int64Array = npt.NDArray[np.int64]


def bank_of(config: SramConfig, address: Int64Array) -> Int64Array:
    """The bank that holds each byte address."""
    return np.asarray(address // config.bank_width_bytes % config.banks)


def vector_cycles(config: SramConfig, address: Int64Array) -> Int64Array:
    """Cycles that each row of *address* (lanes that ask together) takes: the most distinct words that one bank must give.

    Lanes that want the same word share it (broadcast). A negative address is a lane that wants nothing.
    """
    words = np.where(address < 0, -1, address // config.bank_width_bytes)
    return np.asarray(conflict_cycles(np.ascontiguousarray(words), config.banks))


@njit(cache=True)
def conflict_cycles(words: Int64Array, banks: int) -> Int64Array:
    """For each row of word numbers, the largest count of distinct words in one bank; at least 1."""
    rows, lanes = words.shape
    cycles = np.ones(rows, np.int64)
    for r in range(rows):
        for lane in range(lanes):
            word = words[r, lane]
            if word < 0:
                continue
            count, first = 1, True
            for other in range(lanes):
                if words[r, other] < 0 or other == lane:
                    continue
                if words[r, other] == word:
                    first = first and other > lane
                elif words[r, other] % banks == word % banks:
                    new = True               # count each distinct word of the bank once
                    for before in range(other):
                        if words[r, before] == words[r, other]:
                            new = False
                    if new:
                        count += 1
            if first:
                cycles[r] = max(cycles[r], count)
    return cycles


@dataclass(frozen=True, slots=True)
class PortRun:
    """What requesters that share the ports got."""

    cycles: int                          # to the last grant
    finish: tuple[int, ...]              # of each requester
    stalled: tuple[int, ...]             # cycles that each waited for a bank


def share_ports(config: SramConfig, streams: Sequence[Int64Array], writes: Sequence[bool]) -> PortRun:
    """Requesters, each with a stream of byte addresses and one request a cycle, in order; a bank grants one read and one write
    a cycle, round robin."""
    longest = max((len(stream) for stream in streams), default=0)
    bank = np.full((len(streams), longest), -1, np.int64)
    for k, stream in enumerate(streams):
        bank[k, :len(stream)] = bank_of(config, stream)
    length = np.array([len(stream) for stream in streams], np.int64)
    finish, stalled = np.zeros(len(streams), np.int64), np.zeros(len(streams), np.int64)
    grant_slots(bank, length, np.array(writes, np.int64), config.banks, np.zeros((2, config.banks), np.int64) - 1, finish, stalled)
    return PortRun(int(finish.max(initial=0)), tuple(map(int, finish)), tuple(map(int, stalled)))


@njit(cache=True)
def grant_slots(
    bank: Int64Array, length: Int64Array, write: Int64Array, banks: int, taken: Int64Array, finish: Int64Array, stalled: Int64Array,
) -> None:
    """Step the cycles: each requester in turn, beginning with another one each cycle, takes its bank's port if it is free."""
    requesters = len(length)
    done = np.zeros(requesters, np.int64)
    left = 0
    for k in range(requesters):
        if length[k] > 0:
            left += 1
    cycle = 0
    while left > 0:
        for turn in range(requesters):
            k = (cycle + turn) % requesters
            if done[k] == length[k]:
                continue
            wanted = bank[k, done[k]]
            if taken[write[k], wanted] == cycle:
                stalled[k] += 1
                continue
            taken[write[k], wanted] = cycle
            done[k] += 1
            if done[k] == length[k]:
                finish[k] = cycle + 1
                left -= 1
        cycle += 1


def tile_finish_cycles(config: SramConfig, tiles: Sequence[tuple[int, int, int]]) -> list[int]:
    """When each tile (start cycle, bytes, most bytes a cycle) has moved, tiles of one direction sharing all banks evenly.

    The fluid limit of many interleaved requests: max-min fair shares of ``banks × width`` bytes a cycle, exact in rationals and
    rounded up to cycles. Use it at tile grain, where addresses are spread over all banks.
    """
    capacity = Fraction(config.bytes_per_cycle)
    left = {i: Fraction(nbytes) for i, (_, nbytes, _) in enumerate(tiles)}
    finish = [start for start, _, _ in tiles]
    now = Fraction(min((start for start, _, _ in tiles), default=0))
    while left:
        active = [i for i in left if tiles[i][0] <= now]
        later = [Fraction(tiles[i][0]) for i in left if tiles[i][0] > now]
        if not active:
            now = min(later)
            continue
        rates = _fair_shares(capacity, {i: Fraction(tiles[i][2]) for i in active})
        until = min([now + left[i] / rates[i] for i in active] + later)
        for i in active:
            left[i] -= rates[i] * (until - now)
            if left[i] <= 0:
                finish[i] = -(-until.numerator // until.denominator)
                del left[i]
        now = until
    return finish


def _fair_shares(capacity: Fraction, most: dict[int, Fraction]) -> dict[int, Fraction]:
    """Max-min fair rates under a common *capacity* and a limit for each."""
    rates: dict[int, Fraction] = {}
    for i, limit in sorted(most.items(), key=lambda item: item[1]):
        share = min(limit, (capacity - sum(rates.values(), Fraction(0))) / (len(most) - len(rates)))
        rates[i] = share
    return rates
