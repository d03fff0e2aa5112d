"""The memory of a machine as the search's cost model sees it: sustained rates, latency, energy per byte."""

from __future__ import annotations

from ..arch.machine import DmaConfig, MachineConfig
from ..memory.dram import DramConfig
from ..memory.kinds import MemoryConfig
from ..memory.power import command_energy, idle_power_w
from ..memory.sram import SramConfig
from ..sim.units import BITS_PER_BYTE, PS_PER_S
from .memory_rates import Windows, rates_of_memory
from .target import Rates


def rates_of(machine: MachineConfig) -> tuple[Rates, Windows]:
    """The rates of *machine*'s only memory, scratchpad and DMA engine, and what windows get of them."""
    memory_name, memory = machine.main_memory()
    sram_name, sram = machine.only(SramConfig, "sram")
    _, dma = machine.only(DmaConfig, "dma")
    links = {(link.source, link.target): link for link in machine.links}
    inward = [links[hop] for hop in machine.route(memory_name, sram_name)]
    outward = [links[hop] for hop in machine.route(sram_name, memory_name)]
    found = rates_of_memory(memory)
    widths = [link.bandwidth_bytes_per_s for link in (*inward, *outward)]
    rates = Rates(
        read_bytes_per_s=min([found.bytes_per_s, *(link.bandwidth_bytes_per_s for link in inward)]),
        write_bytes_per_s=min([found.bytes_per_s, *(link.bandwidth_bytes_per_s for link in outward)]),
        latency_s=found.latency_s + sum(link.latency_ps for link in inward) / PS_PER_S, issue_s=dma.issue_cycles / dma.clock_hz,
        port_bytes_per_s=sram.compute_bytes_per_s(sram_name, min([memory.peak_bytes_per_s, *widths])),
        max_in_flight=dma.max_in_flight, pause_s=found.pause_s, pause_every_s=found.pause_every_s,
        stripe_bytes=found.stripe_bytes,
        dram_pj_per_byte=_pj_per_byte(memory) + sum(BITS_PER_BYTE * link.pj_per_bit for link in inward),
        sram_pj_per_byte=BITS_PER_BYTE * (sram.read_energy_pj_per_bit + sram.write_energy_pj_per_bit) / 2,
        static_w=machine.rest_power_w + sram.static_power_w + _idle_power_w(memory))
    return rates, found.windows


def _idle_power_w(memory: MemoryConfig) -> float:
    """What the memory draws while nothing moves: it lasts as long as the product does."""
    return memory.channels * idle_power_w(memory.device) if isinstance(memory, DramConfig) else 0.0


def _pj_per_byte(memory: MemoryConfig) -> float:
    """A burst read, and its share of a row that is read whole."""
    if not isinstance(memory, DramConfig):
        return BITS_PER_BYTE * memory.read_energy_pj_per_bit
    energy, organisation = command_energy(memory.device), memory.device.organisation
    if energy is None:
        return 0.0
    return (energy.read_pj + energy.activate_pj / organisation.bursts_per_row) / organisation.bytes_per_burst
