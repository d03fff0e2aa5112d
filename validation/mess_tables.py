"""Tables of bandwidth-latency curves, simulated and measured: files recognised by their columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..sim.errors import ConfigError

SHIPPED = Path(__file__).parent / "data" / "mess.csv"
#: Column of a simulated table → what it is, in the two spellings that such tables have.
SIMULATED = {"read_fraction": "reads", "read_pct": "reads_pct", "nop_counter": "nop", "nop": "nop",
             "bandwidth_GBps": "bandwidth", "bandwidth_GBs": "bandwidth", "avg_random_read_latency_ns": "latency",
             "avg_random_read_latency_ns_ch0": "latency"}
MEASURED = ("system", "read_pct", "bandwidth_GBs", "latency_ns")
#: The simulated tables' device, unless they have columns `memory` and `channels`: DDR5-4800, 16 sub-channels.
DEVICE = ("ddr5-4800", 16)


@dataclass(frozen=True, slots=True)
class Simulated:
    """One line of a simulated table."""

    case: str
    memory: str
    channels: int
    read_share: float
    nop: int
    gb_per_s: float
    latency_ns: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of a measured table."""

    case: str
    system: str
    read_pct: float
    gb_per_s: float
    latency_ns: float


def read_tables(reference: Path | None) -> tuple[list[Simulated], list[Measured]]:
    """Every line of every table, each file recognised by its columns."""
    files = [SHIPPED] if reference is None else sorted(reference.rglob("*.csv")) if reference.is_dir() else [reference]
    simulated: list[Simulated] = []
    measured: list[Measured] = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            names = {column: SIMULATED[column] for column in reader.fieldnames or () if column in SIMULATED}
            kinds = set(names.values())
            if {"nop", "bandwidth", "latency"} <= kinds and kinds & {"reads", "reads_pct"}:
                simulated += [_simulated(file, number, row, names) for number, row in enumerate(reader, start=1)]
            elif set(MEASURED) <= set(reader.fieldnames or ()):
                measured += [_measured(file, number, row) for number, row in enumerate(reader, start=1)]
    if not simulated and not measured:
        raise ConfigError("no bandwidth-latency table here", file=str(reference), allowed=(*SIMULATED, *MEASURED),
                          mend="a table is a CSV file of read shares, pauses, bandwidths and latencies")
    return simulated, measured


def _simulated(file: Path, number: int, row: Mapping[str, str], names: Mapping[str, str]) -> Simulated:
    try:
        values = {meaning: float(row[column]) for column, meaning in names.items()}
        channels = int(row.get("channels") or DEVICE[1])
    except (TypeError, ValueError):
        raise ConfigError("read share, pause, bandwidth and latency must be numbers", file=str(file), line=number + 1) from None
    reads = values["reads"] if "reads" in values else values["reads_pct"] / 100
    return Simulated(f"{file.stem}:{number}", row.get("memory") or DEVICE[0], channels, reads, int(values["nop"]),
                     values["bandwidth"], values["latency"])


def _measured(file: Path, number: int, row: Mapping[str, str]) -> Measured:
    try:
        numbers = [float(row[column]) for column in MEASURED[1:]]
    except (TypeError, ValueError):
        raise ConfigError("read share, bandwidth and latency must be numbers", file=str(file), line=number + 1) from None
    return Measured(f"{file.stem}:{number}", row["system"], *numbers)
