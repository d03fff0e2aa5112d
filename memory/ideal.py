"""An ideal memory: a rate and a latency. For comparison with papers that assume one; no machine has it unless its file says so.

The rule: transfers, reads and writes alike, are served one after the other in the order in which they were asked for, each
at the full rate; a transfer ends the latency after its last byte has left. Transfers in flight together therefore share
the rate, none is faster than it, and latencies overlap. There are no rows, banks, bursts, refresh or turnarounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy.typing as npt
import simpy
from pydantic import Field

from ..sim.config import Config
from ..sim.units import BITS_PER_BYTE, PS_PER_S, Bytes, BytesPerSecond, PicojoulesPerBit, Picoseconds, si_text
from .traffic import Traffic, asked_ranges


class IdealMemoryConfig(Config):
    """An ideal memory of a machine. Nothing has a default: *source* says whose assumption the rate, latency and energy are."""

    type: Literal["ideal"]
    capacity_bytes: Annotated[Bytes, Field(gt=0)]
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(gt=0, le=1e18)]
    latency_ps: Annotated[Picoseconds, Field(ge=0)]
    read_energy_pj_per_bit: PicojoulesPerBit
    write_energy_pj_per_bit: PicojoulesPerBit
    source: Annotated[str, Field(min_length=1)]

    @property
    def peak_bytes_per_s(self) -> float:
        return self.bandwidth_bytes_per_s


class IdealMemory:
    """One ideal memory in a SimPy environment; see the module's text for its rule."""

    def __init__(self, env: simpy.Environment, config: IdealMemoryConfig) -> None:
        self.env, self.config = env, config
        self.capacity_bytes, self.peak_bytes_per_s = config.capacity_bytes, config.bandwidth_bytes_per_s
        self.read_bytes = self.written_bytes = self.last_burst_bytes = 0
        self.burst_bytes, self.refresh_interval_ps = 1, 0
        self._ps_per_byte = Fraction(PS_PER_S) / Fraction(config.bandwidth_bytes_per_s)
        self._free_ps = Fraction(0)                     # exact: rounded times would add up to another rate

    def transfer(self, ranges: npt.ArrayLike, write: bool) -> simpy.Event:
        """Move the byte *ranges*, (n, 2) of address and size, as one transfer; the event comes at its end."""
        asked = asked_ranges(ranges, self.capacity_bytes)
        done, self.last_burst_bytes = self.env.event(), 0
        if not len(asked):
            return done.succeed()
        nbytes = self.last_burst_bytes = int(asked[:, 1].sum())
        if write:
            self.written_bytes += nbytes
        else:
            self.read_bytes += nbytes
        now_ps = int(self.env.now)
        self._free_ps = max(self._free_ps, Fraction(now_ps)) + nbytes * self._ps_per_byte
        done._ok, done._value = True, None
        self.env.schedule(done, delay=math.ceil(self._free_ps) + self.config.latency_ps - now_ps)
        return done

    def moved_bytes(self, ranges: npt.ArrayLike) -> int:
        """What a transfer of *ranges* moves: just its bytes."""
        return int(asked_ranges(ranges, self.capacity_bytes)[:, 1].sum())

    def reduction(self) -> dict[str, Any]:
        """Nothing is reduced."""
        return {"used": False}

    def counted(self, now_ps: int) -> dict[str, Any]:
        """It counts nothing but bytes."""
        return {}

    def spent(self, before: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
        """Its energy is that of bytes alone, which the program fixes."""
        return 0.0, 0.0

    def replay(self, before: Mapping[str, Any], last: Mapping[str, Any], periods: int, traffic: Traffic, times: int,
               passed_ps: int) -> None:
        """Count *times* more periods of *traffic*."""
        self.read_bytes += times * traffic.read_bytes
        self.written_bytes += times * traffic.written_bytes

    def details(self, end_ps: int) -> dict[str, Any]:
        """The memory's entry of the report."""
        c = self.config
        return {"summary": f"ideal memory: {si_text(c.bandwidth_bytes_per_s, 'B/s')} in order, "
                           f"{si_text(c.latency_ps / PS_PER_S, 's')} latency; no rows, banks or refresh"}

    def energy_actions(self, end_ps: int) -> dict[str, tuple[int, float]]:
        """Counted actions and the energy of each in picojoules."""
        c = self.config
        return {"read bit": (self.read_bytes * BITS_PER_BYTE, c.read_energy_pj_per_bit),
                "write bit": (self.written_bytes * BITS_PER_BYTE, c.write_energy_pj_per_bit)}
