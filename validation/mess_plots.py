"""The `mess` suite as pictures: simulated points beside ours, and each measured system beside our DRAM plus its on-chip latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..sim.plots import COLOURS
from .contract import Row
from .mess_tables import Measured, Simulated
from .mess_traffic import MessPoint


def draw(
    folder: Path, simulated: Sequence[Simulated], ours: Sequence[MessPoint], measured: Sequence[Measured], rows: Sequence[Row],
) -> list[Path]:
    """Write one picture of the simulated points and one of each measured system into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if simulated:
        figure, axes = _figure("simulated: reference (dots) and ours (lines)")
        for k, share in enumerate(dict.fromkeys(line.read_share for line in simulated)):
            pairs = [(line, point) for line, point in zip(simulated, ours, strict=True) if line.read_share == share]
            axes.plot([line.gb_per_s for line, _ in pairs], [line.latency_ns for line, _ in pairs], "o", markersize=4,
                      color=COLOURS[k % len(COLOURS)], markerfacecolor="none")
            pairs.sort(key=lambda pair: pair[0].nop)
            axes.plot([p.gb_per_s for _, p in pairs], [p.latency_ns for _, p in pairs], color=COLOURS[k % len(COLOURS)],
                      label=f"{100 * share:.0f} % reads")
        written.append(_save(figure, axes, folder / "mess-simulated.png"))
    for system in dict.fromkeys(line.system for line in measured):
        lines = [line for line in measured if line.system == system]
        own = [row for row in rows if row.more.get("system") == system]
        on_chip = f", {own[0].more['on_chip_latency_ns']:.0f} ns on chip" if own else ""
        figure, axes = _figure(f"{system}: measured (dotted) and our DRAM{on_chip}")
        for k, read_pct in enumerate(dict.fromkeys(line.read_pct for line in lines)):
            colour = COLOURS[k % len(COLOURS)]
            points = sorted((line.gb_per_s, line.latency_ns) for line in lines if line.read_pct == read_pct)
            axes.plot(*zip(*points, strict=True), linestyle=":", marker=".", color=colour)
            modelled = sorted((float(str(row.more["gb_per_s"])), row.got) for row in own if row.more["read_pct"] == read_pct)
            if modelled:
                axes.plot(*zip(*modelled, strict=True), color=colour, label=f"{read_pct:g} % reads")
        written.append(_save(figure, axes, folder / f"mess-{system}.png"))
    return written


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel="bandwidth (GB/s)", ylabel="latency of a random read (ns)", title=title)
    axes.grid(True, alpha=0.3)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    partial = path.with_suffix(".part")
    figure.savefig(partial, format="png", dpi=144, metadata={"Software": None})
    partial.rename(path)
    return path
