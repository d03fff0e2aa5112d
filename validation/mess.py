"""Suite `mess`: bandwidth–latency points against a public DRAM simulator's and against curves measured on real systems.

Simulated points (a load generator's read share and pause) are predicted whole: bandwidth and the latency of random reads. Of a
measured system only the latency can be predicted: its pauses are instructions of its processor, and its latency includes caches and
network. That on-chip part is a stated parameter, taken from the point with the least bandwidth of each system, which is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..memory.standard import load_memory
from ..sim import config as config_reader
from ..sim.config import Config
from .contract import Row, ValidationResult, compare, skip, summarise
from .mess_tables import Measured, Simulated, read_tables
from .mess_traffic import MessPoint, mess_point

SYSTEMS = Path(__file__).parent / "data" / "mess_systems.yaml"
BANDWIDTH_PCT, LATENCY_PCT, PAST_KNEE_PCT = 5.0, 10.0, 25.0
#: The knee of the curve, as a share of the pin rate: 220 of 307.7 GB/s in "Cleaning up the Mess" (arXiv 2510.15744).
KNEE = 220 / 307.7
#: Pauses of our own curve that a measured point is read off, and the random reads for each of its points.
CURVE_NOPS = (1, 4, 5, 6, 7, 8, 10, 13, 20, 40, 100, 1000)
CURVE_PROBES = 400


class SystemMemory(Config):
    """The memory of a measured system."""

    memory: str
    channels: int


class _Systems(Config):
    systems: dict[str, SystemMemory]


def validate(reference: Path | None = None, plots: Path | None = None, *, probes: int = 2000) -> ValidationResult:
    """Compare with the shipped table, or with every table of those columns at *reference*; draw the curves into *plots*."""
    simulated, measured = read_tables(reference)
    ours = [_point(line, probes) for line in simulated]
    rows = [row for line, point in zip(simulated, ours, strict=True) for row in _compared(line, point)]
    curves: dict[tuple[str, int, float], list[MessPoint]] = {}
    measured_rows = [row for system in dict.fromkeys(line.system for line in measured)
                     for row in _compared_system([line for line in measured if line.system == system], curves)]
    if plots is not None:
        from .mess_plots import draw

        draw(plots, simulated, ours, measured, measured_rows)
    rows += measured_rows
    peak = _peak_row(simulated, ours)
    tolerances = {"bandwidth": BANDWIDTH_PCT, "latency": LATENCY_PCT, "peak": 3.0, "measured:latency": None}
    rows += [peak] if peak is not None else []
    return ValidationResult("mess", tuple(rows), tuple(summarise(rows, tolerances)))


def _point(line: Simulated, probes: int) -> MessPoint:
    return mess_point(load_memory(line.memory), line.channels, line.read_share, line.nop, probes=probes)


def _compared(line: Simulated, point: MessPoint) -> Iterator[Row]:
    peak = line.channels * load_memory(line.memory).channel_bytes_per_s / 1e9
    tolerance = LATENCY_PCT if line.gb_per_s <= KNEE * peak else PAST_KNEE_PCT
    yield compare(line.case, "bandwidth", line.gb_per_s, point.gb_per_s, BANDWIDTH_PCT)
    yield compare(line.case, "latency", line.latency_ns, point.latency_ns, tolerance, row_tolerance_pct=tolerance)


def _peak_row(simulated: Sequence[Simulated], ours: Sequence[MessPoint]) -> Row | None:
    """The highest bandwidth of the simulated tables against ours, which need not be at the same point."""
    if not simulated:
        return None
    expected = max(line.gb_per_s for line in simulated)
    return compare("peak", "peak", expected, max(point.gb_per_s for point in ours), 3.0)


def _compared_system(lines: list[Measured], curves: dict[tuple[str, int, float], list[MessPoint]]) -> Iterator[Row]:
    """The latency rows of one measured system: our DRAM at that bandwidth and read share, plus the system's on-chip part."""
    systems = config_reader.from_document(_Systems, _systems_document()).systems
    device = systems.get(lines[0].system)
    if device is None:
        reason = f"no memory is declared for {lines[0].system}"
        yield from (skip(line.case, "measured:latency", line.latency_ns, reason) for line in lines)
        return
    base = min(lines, key=lambda line: (line.gb_per_s, line.latency_ns))
    on_chip_ns = base.latency_ns - _latency_at(device, base.read_pct / 100, base.gb_per_s, curves)
    for line in lines:
        if line is base:
            yield skip(line.case, "measured:latency", line.latency_ns, "gives the on-chip latency of its system")
            continue
        dram_ns = _latency_at(device, line.read_pct / 100, line.gb_per_s, curves)
        yield compare(line.case, "measured:latency", line.latency_ns, on_chip_ns + dram_ns, 0.0, system=line.system,
                      read_pct=line.read_pct, gb_per_s=line.gb_per_s, on_chip_latency_ns=on_chip_ns)


def _latency_at(
    device: SystemMemory, read_share: float, gb_per_s: float, curves: dict[tuple[str, int, float], list[MessPoint]],
) -> float:
    """Our latency of random reads at that bandwidth; beyond our highest bandwidth, the latency there."""
    key = (device.memory, device.channels, read_share)
    if key not in curves:
        memory = load_memory(device.memory)
        curves[key] = sorted((mess_point(memory, device.channels, read_share, nop, probes=CURVE_PROBES) for nop in CURVE_NOPS),
                             key=lambda point: point.gb_per_s)
    points = curves[key]
    return float(np.interp(gb_per_s, [p.gb_per_s for p in points], [p.latency_ns for p in points]))


def _systems_document() -> Any:
    document = config_reader.load_document(SYSTEMS, [], "table of systems")
    document.value = {"systems": document.value}
    return document
