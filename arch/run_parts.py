"""What the units of a run share and wait for: room in the scratchpad, links, and the records of a step that have ended."""

from __future__ import annotations

import math

import simpy

from ..sim.program import Segment
from ..sim.units import PS_PER_S
from .machine import LinkConfig


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
    """Progress of one step: which records ended, who waits for them."""

    __slots__ = ("done", "ended", "gate", "remaining", "users", "waiting")

    def __init__(self, env: simpy.Environment, segment: Segment) -> None:
        self.ended = bytearray(len(segment.records))
        self.remaining = len(segment.records)
        self.waiting: dict[int, simpy.Event] = {}
        self.gate: simpy.Event = env.event()
        self.done: simpy.Event = env.event()
        self.users = [0] * len(segment.buffers)
