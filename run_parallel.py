"""Several equal devices: one program for all, devices that meet at links, one report for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import simpy

from .arch.collectives import ALGORITHMS, LEAST_SENT, plan
from .arch.engine import Engine
from .arch.interconnect import Fabric
from .arch.layer_memo import run_program
from .arch.machine import MachineConfig
from .arch.run_counts import ProgramRun
from .arch.wires import InterconnectConfig
from .sim.energy import EnergyLine
from .sim.errors import ConfigError
from .sim.program import Compute, TileProgram
from .sim.report import IoBound, Report
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
) -> ProgramRun:
    """Run *program* on every device (*exact*), or on one that stands for all of them: they start alike, do the same work and wait
    for each other only where all of them wait."""
    wires = wires_of(machine, devices)
    if not exact:
        return run_program(machine, program, trace=trace, progress=progress,
                           fabric=lambda: Fabric(simpy.Environment(), wires, devices, 1))
    env = simpy.Environment()
    fabric = Fabric(env, wires, devices, devices)
    engines = [Engine(machine, program, exact=True, trace=trace and not index, progress=None if index else progress, fabric=fabric)
               for index in range(devices)]
    for engine in engines:
        engine.start()
    env.run()
    runs = [engine.finish() for engine in engines]
    assert len({run.end_ps for run in runs}) == 1, "equal devices ended at different times"
    return runs[0]


def exchanges(program: TileProgram) -> Counter[tuple[str, int]]:
    """How often each (collective, bytes of the buffer) stands in *program*."""
    found: Counter[tuple[str, int]] = Counter()
    for step in program.steps:
        for record in step.segment.records:
            if isinstance(record, Compute) and record.function in ALGORITHMS:
                dtypes = ((step.segment.buffers[view.buffer].dtype if view.buffer >= 0
                           else program.tensors[step.operands[view.operand]].dtype) for view in (*record.reads, *record.writes))
                sizes = (view.elements for view in (*record.reads, *record.writes))
                found[record.function, max(dtype.bytes_for(size) for dtype, size in zip(dtypes, sizes, strict=True))] += 1
    return found


def of_all_devices(report: Report, machine: MachineConfig, program: TileProgram, n: int, *, exact: bool) -> Report:
    """The report of one of *n* devices as that of all: counts, bytes and energy of all of them, times and shares of each."""
    wires, sent_bytes, link_bytes = wires_of(machine, n), 0.0, 0
    algorithms: Counter[str] = Counter()
    for (function, nbytes), times in exchanges(program).items():
        chosen = plan(function, nbytes, n, wires)
        link_bytes += times * chosen.link_bytes
        sent_bytes += times * float(LEAST_SENT[function](n)) * nbytes
        algorithms[chosen.algorithm] += times
    bits = link_bytes * BITS_PER_BYTE
    energy = [replace(line, count=line.count * n, joules=line.joules * n) for line in report.energy_lines]
    energy.append(EnergyLine("interconnect", "bit", bits, wires.energy_pj_per_bit, bits * wires.energy_pj_per_bit * 1e-12))
    symmetry = {"name": "device symmetry", "devices": n, "simulated": 1,
                "premise": "devices start alike, run one program and wait for each other only where all of them wait"}
    fastest = ", ".join(f"{count} × {name}" for name, count in sorted(algorithms.items()))
    return replace(
        report, machine=f"{n} × {report.machine}", config=dict(report.config) | {"devices": n},
        energy_lines=tuple(energy),
        memory={name: replace(level, capacity_bytes=n * level.capacity_bytes, used_bytes=n * level.used_bytes,
                              read_bytes=n * level.read_bytes, written_bytes=n * level.written_bytes,
                              bandwidth_bytes_per_s=n * level.bandwidth_bytes_per_s, peak_bytes_per_s=n * level.peak_bytes_per_s)
                for name, level in report.memory.items()},
        units={name: replace(unit, records=n * unit.records, macs=n * unit.macs) for name, unit in report.units.items()},
        links_bytes={way: n * nbytes for way, nbytes in report.links_bytes.items()} | {"device→device": link_bytes},
        operators=tuple(replace(op, macs=n * op.macs, executed_macs=n * op.executed_macs, read_bytes=n * op.read_bytes,
                                write_bytes=n * op.write_bytes, io_bound=_of_all(op.io_bound, n)) for op in report.operators),
        bounds=replace(report.bounds, compulsory_bytes=n * report.bounds.compulsory_bytes,
                       link_s=max(report.bounds.link_s, sent_bytes / wires.out_bytes_per_s(n))),
        reductions=report.reductions if exact else (*report.reductions, symmetry),
        assumptions=(*report.assumptions, f"{n} devices, tensor parallel, units' times are one's; collectives: {fastest}"),
    )


def _of_all(bound: IoBound | None, n: int) -> IoBound | None:
    """Each of *n* devices has its own share of the heads and its own memory: their traffic adds up, their memories do not."""
    return None if bound is None else IoBound(n * bound.compulsory_bytes, n * bound.order_bytes, bound.on_chip_bytes)
