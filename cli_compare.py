"""``tilesim compare``: one workload on several machines, as one table and one plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sim.errors import ConfigError

if TYPE_CHECKING:
    from .explore import Comparison
    from .workloads.network import Inference
    from .workloads.phases import Workload

WorkloadOf = Callable[[argparse.Namespace], "Workload | Inference"]


def add_parser(commands: Any, add_workload: Callable[[argparse.ArgumentParser], None], workload_of: WorkloadOf) -> None:
    """Add the subcommand; *add_workload* adds the options that say what runs, and *workload_of* reads them."""
    parser = commands.add_parser("compare", help="run a model on several machines, side by side",
                                 description="Run a phase of a model on several machines, side by side.")
    parser.add_argument("--arch", dest="machines", action="append", required=True, metavar="CHIP|FILE",
                        help="a machine; name two or more, ratios are over the first")
    add_workload(parser)
    parser.add_argument("--dtype", default="bf16", metavar="NAME", help="number format: bf16, fp8, int8 … (default bf16)")
    parser.add_argument("--tp", type=int, default=None, metavar="N",
                        help="tensor parallel over N devices of each (default: what a machine says, else 1)")
    parser.add_argument("--json", metavar="FILE|-", help="write the comparison and every report as JSON")
    parser.add_argument("--csv", metavar="FILE|-", help="write one line for each machine")
    parser.add_argument("--plots", metavar="DIR", help="write a plot as PNG")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    parser.set_defaults(command=lambda arguments: run(arguments, workload_of))


def run(arguments: argparse.Namespace, workload_of: WorkloadOf) -> int:
    """Run what *arguments* say; 0 when it ran."""
    from .sim.files import check_writable, write_output

    targets = [target for target in (arguments.json, arguments.csv) if target is not None]
    if targets.count("-") > 1:
        raise ConfigError("two outputs to stdout at once", key="--json", mend="give one of them a file")
    for target in targets:
        check_writable(target)
    if arguments.plots is not None and Path(arguments.plots).exists() and not Path(arguments.plots).is_dir():
        raise ConfigError("is a file; --plots wants a folder", file=arguments.plots)
    from .explore import compare

    workload = workload_of(arguments)
    found = compare(arguments.machines, workload, tensor_parallel=arguments.tp)
    if arguments.json is not None:
        write_output(arguments.json, lambda stream: stream.write(found.to_json()))
    if arguments.csv is not None:
        write_output(arguments.csv, found.write_csv)
    if arguments.plots is not None:
        from .sim.plots import write_comparison

        bars = [(row.machine, row.seconds, row.energy_j, row.roofline_s) for row in found.rows]
        path = write_comparison(bars, found.workload, Path(arguments.plots), f"compare-{workload.model.name}-{workload.phase}")
        print(f"wrote {path}", file=sys.stderr)
    if not arguments.quiet and "-" not in targets:
        _print(found)
    return 0


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from .sim.units import si_text

    table = Table(title=found.workload, title_justify="left", caption="speed-up and energy are over the first machine",
                  caption_justify="left")
    table.add_column("machine")
    for heading in ("time", "tokens/s", "speed-up", "energy", "× energy", "power", "roofline", "× roofline"):
        table.add_column(heading, justify="right")
    for heading in ("roofline by", "most time on"):
        table.add_column(heading)
    for row in found.rows:
        rate = "–" if row.tokens_per_s is None else f"{row.tokens_per_s:,.1f}"
        energy = "–" if row.energy_ratio is None else f"{row.energy_ratio:.2f}"
        table.add_row(row.machine, si_text(row.seconds, "s"), rate, f"{row.speed_up:.2f}", si_text(row.energy_j, "J"),
                      energy, si_text(row.power_w, "W"), si_text(row.roofline_s, "s"), f"{row.roofline_ratio:.2f}", row.bound,
                      row.bottleneck)
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)
