"""Bandwidth–latency curves: a memory under rising load, at several read shares, beside curves measured on real systems."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..sim.errors import ConfigError
from ..sim.plots import COLOURS
from .controller import ControllerConfig
from .patterns import make_requests
from .replay import serve
from .standard import Memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Offered loads of a curve, in shares of the pin rate.
LOADS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
READ_SHARES = (1.0, 0.75, 0.5)
#: Columns of a measured curve: read share in percent, bandwidth, latency.
MEASURED_COLUMNS = ("system", "read_pct", "bandwidth_GBs", "latency_ns")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One load: what was offered, and what came."""

    read_share: float
    offered_bytes_per_s: float
    bytes_per_s: float
    latency_ns: float                    # mean of the reads (of the writes where there are no reads)
    latency_p99_ns: float


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """A point that others measured: whole-processor latency, caches and interconnect included."""

    system: str
    read_pct: float
    gb_per_s: float
    latency_ns: float


def bandwidth_latency(
    memory: Memory, *, pattern: str = "random", read_shares: Sequence[float] = READ_SHARES, loads: Sequence[float] = LOADS,
    count: int = 20_000, channels: int | None = None, controller: ControllerConfig | None = None, mapping: str | None = None,
    stride_bytes: int = 4096, seed: int = 1, progress: Callable[[int, int], None] | None = None,
) -> list[CurvePoint]:
    """The curve of *memory*: for each read share, *count* requests offered at each share of the pin rate."""
    number = memory.channels if channels is None else channels
    organisation = memory.organisation
    bursts_per_tick = number * organisation.pseudo_channels / memory.ticks["tBL"]
    points = []
    for share in read_shares:
        for load in loads:
            requests = make_requests(
                pattern, count, burst_bytes=organisation.bytes_per_burst, capacity_bytes=number * organisation.channel_bytes,
                read_share=share, interval_ticks=1 / (load * bursts_per_tick), stride_bytes=stride_bytes, seed=seed)
            run = serve(memory, requests, controller, channels=number, mapping=mapping)
            latency = run.latency_ns(writes=share == 0)
            points.append(CurvePoint(share, load * run.peak_bytes_per_s, run.bytes_per_s, latency["mean"], latency["p99"]))
            if progress is not None:
                progress(len(points), len(read_shares) * len(loads))
    return points


def read_measured(path: Path, system: str = "") -> list[MeasuredPoint]:
    """The measured curves in *path* (a CSV file, or every one in a folder that has the columns) of systems named like *system*."""
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    if not path.exists():
        raise ConfigError("no such file or folder", file=str(path))
    points: list[MeasuredPoint] = []
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                if not set(MEASURED_COLUMNS) <= set(reader.fieldnames or ()):
                    continue
                for row in reader:
                    points.append(MeasuredPoint(row["system"], *(float(row[name]) for name in MEASURED_COLUMNS[1:])))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(f"is no table of measured curves: {error}", file=str(file)) from None
    if not points:
        raise ConfigError("no measured bandwidth-latency curve here", file=str(path), allowed=MEASURED_COLUMNS,
                          mend="a curve is a CSV file with these columns")
    named = [point for point in points if system in point.system]
    if not named:
        raise ConfigError(f"no measured system is named like {system!r}", key="--system", value=system,
                          allowed=tuple(dict.fromkeys(point.system for point in points)))
    return named


def plot_curves(
    points: Sequence[CurvePoint], title: str, *, peak_bytes_per_s: float, measured: Iterable[MeasuredPoint] = (),
    on_chip_latency_ns: float = 0.0,
) -> Figure:
    """Latency over bandwidth, one line a read share, measured systems dotted beside; ours with the stated on-chip latency."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, share in enumerate(dict.fromkeys(point.read_share for point in points)):
        own = [point for point in points if point.read_share == share]
        axes.plot([p.bytes_per_s / 1e9 for p in own], [p.latency_ns + on_chip_latency_ns for p in own], marker="o", markersize=3,
                  color=COLOURS[k % len(COLOURS)], label=f"{100 * share:.0f} % reads")
    groups: dict[tuple[str, float], list[MeasuredPoint]] = {}
    for point in measured:
        groups.setdefault((point.system, point.read_pct), []).append(point)
    for k, ((system, read_pct), found) in enumerate(groups.items()):
        found.sort(key=lambda p: p.gb_per_s)
        axes.plot([p.gb_per_s for p in found], [p.latency_ns for p in found], linestyle=":", linewidth=1,
                  color=COLOURS[k % len(COLOURS)], label=f"{system}, {read_pct:g} % reads" if len(groups) <= 10 else None)
    axes.axvline(peak_bytes_per_s / 1e9, color="black", linewidth=1, label="pin rate")
    added = f", {on_chip_latency_ns:g} ns on chip added" if on_chip_latency_ns else ""
    axes.set(xlabel="bandwidth (GB/s)", ylabel="mean latency (ns)", title=title + added)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7)
    return figure
