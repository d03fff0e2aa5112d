"""Synthetic request streams: sequential, random, strided or mixed, with a read share and a request interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..sim.errors import ConfigError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Pattern = Literal["sequential", "random", "stride", "mix"]
PATTERNS: tuple[Pattern, ...] = ("sequential", "random", "stride", "mix")


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in order of offering: byte address, kind, and the first tick at which each may be offered."""

    address: Int64Array
    write: BoolArray
    tick: Int64Array

    def __len__(self) -> int:
        return len(self.address)


def make_requests(
    pattern: str, count: int, *, burst_bytes: int, capacity_bytes: int, read_share: float = 1.0, interval_ticks: float = 0.0,
    stride_bytes: int = 4096, seed: int = 1,
) -> Requests:
    """*count* requests of one burst each.

    ``mix`` is half a sequential stream and half random requests, in random order. Reads and writes are drawn at random with
    *read_share*; request *i* is offered from tick ``i · interval_ticks`` on. Same arguments, same requests.
    """
    if pattern not in PATTERNS:
        raise ConfigError(f"{pattern!r} is no pattern", key="--pattern", value=pattern, allowed=PATTERNS)
    if count < 1:
        raise ConfigError(f"{count} requests make no run", key="-n", mend="give one or more")
    if not 0 <= read_share <= 1:
        raise ConfigError(f"a read share of {read_share:g} is none", key="--reads", mend="give a number from 0 to 1")
    if interval_ticks < 0:
        raise ConfigError(f"an interval of {interval_ticks:g} ticks is none", key="--interval", mend="give 0 or more")
    if stride_bytes < 1:
        raise ConfigError(f"a stride of {stride_bytes} bytes is none", key="--stride")
    random = np.random.default_rng(seed)
    bursts = capacity_bytes // burst_bytes
    index = np.arange(count, dtype=np.int64)
    if pattern == "random":
        burst = random.integers(0, bursts, count)
    elif pattern == "stride":
        burst = index * max(1, stride_bytes // burst_bytes)
    elif pattern == "mix":
        streams = random.random(count) < 0.5
        burst = np.where(streams, np.cumsum(streams) - 1, random.integers(0, bursts, count))
    else:
        burst = index
    write = random.random(count) >= read_share
    return Requests(burst % bursts * burst_bytes, write, np.floor(index * interval_ticks).astype(np.int64))
