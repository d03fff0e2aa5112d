"""What the energy suite runs: each kind of case gives the quantities that an anchor names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..arch.gpu_config import find_gpu
from ..arch.technology import Technology, find_technology
from ..memory.energy import BitEnergy, Place
from ..memory.patterns import make_requests
from ..memory.power import command_energy
from ..memory.replay import serve
from ..memory.sram_table import sram_macro
from ..memory.standard import load_memory
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import BITS_PER_BYTE, Bytes, Hertz, Millimetres, Watts
from .gpu_power import steady_power_w
from .gpu_rows import predict_group
from .tpu_v1 import APPLICATIONS, predict

#: Bursts of a stream: long enough for tens of refreshes on every channel.
STREAM_BURSTS_PER_CHANNEL = 40_000
Quantities = dict[str, float]


class DramStream(Config):
    """A sequential read of a whole device; *parts* of its energy count."""

    type: Literal["dram_stream"]
    memory: str
    parts: tuple[Literal["activate", "columns", "refresh", "standby"], ...]

    def run(self) -> Quantities:
        """Power and energy per bit of the parts, at the bandwidth that the stream reaches."""
        memory = load_memory(self.memory)
        requests = make_requests("sequential", STREAM_BURSTS_PER_CHANNEL * memory.channels,
                                 burst_bytes=memory.organisation.bytes_per_burst,
                                 capacity_bytes=memory.channels * memory.organisation.channel_bytes)
        served = serve(memory, requests)
        roles = {name: command.role for name, command in memory.standard.commands.items()}
        part_of = {"activate": "activate", "read": "columns", "write": "columns", "refresh_all": "refresh"}
        picojoules = sum(count * pj for action, (count, pj) in served.energy().items()
                         if (part_of.get(roles[action], "") if action in roles else "standby") in self.parts)
        return {"power_w": picojoules * 1e-12 / served.seconds, "pj_per_bit": picojoules / (served.nbytes * BITS_PER_BYTE),
                "bytes_per_s": served.bytes_per_s}


class DramPath(Config):
    """Energy per bit of a streamed row read at places inside a memory."""

    type: Literal["dram_path"]
    memory: str
    places: dict[str, Place]

    def run(self) -> Quantities:
        """For each named place: the row's activation over its bits, and the way from the cells to there."""
        memory = load_memory(self.memory)
        energy, prices = memory.energy, command_energy(memory)
        if not isinstance(energy, BitEnergy) or prices is None:
            raise ConfigError(f"{self.memory} states no energy per bit along its path", key="energy.type", allowed=("per_bit",))
        activation = prices.activate_pj / (memory.organisation.row_bytes * BITS_PER_BYTE)
        return {name: activation + energy.read_pj_per_bit(place) for name, place in self.places.items()}


class SramRead(Config):
    """One read of macros of the shipped table, by capacity (a quantity named 8KB, 1MB …)."""

    type: Literal["sram_read"]
    tech_nm: int
    width_bits: int

    def run(self) -> Quantities:
        """Picojoules of a read for each capacity in KiB from 4 to 32768."""
        sizes = {f"{kib}KB" if kib < 1024 else f"{kib // 1024}MB": kib for kib in (2**i for i in range(2, 16))}
        return {f"{name}/cacti_pj": sram_macro(self.tech_nm, kib * 1024, self.width_bits).read_pj for name, kib in sizes.items()}


class GpuKernel(Config):
    """A GPU kernel at the clock that the board's power limit allows."""

    type: Literal["gpu_kernel"]
    gpu: str
    op: Literal["gemm"]
    dtype: str
    m: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=1)]

    def run(self) -> Quantities:
        """Board power, energy of one kernel, and energy per useful operation."""
        row = {name: str(value) for name, value in self.model_dump().items()}
        time = predict_group(find_gpu(self.gpu), self.op, self.dtype, [row])
        power_w, seconds = float(np.atleast_1d(time.power_w)[0]), float(np.atleast_1d(time.seconds)[0])
        joules = power_w * seconds
        return {"power_w": power_w, "energy_j": joules, "pj_per_flop": joules * 1e12 / (2 * self.m * self.n * self.k),
                "seconds": seconds}


class GpuRates(Config):
    """Board power of kernels that keep stated rates of arithmetic and DRAM traffic up."""

    type: Literal["gpu_rates"]
    gpu: str
    dtype: str
    flops_per_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]

    def run(self) -> Quantities:
        """`power_w`, and with several points `point1/power_w` …"""
        gpu = find_gpu(self.gpu)
        watts = [steady_power_w(gpu, flops, nbytes, self.dtype)
                 for flops, nbytes in zip(self.flops_per_s, self.bytes_per_s, strict=True)]
        return {"power_w": watts[0]} | {f"point{i}/power_w": w for i, w in enumerate(watts, start=1)}


class SramBanks(Config):
    """Banks of one on-chip memory, and the accesses to them in a cycle in which the array works."""

    capacity_bytes: Bytes
    bank_bytes: Bytes
    width_bits: Annotated[int, Field(ge=1)]
    reads_per_cycle: Annotated[float, Field(ge=0)] = 0
    writes_per_cycle: Annotated[float, Field(ge=0)] = 0
    distance_mm: Annotated[Millimetres, Field(ge=0)] = 0.0    # from bank to array

    def leak_w(self, technology: Technology) -> float:
        """Leakage of all banks."""
        return self.capacity_bytes / self.bank_bytes * technology.sram(self.bank_bytes, self.width_bits, "hp").leak_mw * 1e-3

    def access_pj(self, technology: Technology) -> float:
        """Energy of a working cycle: its accesses, and the wires to the array."""
        bank = technology.sram(self.bank_bytes, self.width_bits, "hp")
        accesses = self.reads_per_cycle + self.writes_per_cycle
        return (self.reads_per_cycle * bank.read_pj + self.writes_per_cycle * bank.write_pj
                + accesses * self.width_bits * self.distance_mm * technology.wire_pj_per_bit_mm())


#: Clocking one flip-flop, 40 nm: Aladdin table (accelergy-aladdin-plug-in 5e2e126, reg.csv). ASSUMED to scale as an adder.
REGISTER_BIT_PJ, REGISTER_TABLE = 0.009, "45nm"
#: Leakage of synthesised units in TSMC's 40 nm, milliwatts: a 32-bit multiplier, a 32-bit adder, a register bit (Aladdin,
#: harvard-acc/ALADDIN a0bb4e4, common/power_delay.h). ASSUMED: a multiplier's goes with the square of its width, an adder's with
#: its width, and 28 nm leaks as 40 nm does; overturned by a synthesised PE at 28 nm.
MULTIPLIER_LEAK_MW, ADDER_LEAK_MW, REGISTER_BIT_LEAK_MW, LEAK_BITS = 0.0239328, 0.0015927, 5.3278e-6, 32
#: The controller's side of a DDR3 channel (CACTI-IO: HewlettPackard/cacti 1a475ca, extio_technology.cc and extio.cc): phase
#: rotator, receivers and PLL of 10 mW each, a bias of 15 mA at 1.5 V, two clock pairs that drive 0.75 V into 100 Ω from 1.5 V; and
#: 1.76 mW for each Gb/s that moves.
DDR3_CHANNEL_W, DDR3_J_PER_BIT = 0.030 + 0.015 * 1.5 + 2 * 1.5 * 0.75 / 100, 1.76e-12


class ArrayPower(Config):
    """Die power of a systolic accelerator that runs one of TPU v1's applications, and that waits with its clock on."""

    type: Literal["array_power"]
    technology: str
    clock_hz: Hertz
    pes: Annotated[int, Field(ge=1)]
    register_bits_per_pe: Annotated[int, Field(ge=0)]
    multiplier_bits: Annotated[int, Field(ge=1)]
    adder_bits: Annotated[int, Field(ge=1)]
    ddr3_channels: Annotated[int, Field(ge=0)]
    dtype: str
    memories: tuple[SramBanks, ...]
    interface_w: Watts
    application: str

    def run(self) -> Quantities:
        """`idle_w`: leakage, clocked registers, interfaces; `busy_w`: MACs, accesses and traffic of the application on top."""
        technology = find_technology(self.technology)
        ratio = technology.operation_pj("int32", "add") / find_technology(REGISTER_TABLE).operation_pj("int32", "add")
        registers_w = self.pes * self.register_bits_per_pe * REGISTER_BIT_PJ * ratio * 1e-12 * self.clock_hz
        logic_mw = (MULTIPLIER_LEAK_MW * (self.multiplier_bits / LEAK_BITS)**2 + ADDER_LEAK_MW * self.adder_bits / LEAK_BITS
                    + REGISTER_BIT_LEAK_MW * self.register_bits_per_pe)
        leak_w = sum(memory.leak_w(technology) for memory in self.memories) + 1e-3 * self.pes * logic_mw
        idle_w = registers_w + leak_w + self.interface_w + self.ddr3_channels * DDR3_CHANNEL_W
        ran = predict(next(app for app in APPLICATIONS if app.name == self.application))
        macs_w = ran.tops / 2 * technology.mac_pj(self.dtype)                         # TOPS / 2 = 1e12 MACs a second, pJ: watts
        accesses_w = sum(memory.access_pj(technology) for memory in self.memories) * 1e-12 * self.clock_hz * ran.active
        moved_w = DDR3_J_PER_BIT * BITS_PER_BYTE * ran.memory_bytes_per_s
        return {"idle_w": idle_w, "busy_w": idle_w + macs_w + accesses_w + moved_w}


class Unpredicted(Config):
    """An anchor that nothing here can predict, and why."""

    type: Literal["unpredicted"]
    reason: str

    def run(self) -> Quantities:
        """Nothing."""
        return {}


Case = DramStream | DramPath | SramRead | GpuKernel | GpuRates | ArrayPower | Unpredicted


class Cases(Config):
    """Every case by its anchor's id."""

    anchors: dict[str, Case]


CaseRunner = Callable[[], Quantities]
