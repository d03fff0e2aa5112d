"""What every GPU kernel shares: its work, its time at a clock, the clock that the power limit allows, its energy.

All functions are elementwise over numpy arrays (one element per kernel), so that a calibration evaluates a thousand
kernels at once; a single kernel is an array of length one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .gpu_config import Gpu

Array = NDArray[np.float64]

#: Exponent of the norm that joins SM time and DRAM time. ∞ would be perfect overlap (the maximum), 1 none. Fills, drains
#: and ragged waves leave a part uncovered. ASSUMED equal on all devices; the ablation in docs/gpu.md shows its weight.
OVERLAP_EXPONENT = 4.0
#: Time an SM needs for each further small thread block. Counted on kernels of one row per block: quantising 32768 short rows
#: takes 8–14 µs on 132–188 SMs (measured GEMM rows with k = 32 in 8 bits, less those in 16 bits).
THREAD_BLOCK_START_S = 50e-9
#: No board throttles below this share of its boost clock while it can still run (the base clock of data sheets is
#: 0.3–0.8 of the boost clock).
LOWEST_CLOCK_SHARE = 0.25
_BISECTIONS = 14                            # 2^-14 of the clock range: below 0.1 MHz


@dataclass(frozen=True, slots=True)
class KernelWork:
    """What one kernel (or each kernel of an array) must do, before any clock is known."""

    launch_s: Array                         # host-independent start and drain; no clock or power limit changes it
    core_s: Array                           # SM and L2 time at the board's full clock; goes with 1/clock
    dram_s: Array
    flops: Array                            # useful operations
    issued_flops: Array                     # with the padding of ragged tiles; what costs energy
    dram_bytes: Array
    l2_bytes: Array
    dtype: str = "fp16"
    other_core_pj: Array | float = 0.0      # of instructions that are no matrix product (softmax)


@dataclass(frozen=True, slots=True)
class KernelTime:
    """The breakdown of one kernel, or of each kernel of an array."""

    seconds: Array
    launch_s: Array
    core_s: Array                           # at the clock that power allowed
    dram_s: Array
    clock_share: Array                      # of the board's full clock
    power_w: Array                          # board power averaged over the kernel
    energy_j: Array
    flops: Array
    dram_bytes: Array

    @property
    def bound(self) -> str:
        """What the first kernel waits for most: launch, compute, memory, or power (compute at a lowered clock)."""
        launch, core, dram = (float(np.ravel(part)[0]) for part in (self.launch_s, self.core_s, self.dram_s))
        if launch >= max(core, dram):
            return "launch"
        if dram >= core:
            return "memory"
        return "power" if float(np.ravel(self.clock_share)[0]) < 0.999 else "compute"


def choose(condition: NDArray[np.bool_], yes: KernelWork, no: KernelWork) -> KernelWork:
    """Elementwise *yes* where *condition* holds, else *no*."""
    fields = ("launch_s", "core_s", "dram_s", "flops", "issued_flops", "dram_bytes", "l2_bytes", "other_core_pj")
    return KernelWork(dtype=no.dtype, **{name: np.where(condition, getattr(yes, name), getattr(no, name)) for name in fields})


def busy_seconds(work: KernelWork, clock_share: Array | float) -> Array:
    """Time between start and end of the work at *clock_share* of the full clock, without the launch."""
    exponent = OVERLAP_EXPONENT
    core_s = work.core_s / clock_share
    longest = np.maximum(np.maximum(core_s, work.dram_s), 1e-12)
    joined: Array = longest * ((core_s / longest) ** exponent + (work.dram_s / longest) ** exponent) ** (1 / exponent)
    return joined


def work_energy_pj(gpu: Gpu, work: KernelWork, clock_share: Array | float) -> dict[str, tuple[float, float]]:
    """The first kernel's energy above idle by action: (count, picojoules in all) at *clock_share* of the full clock."""
    scale = float(np.ravel(voltage_share(gpu, clock_share))[0]) ** 2
    flops, l2_bytes, dram_bytes = (float(np.ravel(part)[0]) for part in (work.issued_flops, work.l2_bytes, work.dram_bytes))
    score_pj = float(np.ravel(work.other_core_pj)[0])
    actions = {"flop": (flops, flops * gpu.pj_per_flop(work.dtype) * scale),
               "l2 byte": (l2_bytes, l2_bytes * gpu.architecture.pj_per_l2_byte * scale),
               "dram byte": (dram_bytes, dram_bytes * gpu.architecture.pj_per_dram_byte)}
    if score_pj:
        actions["score"] = (score_pj / gpu.architecture.pj_per_score, score_pj * scale)
    return actions


def voltage_share(gpu: Gpu, clock_share: Array | float) -> Array:
    """Supply voltage over that at which the architecture's energies are stated: boards of one architecture share a curve, and it
    falls linearly with the clock, to a floor."""
    floor, stated_hz = gpu.architecture.voltage_floor, gpu.architecture.full_voltage_clock_hz
    share: Array = floor + (1.0 - floor) * np.asarray(clock_share) * gpu.device.clock_hz / stated_hz
    return share


def dynamic_energy_j(gpu: Gpu, work: KernelWork, clock_share: Array | float) -> Array:
    """Energy above idle. Core energy falls with the square of the voltage, which falls linearly with the clock."""
    architecture = gpu.architecture
    voltage = voltage_share(gpu, clock_share)
    core_pj = work.issued_flops * gpu.pj_per_flop(work.dtype) + work.l2_bytes * architecture.pj_per_l2_byte + work.other_core_pj
    energy: Array = (core_pj * voltage**2 + work.dram_bytes * architecture.pj_per_dram_byte) * 1e-12
    return energy


def allowed_clock_share(gpu: Gpu, work: KernelWork) -> Array:
    """The highest share of the full clock at which board power stays within the limit."""
    budget_w = gpu.device.power_limit_w - gpu.device.idle_power_w

    def fits(share: Array) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = dynamic_energy_j(gpu, work, share) <= budget_w * busy_seconds(work, share)
        return result

    high = np.ones_like(work.core_s)
    fits_at_full = fits(high)
    if bool(np.all(fits_at_full)):
        return high
    low = np.full_like(high, LOWEST_CLOCK_SHARE)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        inside = fits(middle)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.where(fits_at_full, 1.0, low)


def allowed_seconds(gpu: Gpu, work: KernelWork, clock_share: Array) -> Array:
    """Time of *work* after its launch at the clock that power allows. Where even the lowest clock draws too much (a limit near what
    DRAM takes alone), the board halts and runs by turns, so that its mean power stays at the limit."""
    budget_w = gpu.device.power_limit_w - gpu.device.idle_power_w
    seconds: Array = np.maximum(busy_seconds(work, clock_share), dynamic_energy_j(gpu, work, clock_share) / budget_w)
    return seconds


def run(gpu: Gpu, work: KernelWork) -> KernelTime:
    """*work* on *gpu*: the clock that power allows, the time at that clock, the energy."""
    share = allowed_clock_share(gpu, work)
    busy = allowed_seconds(gpu, work, share)
    seconds = work.launch_s + busy
    energy = dynamic_energy_j(gpu, work, share) + gpu.device.idle_power_w * seconds
    return KernelTime(
        seconds=seconds, launch_s=work.launch_s, core_s=work.core_s / share, dram_s=work.dram_s, clock_share=share,
        power_w=energy / seconds, energy_j=energy, flops=work.flops, dram_bytes=work.dram_bytes,
    )


def l2_miss_share(
    gpu: Gpu, footprint_bytes: Array, l2_warm: Array | NDArray[np.bool_] | bool, share_of_l2: float | None = None,
) -> Array:
    """Share of a kernel's compulsory traffic that goes to DRAM, when the same data was touched just before (*l2_warm*).

    All hits up to *share_of_l2* (`warm_share` unless given); hashed replacement lets the hits fade out over as much again.
    """
    reach = (share_of_l2 or gpu.architecture.warm_share) * gpu.device.l2_bytes
    missing = np.clip(np.asarray(footprint_bytes) / reach - 1.0, 0.0, 1.0)
    share: Array = np.where(np.asarray(l2_warm, dtype=bool), missing, 1.0)
    return share


def latency_limited_bytes_per_s(gpu: Gpu, bytes_in_flight: Array) -> Array:
    """Little's law: the bandwidth that *bytes_in_flight* over the whole chip can draw from DRAM."""
    rate: Array = bytes_in_flight / (gpu.architecture.dram_latency_ns * 1e-9)
    return rate
