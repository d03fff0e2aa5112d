"""Exploring: one workload on several machines, side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .arch.families import Machine, find_machine
from .run import road_of, simulate
from .sim.errors import ConfigError
from .sim.report import Report
from .workloads.network import Inference
from .workloads.phases import Workload

SCHEMA = "tilesim.comparison/1"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One machine of a comparison; ratios are over the first machine: above 1 is faster, or takes more energy."""

    machine: str
    seconds: float
    tokens_per_s: float | None
    speed_up: float
    energy_j: float
    energy_ratio: float | None             # None where the first machine states no energies
    power_w: float
    roofline_s: float
    roofline_ratio: float
    bound: str
    bottleneck: str                         # of the operators that took the most time together


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload on several machines, in the order they were named."""

    workload: str
    reports: tuple[Report, ...]

    @property
    def rows(self) -> tuple[ComparisonRow, ...]:
        first = self.reports[0]
        return tuple(_row(report, first) for report in self.reports)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data, the reports whole."""
        return {"schema": SCHEMA, "workload": self.workload, "rows": [asdict(row) for row in self.rows],
                "reports": [report.to_dict() for report in self.reports]}

    def to_json(self) -> str:
        """Strict JSON with a newline at its end."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def write_csv(self, stream: IO[str]) -> None:
        """One line for each machine."""
        writer = csv.DictWriter(stream, list(ComparisonRow.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)


def compare(
    machines: Sequence[str | Path | Machine], workload: Workload | Inference, *, sets: tuple[str, ...] = (),
    tensor_parallel: int | None = None, progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run *workload* on each of *machines*, of any family. *sets* change every machine that they are given to;
    *tensor_parallel* divides the model over as many machines of each family that shares models.

    Raises ConfigError for input that cannot be right.
    """
    if len(machines) < 2:
        raise ConfigError("a comparison wants two machines or more", key="--arch", mend="name --arch once for each")
    found = [find_machine(str(machine), sets) if isinstance(machine, str | Path) else machine for machine in machines]
    reports = []
    for machine in found:
        ranks = tensor_parallel if road_of(machine).divides_models else 1
        reports.append(simulate(machine, workload, tensor_parallel=ranks, progress=progress))
    return Comparison(workload.name, tuple(reports))


def _row(report: Report, first: Report) -> ComparisonRow:
    return ComparisonRow(
        machine=report.machine, seconds=report.seconds, tokens_per_s=report.tokens_per_s, speed_up=first.seconds / report.seconds,
        energy_j=report.energy_j, energy_ratio=report.energy_j / first.energy_j if first.energy_j else None,
        power_w=report.energy_j / report.seconds,
        roofline_s=report.bounds.roofline_s, roofline_ratio=report.distance_to_roofline, bound=report.bounds.kind,
        bottleneck=_bottleneck(report),
    )


def _bottleneck(report: Report) -> str:
    seconds: dict[str, float] = {}
    for op in report.operators:
        seconds[op.bottleneck] = seconds.get(op.bottleneck, 0.0) + op.seconds
    return max(sorted(seconds), key=lambda cause: seconds[cause])
