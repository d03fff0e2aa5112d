"""The benchmarks: ratios and CPU seconds, printed; never a test. ``python -m tilesim.validation.bench [NAME …]``.

CPU seconds are user and system time of this process. Kernels are compiled, and their caches warm, before anything is timed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ..sim.units import si_text

#: Benchmark → the module beside this one whose ``benchmarks()`` yields its lines.
BENCHMARKS = {"dram": "bench_dram", "road": "bench_road", "gpu": "bench_gpu"}


@dataclass(frozen=True, slots=True)
class Line:
    """One timed case: CPU seconds, the rate they come to, and a figure to compare with (its source in ``than``)."""

    case: str
    cpu_s: float
    rate: float | None = None
    unit: str = ""
    other_rate: float | None = None
    than: str = ""


def main(names: Iterable[str]) -> int:
    """Run the benchmarks *names* (all when empty) and print a table of each."""
    from rich.console import Console
    from rich.table import Table

    wanted = list(names) or list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in wanted:
        table = Table(title=f"Benchmark {name}", title_justify="left")
        table.add_column("case")
        for heading in ("CPU s", "rate", "peer", "ratio"):
            table.add_column(heading, justify="right")
        table.add_column("peer is")
        for line in importlib.import_module(f".{BENCHMARKS[name]}", __package__).benchmarks():
            ratio = f"{line.rate / line.other_rate:.1f}×" if line.rate and line.other_rate else ""
            table.add_row(line.case, f"{line.cpu_s:.3f}", _rate(line.rate, line.unit), _rate(line.other_rate, line.unit), ratio,
                          line.than)
        Console(width=None if sys.stdout.isatty() else 150).print(table)
    return 0


def _rate(value: float | None, unit: str) -> str:
    return "" if value is None else si_text(value, unit, 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
