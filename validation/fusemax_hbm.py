"""Command-level HBM under the tile-level runs of fused attention: in the loop, or as the rate at which it carries their stream.

In the loop, every transfer of a run is served by the controller while the arrays work (``mapping/co_simulation.py``). The other way
takes these runs as the steady streams of long transfers that they are: the memory enters them as the rate that the controller
achieves on the same mix of reads and writes, a named approximation, good while tiles are long. Unfused attention, of which single
tiles move up to 512 MiB, always goes that way, and FLAT where its chunks move as much.
The result depends on the memory chosen: FLAT at 256K tokens and beyond is 9 % slower than on the flat memory with this one, and
21 % with one HBM2E stack of the same rate and 256 KiB transfers.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import lru_cache
from typing import Any

import numpy as np
import simpy

from ..arch.einsum_arrays import EinsumMachine, FlatMemory
from ..mapping.cascade import Layout, lay_out
from ..mapping.co_simulation import Recorder, run_recorded, when
from ..mapping.flat_run import AV_LAG, PROBE, STRIDE, Chunks
from ..memory.controller import ControllerConfig
from ..memory.dram import DramConfig, DramSystem
from ..memory.standard import load_memory
from ..sim.units import PS_PER_S

#: The artifact's energies are HBM2's (3.9 pJ/bit). Two stacks give 512 GB/s at 2 Gb/s a pin; their clock is set to the wanted rate.
MEMORY, STACKS = "hbm2-2000", 2
CONTROLLER = ControllerConfig(refresh_postponed_max=8)      # up to eight owed refreshes wait for a gap, as JEDEC allows
STREAM_BYTES = 96 * 2**20             # simulated; longer runs change the rate by under 1 %
LONGEST_TILE_BYTES = 2 * 2**20        # longer tiles are as good
IN_FLIGHT_BYTES = 2 * 2**20           # asked for ahead, of a buffer of 16 or 32 MiB; four transfers where they are longer


#: In the loop: key tiles of a block that are simulated before a period is looked for, and in a period.
KEY_PROBE = (16, 8)
PERIOD_S = 300e-6                     # of FLAT's chunks at least, some 80 refresh intervals
LOOP_BYTES = 4 * 2**30                # of FLAT's probed chunks in the loop at most


@lru_cache(maxsize=256)
def layout_ends(layout: Layout, clock_hz: float) -> tuple[float, ...]:
    """The ends, in cycles, of a cascade's first blocks with HBM in the loop."""
    return tuple(_in_the_loop(lambda units, channel: list(lay_out(layout, units, channel)), layout.bytes_per_cycle, clock_hz))


def chunk_ends(chunks: Chunks, machine: EinsumMachine) -> list[float]:
    """The ends, in cycles, of FLAT's first chunks with HBM in the loop."""
    return _in_the_loop(chunks, machine.memory.bytes_per_s / machine.clock_hz, machine.clock_hz)


def fits_the_loop(dram_bytes: float, chunks: int, probe: tuple[int, int]) -> bool:
    """Whether FLAT's probed chunks, of *chunks* that move *dram_bytes* together, are few enough bytes."""
    return dram_bytes / chunks * (probe[0] + 2 * probe[1] + AV_LAG + 1) <= LOOP_BYTES


def chunk_probe(chunk_cycles: float, clock_hz: float) -> tuple[int, int]:
    """Chunks of FLAT before a period is looked for, and in a period of PERIOD_S at least."""
    return PROBE, max(STRIDE, math.ceil(PERIOD_S * clock_hz / chunk_cycles))


def _in_the_loop(append: Chunks, bytes_per_cycle: float, clock_hz: float) -> list[float]:
    recorder, env = Recorder(bytes_per_cycle), simpy.Environment()
    ends = append(recorder, recorder)
    ends_ps = run_recorded(recorder.tasks, clock_hz, env, DramSystem(env, hbm(bytes_per_cycle * clock_hz)))
    return [when(end, ends_ps, clock_hz) for end in ends]


def hbm(pin_bytes_per_s: float) -> DramConfig:
    """The stacks, clocked to give that rate at their pins."""
    table = load_memory(MEMORY)
    clock_hz = table.tick_hz * pin_bytes_per_s / (STACKS * table.channels * table.channel_bytes_per_s)
    memory = table.model_copy(update={"name": f"{MEMORY} at {pin_bytes_per_s / 1e9:.1f} GB/s", "tick_hz": clock_hz})
    return DramConfig(type="dram", memory=memory, stacks=STACKS, controller=CONTROLLER)


@lru_cache(maxsize=16)
def streamed_memory(pin_bytes_per_s: float, write_share: float, tile_bytes: int) -> FlatMemory:
    """Simulate a stream of tiles with *write_share* of writes by command, on HBM with that pin rate."""
    tile_bytes = min(tile_bytes, LONGEST_TILE_BYTES)
    env = simpy.Environment()
    dram = DramSystem(env, hbm(pin_bytes_per_s))
    env.run(env.process(_stream(dram, write_share, tile_bytes)))
    return FlatMemory(bytes_per_s=STREAM_BYTES // tile_bytes * tile_bytes * PS_PER_S / env.now)


def _stream(dram: DramSystem, write_share: float, tile_bytes: int) -> Generator[simpy.Event, Any, None]:
    """Tiles one after the other, reads in one half of the memory and writes in the other, some in flight at a time."""
    flying: list[simpy.Event] = []
    written = 0
    for tile in range(STREAM_BYTES // tile_bytes):
        write = (tile + 1) * write_share >= written + 1
        written += write
        address = (written * tile_bytes + 2**30) if write else (tile - written) * tile_bytes
        flying.append(dram.transfer(np.array([[address, tile_bytes]]), write))
        if len(flying) == max(4, IN_FLIGHT_BYTES // tile_bytes):
            yield flying.pop(0)
    yield simpy.AllOf(flying[0].env, flying)
