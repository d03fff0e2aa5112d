"""``tilesim validate``: run the suites and print their summaries, or their rows as strict JSON."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sim.errors import ConfigError

if TYPE_CHECKING:
    from .validation.contract import ValidationResult

#: Each is a module of ``validation/`` whose ``validate(reference[, plots])`` runs it.
SUITES = ("dram", "mess", "systolic", "fusemax", "gpu", "energy", "tpu-v1")


def add_parser(commands: Any) -> None:
    """Add the subcommand to the parser's *commands*."""
    parser = commands.add_parser("validate", help="compare with figures that others measured or computed",
                                 description="Compare tilesim with figures that others measured or computed.")
    parser.add_argument("suite", nargs="?", default="all", choices=(*SUITES, "all"), metavar="SUITE",
                        help=f"{', '.join(SUITES)} or all (default)")
    parser.add_argument("--reference", metavar="PATH",
                        help="a table, or a folder of tables (default: the small ones that are shipped)")
    parser.add_argument("--json", metavar="FILE|-", help="write every row as JSON")
    parser.add_argument("--plots", metavar="DIR", help="write plots as PNG, where the suite has any")
    parser.add_argument("--memory", choices=("ideal", "hbm", "loop"), default=None,
                        help="of fusemax: its artifact's flat memory (default), HBM simulated by command as the rate at which it "
                             "carries a design's stream, or HBM by command in the loop (slow; its rate where tiles are too long)")
    parser.add_argument("--cross-validate", action="store_true",
                        help="gpu: also with constants fitted without the rows and boards that are predicted (minutes)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what *arguments* say; 0 when it ran, whatever the figures are."""
    from .sim.files import check_writable, write_output

    if arguments.json is not None:
        check_writable(arguments.json)
    reference = _existing(arguments.reference)
    plots = Path(arguments.plots) if arguments.plots is not None else None
    if plots is not None and plots.exists() and not plots.is_dir():
        raise ConfigError("is a file; --plots wants a folder", file=arguments.plots)
    if arguments.memory is not None and arguments.suite != "fusemax":
        raise ConfigError(f"--memory makes no sense for {arguments.suite}", key="--memory", value=arguments.memory,
                          mend="leave --memory out, or validate fusemax")
    if arguments.cross_validate and arguments.suite not in ("gpu", "all"):
        raise ConfigError(f"{arguments.suite} has no constants that are fitted", key="--cross-validate", mend="use it with gpu")
    results = []
    for suite in (SUITES if arguments.suite == "all" else (arguments.suite,)):
        print(f"{suite} …", file=sys.stderr)
        try:
            results.append(_validate(suite, reference, plots, arguments))
        except ConfigError as error:
            if arguments.suite != "all" or reference is None or not error.message.startswith("no "):
                raise
            print(f"{suite}: skipped, {error.message}", file=sys.stderr)     # its tables are not at the reference
    if arguments.json is not None:
        data = results[0].to_dict() if arguments.suite != "all" else [result.to_dict() for result in results]
        write_output(arguments.json, lambda stream: stream.write(json.dumps(data, allow_nan=False, indent=1) + "\n"))
    if arguments.json != "-":
        _print(results)
    return 0


def _existing(reference: str | None) -> Path | None:
    if reference is None:
        return None
    path = Path(reference)
    if not path.exists():
        raise ConfigError("no such file or folder", file=reference)
    return path


def _validate(suite: str, reference: Path | None, plots: Path | None, arguments: argparse.Namespace) -> ValidationResult:
    """The result of one suite, whose module is only imported now."""
    module = importlib.import_module(f".validation.{suite.replace('-', '_')}", __package__)
    takes = inspect.signature(module.validate).parameters
    offered = {"plots": plots, "cross_validate": arguments.cross_validate}
    wanted: dict[str, Any] = {name: value for name, value in offered.items() if name in takes}
    if arguments.memory is not None:
        wanted["memory"] = arguments.memory
    result: ValidationResult = module.validate(reference, **wanted)
    return result


def _print(results: list[ValidationResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Validation", title_justify="left")
    for heading in ("suite", "group"):
        table.add_column(heading)
    for heading in ("rows", "skipped", "MAPE", "median", "worst", "within", "tolerance"):
        table.add_column(heading, justify="right")
    for result in results:
        for group in result.summary:
            table.add_row(result.suite, group.group, str(group.rows), str(group.skipped) if group.skipped else "",
                          _percent(group.mape_pct), _percent(group.median_ape_pct), _percent(group.max_ape_pct),
                          "–" if group.share_within is None or group.tolerance_pct is None else f"{100 * group.share_within:.1f} %",
                          "reported" if group.tolerance_pct is None else f"{group.tolerance_pct:g} %")
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"
