"""The report as tables for a terminal: functions of the report alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .report import OperatorReport, Report
from .units import si_text


def render(report: Report, console: Console) -> None:
    """Print the whole report."""
    console.print(Group(_headline(report), _operator_table(report), _memory_table(report), _unit_table(report),
                        _energy_table(report), _notes(report)))


def _headline(report: Report) -> RenderableType:
    bounds = report.bounds
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("workload", report.workload)
    table.add_row("machine", report.machine)
    rate = "" if report.tokens_per_s is None else f"   ({report.tokens_per_s:,.1f} tokens/s)"
    table.add_row("time", f"{si_text(report.seconds, 's')}{rate}")
    table.add_row("cycles", "   ".join(f"{name} {count:,}" for name, count in report.cycles.items()))
    each = f"{si_text(report.energy_j / report.tokens, 'J')}/token, " if report.tokens else ""
    watts = si_text(report.energy_j / report.seconds, "W")
    table.add_row("energy", f"{si_text(report.energy_j, 'J')}   ({each}{watts} on average)")
    link = f", link {si_text(bounds.link_s, 's')}" if bounds.link_s else ""
    table.add_row("roofline", f"{si_text(bounds.roofline_s, 's')} ({bounds.kind}-bound); simulated is "
                              f"{report.distance_to_roofline:.3f} × that   [compute {si_text(bounds.compute_s, 's')}, "
                              f"memory {si_text(bounds.memory_s, 's')}{link}]")
    if attention := _attention_io(report):
        table.add_row("I/O", attention)
        table.add_row("cascade", _cascades(report))
    return table


def _attention_io(report: Report) -> str:
    """What all attention of the run moved beside what it must move; empty when it neither moves nor must move anything."""
    ran = [(op.read_bytes + op.write_bytes, op.io_bound) for op in report.operators if op.io_bound is not None]
    moved, compulsory = sum(nbytes for nbytes, _ in ran), sum(bound.compulsory_bytes for _, bound in ran)
    if not moved and not compulsory:
        return ""
    ratio = f"{moved / compulsory:.3f} × " if compulsory else ""
    order, on_chip = sum(bound.order_bytes for _, bound in ran), max(bound.on_chip_bytes for _, bound in ran)
    about = f"order of {si_text(order, 'B')}" if order >= 1 else "below 1 B"
    return (f"attention moved {si_text(moved, 'B')}, {ratio}compulsory {si_text(compulsory, 'B')}   [N²d²/M, asymptotic: {about}, "
            f"M {si_text(on_chip, 'B')}]")


def _cascades(report: Report) -> str:
    """What attention computes, as a cascade of Einsums, and how often that passes over the keys; each kind once."""
    ran = [op.mapping for op in report.operators if op.io_bound is not None]
    kinds = dict.fromkeys((found["cascade"], found["key_passes"], tuple(found["carried"])) for found in ran)
    words = "; ".join(f"{name}: {count} pass{'es' if count > 1 else ''} over the keys, "
                      + (f"{' and '.join(carried)} kept or spilled between them" if carried else "nothing kept or spilled")
                      for name, count, carried in kinds)
    least = [found["cascade_least_bytes"] for found in ran if "cascade_least_bytes" in found]
    return words + (f"; it moves {si_text(sum(least), 'B')} or more" if len(least) == len(ran) else "")


def _operator_table(report: Report) -> Table:
    table = Table(title="Where the time went (layers of one shape together)", title_justify="left")
    for heading in ("operator", "unit", "bound by"):
        table.add_column(heading)
    for heading in ("n", "time", "share", "MACs", "DRAM bytes", "own roofline", "× roofline"):
        table.add_column(heading, justify="right")
    for name, group in grouped(report.operators):
        seconds = sum(op.seconds for op in group)
        bound_s = sum(op.bound_seconds for op in group)
        warm = "*" if any(op.warm for op in group) else ""
        ratio = f"{seconds / bound_s:.2f}{warm}" if bound_s > 0 else "–"
        table.add_row(name, _unit(group), _common(op.bottleneck for op in group), str(len(group)), si_text(seconds, "s"),
                      f"{100 * seconds / report.seconds:.1f} %", si_text(sum(op.macs for op in group), ""),
                      si_text(sum(op.read_bytes + op.write_bytes for op in group), "B"),
                      si_text(bound_s, "s") if bound_s else "–", ratio)
    if any(op.warm for op in report.operators):
        table.caption = "* faster than its own roofline: its operands were prefetched while earlier operators ran, or still on chip"
        table.caption_justify = "left"
    return table


def grouped(operators: Iterable[OperatorReport]) -> list[tuple[str, list[OperatorReport]]]:
    """Operators that differ only in their layer number, together, in the order of their first."""
    groups: dict[str, list[OperatorReport]] = {}
    for op in operators:
        name = re.sub(r"\d+", "*", op.name, count=1) if op.layer is not None else op.name
        groups.setdefault(name, []).append(op)
    return list(groups.items())


def _common(words: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return max(counts, key=lambda word: counts[word])


def _unit(group: list[OperatorReport]) -> str:
    busy: dict[str, float] = {}
    for op in group:
        for unit, seconds in op.busy_s.items():
            busy[unit] = busy.get(unit, 0.0) + seconds
    return max(busy, key=lambda unit: busy[unit]) if busy else "dma"


def _memory_table(report: Report) -> Table:
    table = Table(title="Memory", title_justify="left")
    table.add_column("level")
    for heading in ("used", "capacity", "read", "written", "achieved", "peak", "of peak"):
        table.add_column(heading, justify="right")
    table.add_column("detail")
    for level in report.memory.values():
        table.add_row(level.name, si_text(level.used_bytes, "B"), si_text(level.capacity_bytes, "B"),
                      si_text(level.read_bytes, "B"), si_text(level.written_bytes, "B"),
                      si_text(level.bandwidth_bytes_per_s, "B/s"), si_text(level.peak_bytes_per_s, "B/s"),
                      f"{100 * level.utilisation:.1f} %", str(level.details.get("summary", "")))
    return table


def _unit_table(report: Report) -> Table:
    table = Table(title="Units", title_justify="left")
    table.add_column("unit")
    for heading in ("busy", "of the run", "of peak MACs", "stalled"):
        table.add_column(heading, justify="right")
    table.add_column("waited for")
    for unit in report.units.values():
        stalls = sorted(unit.stalled_s.items(), key=lambda item: -item[1])
        peak = "–" if unit.utilisation is None else f"{100 * unit.utilisation:.1f} %"
        # A DMA queue has many transfers in flight: its busy time is a sum over them, and no share of the run.
        share = "–" if unit.name.startswith("dma") else f"{100 * unit.busy_s / report.seconds:.1f} %"
        table.add_row(unit.name, si_text(unit.busy_s, "s"), share, peak, si_text(sum(unit.stalled_s.values()), "s"),
                      ", ".join(f"{cause} {si_text(seconds, 's', 3)}" for cause, seconds in stalls))
    return table


def _energy_table(report: Report) -> Table:
    table = Table(title="Energy", title_justify="left")
    table.add_column("component")
    for heading in ("energy", "share"):
        table.add_column(heading, justify="right")
    table.add_column("largest actions")
    for component, joules in sorted(report.energy_by_component.items(), key=lambda item: -item[1]):
        lines = sorted((e for e in report.energy_lines if e.component == component), key=lambda e: -e.joules)
        shown = ", ".join(f"{e.action} {si_text(e.joules, 'J', 3)}" for e in lines[:3] if e.joules)
        table.add_row(component, si_text(joules, "J"), f"{100 * joules / report.energy_j:.1f} %" if report.energy_j else "–", shown)
    return table


def _notes(report: Report) -> RenderableType:
    lines = []
    for reduction in report.reductions:
        lines.append("reduced by " + "; ".join(f"{key}: {value}" for key, value in reduction.items()))
    lines += [f"assumed: {text}" for text in report.assumptions]
    return Text("\n".join(lines), style="dim")
