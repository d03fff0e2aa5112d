"""``tilesim reproduce``: published systems; what the paper says, what comes out here, the gap and its reason."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sim.errors import ConfigError

if TYPE_CHECKING:
    from .validation.reproduction import Figure, Reproduction


def add_parser(commands: Any) -> None:
    """Add the subcommand to the parser's *commands*."""
    parser = commands.add_parser("reproduce", help="run a published system: its figures, ours, the gaps and their reasons",
                                 description="Run published systems and print each figure of the paper beside ours.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a shipped system (default: all of them)")
    parser.add_argument("--list", action="store_true", help="list the systems, and run none")
    parser.add_argument("--exact", action="store_true",
                        help="slower: a command-level memory in the loop, where else its measured rate stands for it")
    parser.add_argument("--json", metavar="FILE|-", help="write every figure as JSON")
    parser.add_argument("--plots", metavar="DIR", help="write plots like the paper's as PNG")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what *arguments* say; 0 when it ran, whatever the gaps are."""
    from .sim.files import check_writable, write_output
    from .sim.plots import save
    from .validation.reproduction import REPRODUCERS, draw, load_system, reproduce

    systems = [load_system(name) for name in arguments.names or sorted(REPRODUCERS)]
    if arguments.list:
        for system in systems:
            print(f"{system.name}: {system.title}. {system.source}")
        return 0
    if arguments.json is not None:
        check_writable(arguments.json)
    if arguments.plots is not None and Path(arguments.plots).exists() and not Path(arguments.plots).is_dir():
        raise ConfigError("is a file; --plots wants a folder", file=arguments.plots)
    results = []
    for system in systems:
        print(f"{system.name} …", file=sys.stderr)
        results.append(reproduce(system, arguments.exact))
    if arguments.json is not None:
        data = [result.to_dict() for result in results]
        write_output(arguments.json, lambda stream: stream.write(json.dumps(data, allow_nan=False, indent=1) + "\n"))
    if arguments.plots is not None:
        for result in results:
            for name, picture in draw(result).items():
                print(f"wrote {save(picture, Path(arguments.plots) / f'{result.system.name}-{name}.png')}", file=sys.stderr)
    if arguments.json != "-":
        for result in results:
            _print(result)
    return 0


def _print(result: Reproduction) -> None:
    from rich.console import Console
    from rich.table import Table

    reasons: list[str] = []
    tables = [_claims(result.claims, reasons), *_points(result.points, reasons)]
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(f"{result.system.title}\n{result.system.source}")
    for table in tables:
        assert isinstance(table, Table)
        console.print(table)
    for number, reason in enumerate(reasons, start=1):
        console.print(f"[{number}] {reason}", markup=False)


def _claims(figures: tuple[Figure, ...], reasons: list[str]) -> Any:
    from rich.table import Table

    table = Table(title="Headline", title_justify="left")
    table.add_column("claim")
    table.add_column("what is run")
    for heading in ("paper", "ours", "gap"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for figure in sorted(figures, key=lambda f: [g.quantity for g in figures].index(f.quantity)):
        table.add_row(figure.quantity, figure.case.replace("/", ", "), _number(figure.paper), _number(figure.ours), _gap(figure),
                      _note(figure.reason, reasons))
    return table


def _points(figures: tuple[Figure, ...], reasons: list[str]) -> list[Any]:
    """One table a quantity: a line for each case but its last part, a column for each last part."""
    from rich.table import Table

    tables = []
    for quantity in dict.fromkeys(figure.quantity for figure in figures):
        group = {figure.case: figure for figure in figures if figure.quantity == quantity}
        designs = list(dict.fromkeys(case.rpartition("/")[2] for case in group))
        table = Table(title=f"{quantity}: paper, ours, gap", title_justify="left")
        table.add_column("case")
        for design in designs:
            table.add_column(design, justify="right")
        table.add_column("why")
        for case in dict.fromkeys(case.rpartition("/")[0] for case in group):
            line = [group[f"{case}/{design}"] for design in designs]
            why = dict.fromkeys(_note(figure.reason, reasons) for figure in line)
            table.add_row(case, *(f"{_number(figure.paper)}  {_number(figure.ours)}  {_gap(figure):>7s}" for figure in line),
                          " ".join(note for note in why if note != "equal") or "equal")
        tables.append(table)
    return tables


def _note(reason: str, reasons: list[str]) -> str:
    """A short word as it stands, a sentence by its number below the tables."""
    if " " not in reason:
        return reason
    if reason not in reasons:
        reasons.append(reason)
    return f"[{reasons.index(reason) + 1}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _gap(figure: Figure) -> str:
    return "" if figure.gap_pct is None else f"{figure.gap_pct:+.2f} %"
