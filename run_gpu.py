"""The road on GPUs: kernels of the graph, each timed by its mechanisms, one after another as in a CUDA graph; then the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import __version__
from .arch.gpu_collectives import collective_seconds
from .arch.gpu_config import Gpu
from .arch.gpu_kernel import KernelTime, KernelWork, run, work_energy_pj
from .mapping.gpu_kernels import Kernel, kernels_of
from .mapping.gpu_work import compute_format, signature, work_of
from .sim.config import Config
from .sim.energy import EnergyLine
from .sim.errors import ConfigError
from .sim.report import Bounds, MemoryReport, OperatorReport, Report, UnitReport
from .sim.units import FLOPS_PER_MAC, si_text
from .workloads.graph import OperatorGraph, tensors_of, totals
from .workloads.operators import Operator

#: Tensors that must cross the memory interface in any mapping; activations may stay on the chip.
_COMPULSORY_ROLES = ("weight", "kv", "input", "output")


@dataclass(frozen=True, slots=True)
class KernelRun:
    """One launch as it ran: its work and time on one rank, and the exchange between ranks after it."""

    kernel: Kernel
    work: KernelWork
    time: KernelTime
    exchange_s: float

    @property
    def kernel_s(self) -> float:
        return float(self.time.seconds[0])

    @property
    def busy_s(self) -> float:
        """Between launch and end."""
        return self.kernel_s - float(self.time.launch_s[0])

    @property
    def clock_share(self) -> float:
        return float(self.time.clock_share[0])

    @property
    def dram_bytes(self) -> int:
        return int(np.ceil(self.work.dram_bytes[0]))

    @property
    def macs(self) -> int:
        """Multiply-accumulates that one rank issues, the padding of its tiles included."""
        return round(float(self.work.issued_flops[0]) / FLOPS_PER_MAC) if self.kernel.first.macs else 0


def run_gpu_graph(
    gpu: Gpu, graph: OperatorGraph, name: str, tokens: int, described: Mapping[str, Any], *, ranks: int = 1,
) -> Report:
    """Run *graph* on *ranks* GPUs, tensor parallel, and report; *tokens*: that it processes; 0 for a bare operator."""
    _check_fits(gpu, graph, ranks)
    runs = _run_kernels(gpu, kernels_of(graph, ranks), ranks)
    seconds = sum(r.kernel_s + r.exchange_s for r in runs)
    machine = gpu.name if ranks == 1 else f"{ranks} × {gpu.name}"
    parts: dict[str, Config] = {"board": gpu.device, "architecture": gpu.architecture, "library": gpu.library}
    return Report(
        version=__version__, machine=machine, workload=name, tokens=tokens,
        config={"machine": {"gpus": ranks} | {key: part.model_dump(mode="json") for key, part in parts.items()},
                "workload": dict(described)},
        seconds=seconds, cycles={"sm": round(gpu.device.clock_hz * sum(
            r.kernel_s * r.clock_share + r.exchange_s for r in runs))},
        energy_lines=_energy_lines(gpu, runs, ranks, seconds), memory=_memory(gpu, graph, runs, ranks, seconds),
        units=_units(gpu, runs, ranks, seconds), links_bytes=_link_bytes(gpu, runs, ranks),
        operators=_operators(gpu, runs, ranks), bounds=_bounds(gpu, graph, runs, ranks), reductions=(),
        assumptions=_assumptions(gpu, ranks),
    )


def _check_fits(gpu: Gpu, graph: OperatorGraph, ranks: int) -> None:
    if ranks < 1:
        raise ConfigError(f"{ranks} GPUs; one or more are wanted", key="--tp", value=ranks)
    if ranks > 1 and gpu.device.link == "none":
        raise ConfigError(f"{gpu.name} has no link to another", key="--tp", value=ranks, mend="leave --tp out, or state a link")
    wanted, have = _stored_bytes(graph), ranks * gpu.device.dram_capacity_bytes
    if wanted > have:
        least = -(-wanted // gpu.device.dram_capacity_bytes)
        raise ConfigError(f"weights, KV cache, inputs and outputs take {wanted} B ({si_text(wanted, 'B')}); the memory of "
                          f"{ranks} × {gpu.name} has {have} B ({si_text(have, 'B')})", key="dram_capacity",
                          mend=f"use --tp {least} or more, a smaller batch or context, or a narrower --dtype")


def _stored_bytes(graph: OperatorGraph) -> int:
    return sum(t.nbytes for t in tensors_of(graph).values() if t.role != "activation")


def _run_kernels(gpu: Gpu, kernels: tuple[Kernel, ...], ranks: int) -> list[KernelRun]:
    """Each kernel's run; kernels of one signature are timed once, which changes nothing: a time depends on the work alone."""
    known: dict[Hashable, tuple[KernelWork, KernelTime]] = {}
    runs = []
    for kernel in kernels:
        key = signature(kernel)
        if key not in known:
            work = work_of(gpu, kernel)
            known[key] = work, run(gpu, work)
        exchange_s = collective_seconds(gpu, kernel.collective, kernel.message_bytes, ranks) if kernel.collective else 0.0
        runs.append(KernelRun(kernel, *known[key], exchange_s))
    return runs


# -- energy


def _energy_lines(gpu: Gpu, runs: list[KernelRun], ranks: int, seconds: float) -> tuple[EnergyLine, ...]:
    """Counts of all GPUs. An action's energy is its mean over the run: core energy falls with the clock that power allows."""
    counts: Counter[tuple[str, str]] = Counter()
    picojoules: defaultdict[tuple[str, str], float] = defaultdict(float)
    for r in runs:
        for action, (count, pj) in work_energy_pj(gpu, r.work, r.time.clock_share).items():
            unit = _matmul_unit(gpu, r.work.dtype) if action == "flop" else {"l2 byte": "l2", "dram byte": "dram"}.get(action, "sm")
            key = unit, f"{gpu.pipeline(r.work.dtype)} flop" if action == "flop" else action
            counts[key] += ranks * round(count)
            picojoules[key] += ranks * pj
    lines = [EnergyLine(component, action, count, picojoules[component, action] / count,
                        count * (picojoules[component, action] / count) * 1e-12)
             for (component, action), count in sorted(counts.items()) if count]
    return (*lines, EnergyLine("board", "static", 0, 0.0, ranks * gpu.device.idle_power_w * seconds))


def _matmul_unit(gpu: Gpu, dtype: str) -> str:
    return "tensor" if gpu.runs_on_tensor_cores(dtype) else "cuda"


# -- memory, units, links


def _memory(
    gpu: Gpu, graph: OperatorGraph, runs: list[KernelRun], ranks: int, seconds: float,
) -> dict[str, MemoryReport]:
    device = gpu.device
    written = ranks * sum(_written_bytes(r) for r in runs)
    read = ranks * sum(r.dram_bytes for r in runs) - written
    l2_bytes = ranks * round(sum(float(r.work.l2_bytes[0]) for r in runs))
    return {
        "dram": MemoryReport(
            "dram", "dram", ranks * device.dram_capacity_bytes, _stored_bytes(graph), read, written, (read + written) / seconds,
            ranks * device.dram_bandwidth_bytes_per_s,
            {"summary": f"{100 * device.dram_efficiency:.0f} % of the pin rate when streaming", "gpus": ranks}),
        "l2": MemoryReport(
            "l2", "cache", ranks * device.l2_bytes, ranks * device.l2_bytes, l2_bytes, 0, l2_bytes / seconds,
            ranks * gpu.l2_bytes_per_s, {"summary": "traffic between SMs and L2, both ways", "gpus": ranks}),
    }


def _written_bytes(r: KernelRun) -> int:
    """Of one rank's DRAM traffic, what is written: its outputs, at the share of all operands that misses L2."""
    outputs = sum(nbytes for op in r.kernel.operators for nbytes in op.written_bytes.values()) / r.kernel.parts
    operands = outputs + sum(nbytes for op in r.kernel.operators for nbytes in op.read_bytes.values()) / r.kernel.parts
    missed = outputs * min(1.0, r.dram_bytes / operands) if operands else 0.0
    return min(r.dram_bytes, max(round(missed), r.kernel.external_write_bytes // r.kernel.parts))


def _units(gpu: Gpu, runs: list[KernelRun], ranks: int, seconds: float) -> dict[str, UnitReport]:
    """Matrix pipes by their products; SMs by the time that kernels keep them. Times are of one GPU, counts of all."""
    busy: defaultdict[str, float] = defaultdict(float)
    macs: Counter[str] = Counter()
    records: Counter[str] = Counter()
    for r in runs:
        unit = _matmul_unit(gpu, r.work.dtype)
        busy[unit] += float(r.work.issued_flops[0]) / (gpu.peak_flops_per_s(r.work.dtype) * r.clock_share)
        macs[unit] += ranks * r.macs
        records[unit] += 1
    stalled = {"launch": sum(float(r.time.launch_s[0]) for r in runs),
               "dram": sum(max(0.0, r.busy_s - float(r.time.core_s[0])) for r in runs),
               "link": sum(r.exchange_s for r in runs)}
    units = {unit: UnitReport(unit, busy[unit], {}, records[unit], macs[unit],
                              min(1.0, busy[unit] / seconds) if macs[unit] else None) for unit in sorted(busy)}
    core_s = sum(float(r.time.core_s[0]) for r in runs)
    units["sm"] = UnitReport("sm", core_s, {cause: s for cause, s in stalled.items() if s}, len(runs), 0, None)
    return units


def _link_bytes(gpu: Gpu, runs: list[KernelRun], ranks: int) -> dict[str, int]:
    """Least bytes that all ranks send: each part of a buffer once to be summed and once to be spread."""
    passes = {"allreduce": 2, "allgather": 1}
    sent = sum(passes[r.kernel.collective] * (ranks - 1) * r.kernel.message_bytes for r in runs if r.kernel.collective)
    return {gpu.device.link: sent} if ranks > 1 else {}


# -- operators and bounds


def _operators(gpu: Gpu, runs: list[KernelRun], ranks: int) -> tuple[OperatorReport, ...]:
    reports, now_s = [], 0.0
    for r in runs:
        reports.append(_kernel_report(gpu, r, ranks, now_s))
        now_s += r.kernel_s
        if r.kernel.collective:
            reports.append(_exchange_report(gpu, r, now_s))
            now_s += r.exchange_s
    return tuple(reports)


def _kernel_report(gpu: Gpu, r: KernelRun, ranks: int, start_s: float) -> OperatorReport:
    first, operators = r.kernel.first, r.kernel.operators
    macs = sum(op.macs for op in operators)
    compute_s = sum(_compute_bound_s(gpu, op) for op in operators) / ranks
    memory_s = sum(map(_compulsory_bytes, operators)) / (ranks * gpu.device.dram_bandwidth_bytes_per_s)
    bound_s, written = max(compute_s, memory_s), _written_bytes(r)
    unit, core_s = _matmul_unit(gpu, r.work.dtype), float(r.time.core_s[0])
    return OperatorReport(
        name=r.kernel.name, kind=first.kind, layer=first.layer, start_s=start_s, end_s=start_s + r.kernel_s, seconds=r.kernel_s,
        macs=macs, executed_macs=ranks * r.macs, read_bytes=ranks * (r.dram_bytes - written), write_bytes=ranks * written,
        bound="memory" if memory_s >= compute_s else "compute", bound_seconds=bound_s, bottleneck=_bottleneck(gpu, r),
        warm=r.kernel_s < bound_s, busy_s={unit if macs else "sm": core_s},
        waited_s={"launch": float(r.time.launch_s[0]), "dram": max(0.0, r.busy_s - core_s)},
        mapping={"operators": [op.name for op in operators], "gpus": r.kernel.parts, "format": r.work.dtype,
                 "clock_share": r.clock_share, "power_w": float(r.time.power_w[0])},
    )


def _exchange_report(gpu: Gpu, r: KernelRun, start_s: float) -> OperatorReport:
    return OperatorReport(
        name=f"{r.kernel.name}.{r.kernel.collective}", kind="collective", layer=r.kernel.first.layer, start_s=start_s,
        end_s=start_s + r.exchange_s, seconds=r.exchange_s, macs=0, executed_macs=0, read_bytes=0, write_bytes=0, bound="memory",
        bound_seconds=0.0, bottleneck="link", warm=False, busy_s={gpu.device.link: r.exchange_s}, waited_s={},
        mapping={"message_bytes": r.kernel.message_bytes},
    )


def _bottleneck(gpu: Gpu, r: KernelRun) -> str:
    """What the kernel's time went to: its launch, DRAM, or of the SM time the power cap, L2, the math pipe, or latencies."""
    launch_s, core_s, dram_s = (float(part[0]) for part in (r.time.launch_s, r.time.core_s, r.time.dram_s))
    if launch_s >= max(core_s, dram_s):
        return "launch"
    if dram_s >= core_s:
        return "dram"
    if r.clock_share < 0.999:
        return "power cap"
    rates_s = {"l2": float(r.work.l2_bytes[0]) / gpu.l2_bytes_per_s,
               _matmul_unit(gpu, r.work.dtype): float(r.work.issued_flops[0]) / gpu.peak_flops_per_s(r.work.dtype)}
    longest = max(rates_s, key=lambda part: rates_s[part])
    return longest if rates_s[longest] >= 0.5 * core_s else "sm latency"


def _compulsory_bytes(op: Operator) -> int:
    return sum(nbytes for side in (op.read_bytes, op.written_bytes) for role, nbytes in side.items()
               if role in _COMPULSORY_ROLES)


def _compute_bound_s(gpu: Gpu, op: Operator) -> float:
    """Seconds of the operator's MACs at the peak of the pipe that multiplies its format, on one GPU."""
    return FLOPS_PER_MAC * op.macs / gpu.peak_flops_per_s(compute_format(op)) if op.macs else 0.0


def _bounds(gpu: Gpu, graph: OperatorGraph, runs: list[KernelRun], ranks: int) -> Bounds:
    counts = totals(graph)
    nbytes = sum(counts.external_read_bytes.values()) + sum(counts.external_written_bytes.values())
    compute_s = sum(_compute_bound_s(gpu, op) for r in runs for op in r.kernel.operators) / ranks
    return Bounds(compute_s, nbytes / (ranks * gpu.device.dram_bandwidth_bytes_per_s), nbytes)


def _assumptions(gpu: Gpu, ranks: int) -> tuple[str, ...]:
    notes = [
        "roofline: MACs at the peak of the pipe of their format, weights, KV cache, inputs and outputs at the pin rate",
        "kernels run one after another from a CUDA graph, so the host does not show; each at the clock that the power limit allows",
        "energy is the board's; an action's energy is its mean over the run, and static is the idle board",
    ]
    if not gpu.is_calibrated:
        notes.append(f"no measured row of {gpu.name} is in the calibration; its constants are those of {gpu.architecture.name}")
    if ranks > 1:
        notes.append("collectives do not overlap kernels; links carry the least bytes, and cost no energy beyond the idle board's")
    return tuple(notes)
