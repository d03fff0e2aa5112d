"""Speed of the DRAM controller: requests a CPU second on the traffic of the peers' measurements, without reductions, on one core.

``python -m tilesim.validation.bench_dram [--requests N] [--channels N] [--reference FOLDER]`` runs shipped memories; with a
reference folder its devices instead, beside the peers' own figures in ``speed.csv``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simpy

from ..memory import layout as at
from ..memory.address import parse_mapping
from ..memory.advance import advance
from ..memory.controller import PRESETS, ControllerConfig, descriptors, tables_for
from ..memory.standard import load_memory
from ..memory.tables import Tables
from .bench import Line
from .dram import Reference, controller_of
from .dram_traces import MAPPING, Geometry, make_trace

KINDS = ("seq_rd", "bgi_rd", "hit_rd", "rand_rd", "mix50_rand")
#: One memory of each standard.
MEMORIES = ("ddr3-1600", "ddr4-3200", "ddr5-4800", "lpddr4-3200", "lpddr5-6400", "gddr5-4000", "gddr6-14000", "gddr7-28000",
            "hbm2-2000", "hbm3-6400", "hbm4-8000")
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement: the best of a few runs."""

    case: str
    requests_per_cpu_s: float
    peer_requests_per_cpu_s: float | None = None


def benchmarks() -> Iterator[Line]:
    """The shipped memories under the preset ``ramulator``, for the table of all benchmarks; first how fast this machine is."""
    events = 300_000
    rate = simpy_rate(events)
    yield Line("this machine: SimPy timeouts of 10 processes", events / rate, rate, "events/s")
    for speed in shipped(300_000, 1, PRESETS["ramulator"]):
        yield Line(speed.case, 300_000 / speed.requests_per_cpu_s, speed.requests_per_cpu_s, "req/s")


def simpy_rate(events: int) -> float:
    """SimPy timeouts a CPU second: a yardstick of the machine, for figures that were measured on different ones."""
    env = simpy.Environment()

    def tick() -> Generator[simpy.Event, None, None]:
        for _ in range(events // 10):
            yield env.timeout(1)

    for _ in range(10):
        env.process(tick())
    start_s = time.process_time()
    env.run()
    return events / (time.process_time() - start_s)


def measure(tables: Tables, geometry: Geometry, kind: str, requests: int, channels: int) -> float:
    """Requests a CPU second over all *channels*, each serving the same trace."""
    trace = make_trace(kind, geometry, requests)
    best_s = float("inf")
    for _ in range(REPEATS):
        states = tables.new_states(channels)
        states[:, at.S_DESC_TAIL] = requests
        one = descriptors(trace.burst, np.ones_like(trace.burst), trace.tick + 1, trace.write, 0)
        desc = np.repeat(one[None], channels, axis=0)
        transfers, log = np.array([[requests * channels, 0]], np.int64), np.zeros((1, 0, at.L_SIZE), np.int64)
        start_s = time.process_time()
        scratch = np.zeros((1, 2), np.int64)
        advance(states, tables, desc, transfers, log, scratch, at.NEVER)
        best_s = min(best_s, time.process_time() - start_s)
    return requests * channels / best_s


def shipped(requests: int, channels: int, controller: ControllerConfig) -> Iterator[Speed]:
    """The shipped memories under one controller."""
    for name in MEMORIES:
        memory = load_memory(name)
        o = memory.organisation
        geometry = Geometry(o.bursts_per_row, o.pseudo_channels, o.stack_ids * o.ranks, o.bank_groups, o.banks_per_group, o.rows,
                            o.bytes_per_burst)
        mapping = parse_mapping("RoBaBgSidRaPcCo", o)
        tables = tables_for(memory.standard, o, memory.ticks, mapping, controller)
        for kind in KINDS:
            yield Speed(f"{name}/{kind} x {channels}", measure(tables, geometry, kind, requests, channels))


def against(folder: Path) -> Iterator[Speed]:
    """The cases of ``speed.csv``, with the peers' own speeds."""
    reference = Reference(folder / "configs.yaml")
    with (folder / "speed.csv").open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            config, _, several = line["config"].partition(" x ")
            channels = int(several.split()[0]) if several else 1
            device = reference.device(line["peer"], config)
            tables = tables_for(device.standard, device.organisation, device.timing, parse_mapping(MAPPING, device.organisation),
                                controller_of(line["peer"]))
            speed = measure(tables, Geometry.parse(device.geometry), line["trace"], int(line["requests"]) // channels, channels)
            yield Speed(f"{line['peer']}/{line['config']}/{line['trace']}", speed, float(line["requests_per_s"]))


def main(arguments: list[str] | None = None) -> int:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(prog="bench_dram", description=__doc__)
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--reference", type=Path)
    parsed = parser.parse_args(arguments)
    speeds = shipped(parsed.requests, parsed.channels, PRESETS["ramulator"])
    for speed in against(parsed.reference) if parsed.reference else speeds:
        peer = speed.peer_requests_per_cpu_s
        beside = f"   peer {peer / 1e6:.3f} M/s   x {speed.requests_per_cpu_s / peer:.1f}" if peer else ""
        sys.stdout.write(f"{speed.case:55s} {speed.requests_per_cpu_s / 1e6:6.2f} M requests/CPU-s{beside}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
