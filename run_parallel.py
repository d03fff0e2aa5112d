"""Several equal devices: one program for all, devices that meet at links, one report for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import simpy

from .arch.collectives import LEAST_SENT
from .arch.engine import Engine, ProgramRun
from .arch.interconnect import Fabric, InterconnectConfig
from .arch.machine import MachineConfig
from .sim.energy import EnergyLine
from .sim.errors import ConfigError
from .sim.program import TileProgram
from .sim.report import Report
from .sim.units import BITS_PER_BYTE


def wires_of(machine: MachineConfig, devices: int) -> InterconnectConfig:
    """The links between *devices* of *machine*; a ConfigError when it has none."""
    if machine.interconnect is None:
        raise ConfigError(f"{machine.name} has no links to other devices, so {devices} of them cannot share the work",
                          key="interconnect", mend="add: interconnect: {topology: ring, bandwidth: …, latency: …, energy: …}")
    return machine.interconnect


def run_devices(
    machine: MachineConfig, program: TileProgram, devices: int, *, exact: bool, trace: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[ProgramRun, Fabric]:
    """Run *program* on every device (*exact*), or on one that stands for all of them: they start alike, do the same work and wait
    for each other only where all of them wait."""
    env = simpy.Environment()
    fabric = Fabric(env, wires_of(machine, devices), devices, devices if exact else 1)
    engines = [Engine(machine, program, exact=exact, trace=trace and not index, progress=None if index else progress, fabric=fabric)
               for index in range(fabric.simulated)]
    for engine in engines:
        engine.start()
    env.run()
    runs = [engine.finish() for engine in engines]
    assert len({run.end_ps for run in runs}) == 1, "equal devices ended at different times"
    return runs[0], fabric


def of_all_devices(report: Report, fabric: Fabric, described: dict[str, Any]) -> Report:
    """The report of one device as that of all: counts, bytes and energy of all of them, times and shares of each."""
    n, wires = fabric.devices, fabric.wires
    bits = fabric.link_bytes * BITS_PER_BYTE
    energy = [replace(line, count=line.count * n, joules=line.joules * n) for line in report.energy_lines]
    energy.append(EnergyLine("interconnect", "bit", bits, wires.energy_pj_per_bit, bits * wires.energy_pj_per_bit * 1e-12))
    sent_bytes = sum(float(LEAST_SENT[function](n)) * nbytes for function, nbytes in fabric.sent)
    symmetry = {"name": "device symmetry", "devices": n, "simulated": fabric.simulated,
                "premise": "devices start alike, run one program and wait for each other only where all of them wait"}
    algorithms = ", ".join(f"{count} × {name}" for name, count in sorted(fabric.algorithms.items()))
    return replace(
        report, machine=f"{n} × {report.machine}", config=dict(report.config) | described,
        energy_lines=tuple(energy),
        memory={name: replace(level, capacity_bytes=n * level.capacity_bytes, used_bytes=n * level.used_bytes,
                              read_bytes=n * level.read_bytes, written_bytes=n * level.written_bytes,
                              bandwidth_bytes_per_s=n * level.bandwidth_bytes_per_s, peak_bytes_per_s=n * level.peak_bytes_per_s)
                for name, level in report.memory.items()},
        units={name: replace(unit, records=n * unit.records, macs=n * unit.macs) for name, unit in report.units.items()},
        links_bytes={way: n * nbytes for way, nbytes in report.links_bytes.items()} | {"device→device": fabric.link_bytes},
        operators=tuple(replace(op, macs=n * op.macs, executed_macs=n * op.executed_macs, read_bytes=n * op.read_bytes,
                                write_bytes=n * op.write_bytes) for op in report.operators),
        bounds=replace(report.bounds, compulsory_bytes=n * report.bounds.compulsory_bytes,
                       link_s=max(report.bounds.link_s, sent_bytes / wires.out_bytes_per_s(n))),
        reductions=(*report.reductions, symmetry) if fabric.simulated < n else report.reductions,
        assumptions=(*report.assumptions, f"{n} devices, tensor parallel, units' times are one's; collectives: {algorithms}"),
    )
