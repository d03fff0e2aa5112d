"""What a run measures: of each operator, of each unit, and of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..memory.kinds import MemorySystem
from ..memory.traffic import Traffic
from ..sim.energy import EnergyLedger
from ..sim.timeline import Timeline


@dataclass(slots=True)
class OperatorRun:
    """What became of one step: when, and what its compute units waited for (cause → picoseconds).

    ``results_ps``: its last record but for stores, which are posted: a controller may hold them back behind reads.
    """

    start_ps: int = -1
    results_ps: int = 0
    end_ps: int = -1
    busy_ps: dict[str, int] = field(default_factory=dict)
    waited_ps: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    write_bytes: int = 0
    read_burst_bytes: int = 0                # the same as the memory moved them, in whole bursts
    write_burst_bytes: int = 0


@dataclass(slots=True)
class UnitRun:
    """A unit over the whole run: time in work, time stalled by cause."""

    busy_ps: int = 0
    stalled_ps: dict[str, int] = field(default_factory=dict)
    records: int = 0
    macs: int = 0


@dataclass(slots=True)
class ProgramRun:
    """Everything the run measured; the report is a function of it."""

    end_ps: int
    operators: list[OperatorRun]
    units: dict[str, UnitRun]
    memory: MemorySystem
    ledger: EnergyLedger
    sram_read_bytes: int
    sram_write_bytes: int
    sram_used_bytes: int                     # the most that tiles and residents owned at once, pool by pool
    link_bytes: dict[str, int]
    completion_order: list[tuple[int, int]]
    timeline: Timeline | None
    reductions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """What stood on the clock and in the counters when a step ended."""

    at_ps: int
    units: Mapping[str, UnitRun]
    memory: Mapping[str, Any]


@dataclass(slots=True)
class StepCounts:
    """What the program fixes for some of its steps, whenever they run."""

    traffic: Traffic
    records: Counter[str]
    macs: Counter[str]
    actions: Counter[tuple[str, str]]
    link_bytes: Counter[str]
    sram_read_bytes: int = 0
    sram_write_bytes: int = 0
