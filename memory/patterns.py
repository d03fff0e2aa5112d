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

#: Ticks between two requests at most: with it a thousand million requests still end before the kernels' end of time (2**60).
INTERVAL_MAX_TICKS = 1e9


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in order of offering: byte address, kind, and the first tick at which each may be offered."""

    address: Int64Array
    write: BoolArray
    tick: Int64Array

    def __len__(self) -> int:
        return len(self.address)


def check_interval(interval_ticks: float) -> None:
    """A ConfigError for an interval between requests that is no time; NaN is none either."""
    if not 0 <= interval_ticks <= INTERVAL_MAX_TICKS:
        raise ConfigError(f"--interval is {interval_ticks:g}: clocks between two requests are from 0 to {INTERVAL_MAX_TICKS:g}",
                          key="--interval", value=interval_ticks)


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
        raise ConfigError(f"-n is {count}: a run has 1 request or more", key="-n", value=count)
    if not 0 <= read_share <= 1:
        raise ConfigError(f"--reads is {read_share:g}: the share of reads is a number from 0 to 1", key="--reads", value=read_share)
    check_interval(interval_ticks)
    if stride_bytes < 1:
        raise ConfigError(f"--stride is {stride_bytes}: the distance of two requests is 1 byte or more", key="--stride",
                          value=stride_bytes)
    if seed < 0:
        raise ConfigError(f"--seed is {seed}: a seed is 0 or more", key="--seed", value=seed)
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
