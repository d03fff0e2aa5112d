"""The report: everything a run says, as one frozen value. Tables, plots and files are functions of it alone."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

from .energy import EnergyLine, by_component
from .timeline import Timeline

SCHEMA = "tilesim.report/1"


@dataclass(frozen=True, slots=True)
class IoBound:
    """What exact attention must move off chip: ``compulsory_bytes`` by any schedule; ``order_bytes`` up to a constant.

    ``order_bytes`` is N² d² / M for a memory of ``on_chip_bytes``: no schedule moves less than some constant times it, which no
    source gives; it is shown beside the hard bound and never added to it (``workloads/attention_io.py``).
    """

    compulsory_bytes: int
    order_bytes: float
    on_chip_bytes: int


@dataclass(frozen=True, slots=True)
class OperatorReport:
    """One operator of the run.

    ``seconds`` is its share of the run: from the results of all operators before it to its own, so the shares of all
    operators add up to the run. ``start_s``..``end_s`` is its whole life, prefetching included; lives of operators overlap.
    ``bound_seconds`` is its own roofline; ``warm`` says that it
    looks faster than that: its operands had been prefetched or were on the chip already, or its stores are posted.
    ``waited_s`` is what its compute units waited for, ``busy_s`` how long they worked. ``io_bound``: of attention on parts whose
    on-chip memory is known, else None.
    """

    name: str
    kind: str
    layer: int | None
    start_s: float
    end_s: float
    seconds: float
    macs: int
    executed_macs: int
    read_bytes: int
    write_bytes: int
    bound: str
    bound_seconds: float
    bottleneck: str
    warm: bool
    busy_s: Mapping[str, float]
    waited_s: Mapping[str, float]
    mapping: Mapping[str, Any]
    io_bound: IoBound | None = None


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """One memory level over the whole run. DRAM levels also say how their rows and commands went."""

    name: str
    kind: str
    capacity_bytes: int
    used_bytes: int
    read_bytes: int
    written_bytes: int
    bandwidth_bytes_per_s: float
    peak_bytes_per_s: float
    details: Mapping[str, Any]

    @property
    def utilisation(self) -> float:
        return self.bandwidth_bytes_per_s / self.peak_bytes_per_s if self.peak_bytes_per_s else 0.0


@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit over the whole run: seconds at work, seconds stalled by cause, share of its peak that it reached."""

    name: str
    busy_s: float
    stalled_s: Mapping[str, float]
    records: int
    macs: int
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The physical bounds of the run: it cannot be faster than ``roofline_s``, the largest of those below."""

    compute_s: float
    memory_s: float
    compulsory_bytes: int
    link_s: float = 0.0                     # the compulsory bytes over the slowest link on their way

    @property
    def roofline_s(self) -> float:
        return max(self.compute_s, self.memory_s, self.link_s)

    @property
    def kind(self) -> str:
        if self.link_s > max(self.memory_s, self.compute_s):
            return "link"
        return "memory" if self.memory_s >= self.compute_s else "compute"


@dataclass(frozen=True, slots=True)
class Report:
    """What one run took, and where it went. Equal inputs give equal bytes of :meth:`to_json`."""

    version: str
    machine: str
    workload: str
    tokens: int
    config: Mapping[str, Any]
    seconds: float
    cycles: Mapping[str, int]
    energy_lines: tuple[EnergyLine, ...]
    memory: Mapping[str, MemoryReport]
    units: Mapping[str, UnitReport]
    links_bytes: Mapping[str, int]
    operators: tuple[OperatorReport, ...]
    bounds: Bounds
    reductions: tuple[Mapping[str, Any], ...]
    assumptions: tuple[str, ...]
    timeline: Timeline | None = None

    @property
    def energy_j(self) -> float:
        return sum(line.joules for line in self.energy_lines)

    @property
    def energy_by_component(self) -> Mapping[str, float]:
        """Joules by component; they add up to ``energy_j``."""
        return by_component(self.energy_lines)

    @property
    def tokens_per_s(self) -> float | None:
        """New tokens per second over all sequences; None for a bare operator, which has none."""
        return self.tokens / self.seconds if self.tokens else None

    @property
    def distance_to_roofline(self) -> float:
        """Simulated time over roofline time; at least 1."""
        return self.seconds / self.bounds.roofline_s

    @property
    def config_hash(self) -> str:
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data: the schema of ``--json``."""
        return {
            "schema": SCHEMA,
            "tilesim_version": self.version,
            "config_hash": self.config_hash,
            "machine": self.machine,
            "workload": self.workload,
            "config": self.config,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "cycles": dict(self.cycles),
            "energy_j": self.energy_j,
            "energy": {"by_component_j": dict(self.energy_by_component), "lines": [asdict(e) for e in self.energy_lines]},
            "memory": {name: asdict(level) | {"utilisation": level.utilisation} for name, level in self.memory.items()},
            "units": {name: asdict(unit) for name, unit in self.units.items()},
            "links_bytes": dict(self.links_bytes),
            "operators": [asdict(operator) for operator in self.operators],
            "bounds": asdict(self.bounds) | {
                "roofline_s": self.bounds.roofline_s, "kind": self.bounds.kind, "ratio": self.distance_to_roofline},
            "reductions": [dict(reduction) for reduction in self.reductions],
            "assumptions": list(self.assumptions),
        }

    def to_json(self) -> str:
        """Strict JSON with a newline at its end."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def write_csv(self, stream: IO[str]) -> None:
        """One line for each operator."""
        causes = sorted({cause for op in self.operators for cause in op.waited_s})
        units = sorted({unit for op in self.operators for unit in op.busy_s})
        writer = csv.writer(stream, lineterminator="\n")
        plain = ("name", "kind", "layer", "start_s", "end_s", "seconds", "macs", "executed_macs", "read_bytes",
                 "write_bytes", "bound", "bound_seconds", "bottleneck", "warm")
        writer.writerow([*plain, *(f"busy_s:{u}" for u in units), *(f"waited_s:{c}" for c in causes)])
        for op in self.operators:
            row = ["" if getattr(op, key) is None else getattr(op, key) for key in plain]
            writer.writerow([*row, *(op.busy_s.get(u, 0.0) for u in units), *(op.waited_s.get(c, 0.0) for c in causes)])
