"""The kinds of main memory that a machine may have, and what builds each. To add a kind: its class, and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
import simpy

from .dram import DramConfig, DramSystem
from .ideal import IdealMemory, IdealMemoryConfig
from .traffic import Traffic

MemoryConfig: TypeAlias = DramConfig | IdealMemoryConfig


class MemorySystem(Protocol):
    """A main memory at work."""

    capacity_bytes: int
    peak_bytes_per_s: float
    read_bytes: int
    written_bytes: int
    last_burst_bytes: int                       # bytes that the transfer last asked for moves, in whole bursts

    @property
    def burst_bytes(self) -> int:
        """Bytes of a whole burst; 1 where there are none."""

    @property
    def refresh_interval_ps(self) -> int:
        """The time in which every bank is refreshed once, or would be; 0 where there is nothing to refresh."""

    def moved_bytes(self, ranges: npt.ArrayLike) -> int:
        """What a transfer of byte ranges moves, in whole bursts."""

    def transfer(self, ranges: npt.ArrayLike, write: bool) -> simpy.Event:
        """Move byte ranges, (n, 2) of address and size; the event comes at the end."""

    def reduction(self) -> dict[str, Any]:
        """The reduction that it uses, if any (``used``)."""

    def counted(self, now_ps: int) -> dict[str, Any]:
        """Its counters so far, as :meth:`replay` takes them."""

    def spent(self, before: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
        """Picojoules between two notes of the counters: those that the program does not fix, and all."""

    def replay(self, before: Mapping[str, Any], last: Mapping[str, Any], periods: int, traffic: Traffic, times: int,
               passed_ps: int) -> None:
        """Count *times* more periods, each of *traffic* and otherwise as the *periods* between two notes of the counters.

        They took *passed_ps* together, which owes refreshes."""

    def details(self, end_ps: int) -> dict[str, Any]:
        """Its entry of the report."""

    def energy_actions(self, end_ps: int) -> dict[str, tuple[int, float]]:
        """Counted actions and the energy of each in picojoules."""


#: Kind of main memory → what builds it: (environment, config, exact).
MEMORY_KINDS: dict[type[MemoryConfig], Callable[[simpy.Environment, Any, bool], MemorySystem]] = {
    DramConfig: lambda env, config, exact: DramSystem(env, config, exact=exact),
    IdealMemoryConfig: lambda env, config, exact: IdealMemory(env, config),
}


def build_memory(env: simpy.Environment, config: MemoryConfig, *, exact: bool = False) -> MemorySystem:
    """The memory that *config* describes, in *env*."""
    return MEMORY_KINDS[type(config)](env, config, exact)
