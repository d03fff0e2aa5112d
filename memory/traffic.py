"""Bytes that a memory moved, and counts of steady periods that are added again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


def asked_ranges(ranges: npt.ArrayLike, capacity_bytes: int) -> npt.NDArray[np.int64]:
    """The byte ranges, (n, 2) of address and size, that are not empty; a ValueError where one leaves the memory."""
    asked = np.asarray(ranges, np.int64).reshape(-1, 2)
    asked = asked[asked[:, 1] > 0]
    if len(asked) and (int(asked[:, 0].min()) < 0 or int((asked[:, 0] + asked[:, 1]).max()) > capacity_bytes):
        raise ValueError(f"a transfer leaves the memory's {capacity_bytes} bytes")
    return asked


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read and written: as asked for, and as moved in whole bursts."""

    read_bytes: int = 0
    written_bytes: int = 0
    read_burst_bytes: int = 0
    written_burst_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.read_bytes + other.read_bytes, self.written_bytes + other.written_bytes,
                       self.read_burst_bytes + other.read_burst_bytes, self.written_burst_bytes + other.written_burst_bytes)


def steady_counts(before: Mapping[str, Any], last: Mapping[str, Any], periods: int, times: int) -> dict[str, Any]:
    """What *times* more periods count, where *periods* periods lie between *before* and *last*; nested as the counts are."""
    return {key: steady_counts(before[key], value, periods, times) if isinstance(value, Mapping)
            else times * (value - before[key]) // periods for key, value in last.items()}


def added(counts: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """*counts* with *more* added where it has the same name."""
    return {key: added(value, more.get(key, {})) if isinstance(value, Mapping) else value + more.get(key, 0)
            for key, value in counts.items()}
