"""What a machine's memory gives to loads and stores of windows, asked of its own controller.

A window of a tensor in C order is rows of *run* bytes, *stride* bytes apart. Short runs meet few channels, or one bank group again
and again, and then move at half the rate of whole rows: the search must know. So a sample of such a stream is simulated by
command once for each memory and shape of window.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import simpy

from ..memory.dram import DramConfig, DramSystem
from ..memory.kinds import MemoryConfig
from ..sim.units import PS_PER_S

#: Bursts of a sample for each channel bus. With eight times as many, shares differ by 0.06 at most on HBM and DDR4.
_BURSTS = 512
#: Rows of a sample at most; of short runs, which lose so much that a rough answer will do, fewer.
_ROWS, _SHORT_ROWS, _SHORT_BYTES = 512, 128, 1024
#: Refresh intervals over which the rate of whole tiles is measured.
_INTERVALS = 8
#: Transfers in flight together while measuring.
_IN_FLIGHT = 4
_MOST_CACHED = 4096


class Windows(Protocol):
    """Share of the rate of whole tiles that windows get."""

    def share(self, run_bytes: int, stride_bytes: int, write: bool, alone: bool = False) -> float:
        """For windows of runs of so many bytes so far apart: several beside each other in flight, or one *alone*."""

    def moved(self, run_bytes: int, stride_bytes: int) -> float:
        """Bytes that such windows move in whole bursts, over those that they ask for."""


@dataclass(frozen=True, slots=True)
class AllAlike:
    """A memory that does not care: an ideal one, or a toy's."""

    def share(self, run_bytes: int, stride_bytes: int, write: bool, alone: bool = False) -> float:
        """All of it."""
        return 1.0

    def moved(self, run_bytes: int, stride_bytes: int) -> float:
        """What they ask for."""
        return 1.0


@dataclass(slots=True)
class Measured:
    """A DRAM, asked by simulation; answers are kept."""

    config: DramConfig
    _shares: dict[tuple[int, int, bool, bool], float] = field(default_factory=dict)
    _flat_s: dict[bool, float] = field(default_factory=dict)

    def share(self, run_bytes: int, stride_bytes: int, write: bool, alone: bool = False) -> float:
        """The rate of a sample of such windows over that of the same bytes in one piece.

        Runs are taken as whole bursts, a power of two at or below: what counts is how many channels and banks they reach. Of what
        comes in a burst, the part that nobody asked for is lost.
        """
        if run_bytes >= stride_bytes:
            return 1.0
        burst, moved = self.config.device.organisation.bytes_per_burst, self.moved(run_bytes, stride_bytes)
        run = 1 << (max(int(run_bytes * moved), burst).bit_length() - 1)
        if run >= self._sample_bytes:
            return 1.0 / moved
        # Rows closer than that share bursts; the sample's have their own.
        stride_bytes = max(run, stride_bytes)
        key = run, stride_bytes, write, alone
        if key not in self._shares:
            if len(self._shares) >= _MOST_CACHED:
                self._shares.clear()
            self._shares[key] = min(1.0, self._flat(write) / self._window_s(run, stride_bytes, write, 1 if alone else _IN_FLIGHT))
        return self._shares[key] / moved

    def moved(self, run_bytes: int, stride_bytes: int) -> float:
        """The mean over where in a burst a run may begin; rows that share a burst move it for each of them."""
        burst = self.config.device.organisation.bytes_per_burst
        step = math.gcd(stride_bytes, burst)
        touched = [-(-(begin + run_bytes) // burst) for begin in range(0, burst, step)]
        return sum(touched) * burst / (len(touched) * run_bytes)

    @property
    def _sample_bytes(self) -> int:
        organisation = self.config.device.organisation
        return _BURSTS * self.config.channels * organisation.pseudo_channels * organisation.bytes_per_burst

    def _flat(self, write: bool) -> float:
        if write not in self._flat_s:
            piece = self._sample_bytes // _IN_FLIGHT
            self._flat_s[write] = _moving_s(self.config, [np.array([[i * piece, piece]]) for i in range(_IN_FLIGHT)], write)
        return self._flat_s[write]

    def _window_s(self, run: int, stride: int, write: bool, in_flight: int) -> float:
        """Tiles beside each other that share their rows, as those of one operand follow each other."""
        beside = max(1, min(in_flight, stride // run))
        most = _ROWS if run >= _SHORT_BYTES else _SHORT_ROWS
        rows = max(1, min(self._sample_bytes // (beside * run), self.config.capacity_bytes // stride, most))
        starts = np.arange(rows, dtype=np.int64) * stride
        tiles = [np.stack((starts + tile * run, np.full(rows, run)), axis=1) for tile in range(beside)]
        return _moving_s(self.config, tiles, write) * self._sample_bytes / (beside * rows * run)


def _moving_s(config: DramConfig, transfers: list[npt.NDArray[np.int64]], write: bool) -> float:
    """Seconds that the transfers take, all asked for at once."""
    env = simpy.Environment()
    memory = DramSystem(env, config, like=_like(config.model_dump_json()))

    def ask() -> Generator[simpy.Event, Any, None]:
        yield env.all_of([memory.transfer(ranges, write=write) for ranges in transfers])

    env.run(env.process(ask()))
    return int(env.now) / PS_PER_S


@lru_cache(maxsize=16)
def _like(text: str) -> DramSystem:
    """A system to take the tables from."""
    return DramSystem(simpy.Environment(), DramConfig.model_validate_json(text))


@dataclass(frozen=True, slots=True)
class MemoryRates:
    """A memory as the mapper sees it: the rate of whole tiles with all pauses, the latency of one read, and how it pauses: for
    ``pause_s`` once every ``pause_every_s``, between which it is as much faster."""

    windows: Windows
    bytes_per_s: float
    latency_s: float
    pause_s: float = 0.0
    pause_every_s: float = 1.0
    stripe_bytes: int = 1                              # consecutive bytes that meet every channel once


@lru_cache(maxsize=64)
def _measured(text: str) -> MemoryRates:
    config = DramConfig.model_validate_json(text)
    latency_s = _moving_s(config, [np.array([[0, 1]])], write=False)
    interval_s = config.device.ticks.get("tREFI", 0) * config.clock().ps_of(1) / PS_PER_S

    def rate(seconds: float) -> float:
        piece = int(seconds * config.peak_bytes_per_s) // _IN_FLIGHT >> 16 << 16
        piece = min(max(piece, 1 << 16), config.capacity_bytes // _IN_FLIGHT)
        taken_s = _moving_s(config, [np.array([[i * piece, piece]]) for i in range(_IN_FLIGHT)], write=False)
        return _IN_FLIGHT * piece / (taken_s - latency_s)

    between = rate(5 * latency_s)
    mean = min(between, rate(max(_INTERVALS * interval_s, 10 * latency_s)))
    return MemoryRates(Measured(config), mean, latency_s, (1 - mean / between) * interval_s, interval_s or 1.0,
                       _stripe_bytes(config))


def _stripe_bytes(config: DramConfig) -> int:
    mapping = config.address_map()
    return mapping.granule_bursts * mapping.organisation.bytes_per_burst * mapping.channels


def rates_of_memory(config: MemoryConfig) -> MemoryRates:
    """What *config* gives, by simulation of its controller; an ideal memory says it itself."""
    if isinstance(config, DramConfig):
        return _measured(config.model_dump_json())
    return MemoryRates(AllAlike(), config.bandwidth_bytes_per_s, config.latency_ps / PS_PER_S)
