"""What the units of a run share and wait for: room in the scratchpad, links, and the records of a step that have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import simpy

from ..sim.program import Segment
from ..sim.units import PS_PER_S
from .machine import LinkConfig

Int64Array = npt.NDArray[np.int64]


class Credits:
    """Bytes of an SRAM share that tiles own. One process acquires, in program order; whoever ends a tile gives back."""

    def __init__(self, env: simpy.Environment, capacity_bytes: int) -> None:
        self._env, self.free_bytes, self.capacity_bytes = env, capacity_bytes, capacity_bytes
        self._wanted = 0
        self._waiting: simpy.Event | None = None
        self.least_free_bytes = capacity_bytes

    @property
    def most_used_bytes(self) -> int:
        """The most bytes that were owned at once."""
        return self.capacity_bytes - self.least_free_bytes

    def acquire(self, nbytes: int) -> simpy.Event | None:
        """Take *nbytes*; None when they were free, else the event at which they are taken."""
        assert nbytes <= self.capacity_bytes, "the mapper let through a tile that cannot fit"
        assert self._waiting is None, "two processes allocate from one pool"
        if nbytes <= self.free_bytes:
            self._take(nbytes)
            return None
        self._wanted, self._waiting = nbytes, self._env.event()
        return self._waiting

    def release(self, nbytes: int) -> None:
        """Give *nbytes* back and wake the process that waits when its bytes now fit."""
        self.free_bytes += nbytes
        if self._waiting is not None and self._wanted <= self.free_bytes:
            self._take(self._wanted)
            waiting, self._waiting = self._waiting, None
            waiting.succeed()

    def _take(self, nbytes: int) -> None:
        self.free_bytes -= nbytes
        self.least_free_bytes = min(self.least_free_bytes, self.free_bytes)


class Link:
    """A link as a rate server: bytes leave no faster than its bandwidth, whatever is behind it."""

    def __init__(self, config: LinkConfig) -> None:
        self.config = config
        self.bytes = 0
        self._free_ps = 0

    def done_ps(self, start_ps: int, arrived_ps: int, nbytes: int) -> int:
        """When *nbytes* that streamed in between *start_ps* and *arrived_ps* have left at the other end."""
        occupied_ps = math.ceil(nbytes * PS_PER_S / self.config.bandwidth_bytes_per_s)
        self._free_ps = max(self._free_ps, start_ps) + occupied_ps
        self.bytes += nbytes
        return max(arrived_ps, self._free_ps) + self.config.latency_ps


class StepState:
    """Progress of one step: which records ended, who waits for them, and what stands in for what a loop left out."""

    __slots__ = ("buffers", "done", "ended", "gate", "remaining", "stands_in", "users_to_come", "waiting")

    def __init__(self, env: simpy.Environment, segment: Segment) -> None:
        self.ended = bytearray(len(segment.records))
        self.remaining = len(segment.records)
        self.waiting: dict[int, simpy.Event] = {}
        self.gate: simpy.Event = env.event()
        self.done: simpy.Event = env.event()
        self.users_to_come: list[int] | None = None    # of each buffer, once the first record has ended
        self.stands_in: Int64Array | None = None       # for each record the one that is simulated for it, once a loop was left
        self.buffers: dict[int, int] = {}              # buffer of a period that was left out → the one that stands in for it

    def stand_in(self, record: int) -> int:
        """The record that is simulated for *record*."""
        return record if self.stands_in is None else int(self.stands_in[record])

    def let_stand_in(self, first: int, moved: Sequence[int]) -> None:
        """Records from *first* on are left out, those in *moved* are simulated in their place; who stood in before passes it on."""
        if self.stands_in is None:
            self.stands_in = np.arange(len(self.ended), dtype=np.int64)
        self.stands_in[first:first + len(moved)] = self.stands_in[np.array(moved, np.int64)]
        left_out = (self.stands_in >= first) & (self.stands_in < first + len(moved))
        self.stands_in[left_out] = self.stands_in[self.stands_in[left_out]]
        self.remaining -= len(moved)

    def buffer(self, buffer: int) -> int:
        """The buffer that is owned for *buffer*."""
        while buffer in self.buffers:
            buffer = self.buffers[buffer]
        return buffer
