"""The report as pictures: roofline, energy breakdown, where the time went. Functions of the report alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .report import Report
from .tables import grouped
from .units import FLOPS_PER_MAC, si_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

#: Colour-blind safe (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def write_all(report: Report, folder: Path, stem: str) -> list[Path]:
    """Write every plot of *report* as PNG into *folder* and say which."""
    drawings: dict[str, Callable[[Report], Any]] = {"roofline": roofline, "energy": energy_breakdown, "time": time_shares}
    return [save(draw(report), folder / f"{stem}-{name}.png") for name, draw in drawings.items()]


def write_comparison(bars: list[tuple[str, float, float, float]], title: str, folder: Path, stem: str) -> Path:
    """Write time (with the roofline as a mark) and energy of each machine beside one another; *bars*: (machine, seconds,
    joules, roofline seconds)."""
    figure, axes = _figure(9, 1.2 + 0.45 * len(bars))
    axes.remove()
    left, right = figure.subplots(1, 2, sharey=True)
    names = [name for name, *_ in bars]
    left.barh(names, [seconds for _, seconds, _, _ in bars], color=COLOURS[0])
    left.plot([bound for *_, bound in bars], names, "|", color=COLOURS[7], markersize=14, markeredgewidth=2, label="roofline")
    right.barh(names, [joules for _, _, joules, _ in bars], color=COLOURS[1])
    left.set(xlabel="time")
    right.set(xlabel="energy")
    left.xaxis.set_major_formatter(_engineering("s"))
    right.xaxis.set_major_formatter(_engineering("J"))
    left.invert_yaxis()
    left.legend(fontsize=8)
    figure.suptitle(title)
    return save(figure, folder / f"{stem}.png")


def new_figure(width_in: float = 8, height_in: float = 5) -> Figure:
    """An empty figure that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write *figure* as PNG, whole or not at all; its folder is made when it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder for plots cannot be made: {error.strerror}", file=str(path.parent)) from None
    partial = path.with_suffix(".part")
    figure.savefig(partial, format="png", dpi=144, metadata={"Software": None})
    partial.rename(path)
    return path


def _figure(width_in: float = 8, height_in: float = 5) -> tuple[Figure, Axes]:
    figure = new_figure(width_in, height_in)
    return figure, figure.add_subplot()


def _engineering(unit: str) -> EngFormatter:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(unit)


def roofline(report: Report) -> Figure:
    """Each operator shape as a point: operational intensity against achieved rate, under the machine's roof."""
    figure, axes = _figure()
    memory = next(level for level in report.memory.values() if level.kind in ("dram", "ideal"))
    macs = sum(op.macs for op in report.operators)
    peak_flops = FLOPS_PER_MAC * macs / report.bounds.compute_s if report.bounds.compute_s else 0.0
    points = []
    for name, group in grouped(report.operators):
        flops = FLOPS_PER_MAC * sum(op.macs for op in group)
        nbytes = sum(op.read_bytes + op.write_bytes for op in group)
        seconds = sum(op.seconds for op in group)
        if flops and nbytes and seconds:
            points.append((flops / nbytes, flops / seconds, seconds, name))
    ridge = peak_flops / memory.peak_bytes_per_s
    low = min([p[0] for p in points] + [ridge]) / 4
    high = max([p[0] for p in points] + [ridge]) * 8
    if points:                              # an operator without MACs has neither intensity nor a roof
        axes.set(xscale="log", yscale="log")
    axes.plot([low, ridge, high], [low * memory.peak_bytes_per_s, peak_flops, peak_flops], color="black",
              label=f"roof: {si_text(memory.peak_bytes_per_s, 'B/s', 3)}, {si_text(peak_flops, 'FLOP/s', 3)}")
    for i, (intensity, rate, seconds, name) in enumerate(sorted(points, key=lambda p: -p[2])):
        axes.scatter(intensity, rate, s=30 + 600 * seconds / report.seconds, color=COLOURS[i % len(COLOURS)], alpha=0.8,
                     edgecolor="white", label=f"{name} ({100 * seconds / report.seconds:.0f} % of time)", zorder=3)
    axes.set(xlabel="operational intensity (FLOP per DRAM byte)",
             ylabel="achieved rate (FLOP/s)", title=f"Roofline: {report.workload}\non {report.machine}")
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def energy_breakdown(report: Report) -> Figure:
    """Joules by component, its largest actions stacked."""
    figure, axes = _figure(8, 4)
    components = sorted(report.energy_by_component.items(), key=lambda item: item[1])
    for row, (component, joules) in enumerate(components):
        left = 0.0
        lines = sorted((e for e in report.energy_lines if e.component == component), key=lambda e: -e.joules)
        for i, line in enumerate(lines):
            axes.barh(row, line.joules, left=left, color=COLOURS[i % len(COLOURS)], edgecolor="white")
            if line.joules > 0.08 * report.energy_j:
                axes.text(left + line.joules / 2, row, line.action, ha="center", va="center", fontsize=8, color="white")
            left += line.joules
        axes.text(left, row, f"  {si_text(joules, 'J', 3)} ({100 * joules / report.energy_j:.0f} %)", va="center", fontsize=8)
    axes.set_yticks(range(len(components)), [name for name, _ in components])
    axes.set(xlabel="energy", title=f"Energy: {report.workload} on {report.machine}, {si_text(report.energy_j, 'J')}")
    axes.set_xlim(0, 1.2 * max(joules for _, joules in components))
    axes.xaxis.set_major_formatter(_engineering("J"))
    return figure


def time_shares(report: Report) -> Figure:
    """The run's time by operator shape, coloured by what bound it."""
    figure, axes = _figure(8, 5)
    groups = [(name, group, sum(op.seconds for op in group)) for name, group in grouped(report.operators)]
    groups.sort(key=lambda item: item[2])
    causes = sorted({op.bottleneck for op in report.operators})
    for row, (_name, group, seconds) in enumerate(groups):
        left = 0.0
        for cause in causes:
            part = sum(op.seconds for op in group if op.bottleneck == cause)
            axes.barh(row, part, left=left, color=COLOURS[causes.index(cause) % len(COLOURS)])
            left += part
        axes.text(left, row, f"  {100 * seconds / report.seconds:.1f} %", va="center", fontsize=8)
    for i, cause in enumerate(causes):
        axes.barh(0, 0, color=COLOURS[i % len(COLOURS)], label=cause)
    axes.set_yticks(range(len(groups)), [name for name, _, _ in groups])
    axes.set(xlabel="time", title=f"Time: {report.workload} on {report.machine}, {si_text(report.seconds, 's')}")
    axes.legend(title="bound by", loc="lower right")
    axes.set_xlim(0, 1.12 * max(seconds for _, _, seconds in groups))
    axes.xaxis.set_major_formatter(_engineering("s"))
    return figure
