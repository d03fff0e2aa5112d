"""What the mapper knows of a machine: its units, its memories, and how the scratchpad is shared out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..arch.systolic import SystolicConfig
from ..arch.vector import VectorConfig
from ..sim.program import Pool

#: Queues of the DMA engine.
STREAM_QUEUE, ACTIVATION_QUEUE, STORE_QUEUE = "dma.stream", "dma.activation", "dma.store"
#: Pools of the scratchpad; only one unit allocates from each (the arrays, or the lanes, from theirs).
STREAM, ACTIVATION, ACCUMULATORS, VECTOR = "stream", "activation", "accumulators", "vector"

#: Shares of the scratchpad, as divisors of its capacity. ASSUMED: accumulators hold two blocks of 512 x 1024 fp32 in 32 MiB, the
#: lanes and spilled activations want a few tiles of 256 KiB, streamed weights at least 4 tiles of 1 MiB; what resident
#: activations leave over goes to the stream. A search over shares would overturn it.
_ACCUMULATOR_SHARE, _VECTOR_SHARE, _ACTIVATION_SHARE, _STREAM_SHARE = 8, 16, 16, 8

#: No tile of weights or KV cache is larger: four or more are in flight, and the last one's compute is a short tail.
TILE_BYTES = 1 << 20

AttentionStyle = Literal["auto", "unfused", "flash"]


@dataclass(frozen=True, slots=True)
class FixedShares:
    """Shares of the scratchpad that the hardware fixes, in bytes; None where the mapper may choose."""

    accumulator_bytes: int | None = None
    stream_bytes: int | None = None

    def least(self, pool: str, sram_bytes: int) -> int:
        """The bytes of *pool* that residents leave alone."""
        fixed = {ACCUMULATORS: self.accumulator_bytes, STREAM: self.stream_bytes}.get(pool)
        return sram_bytes // share_of(pool) if fixed is None else fixed

    def key_of(self, pool: str) -> str | None:
        """The key of the scratchpad that fixes *pool*, or None."""
        fixed = {ACCUMULATORS: ("accumulators", self.accumulator_bytes), STREAM: ("stream", self.stream_bytes)}
        key, nbytes = fixed.get(pool, ("", None))
        return None if nbytes is None else key


FREE = FixedShares()


@dataclass(frozen=True, slots=True)
class Target:
    """The parts that transformer operators are mapped onto, by name, with what the mapping must know of each."""

    machine: str
    memory: str
    memory_bytes: int
    alignment_bytes: int
    sram: str
    sram_bytes: int
    mxu: str
    array: SystolicConfig
    vpu: str
    lanes: VectorConfig
    shares: FixedShares = FREE


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of the scratchpad for each pool, and for resident activations."""

    stream_bytes: int
    activation_bytes: int
    accumulator_bytes: int
    vector_bytes: int
    resident_bytes: int

    def of(self, pool: str) -> int:
        """Capacity of the pool of that name."""
        return {STREAM: self.stream_bytes, ACTIVATION: self.activation_bytes, ACCUMULATORS: self.accumulator_bytes,
                VECTOR: self.vector_bytes}[pool]

    def pools(self, sram: str) -> tuple[Pool, ...]:
        """The pools of a program; one without bytes is left out."""
        names = (STREAM, ACTIVATION, ACCUMULATORS, VECTOR)
        return tuple(Pool(name, sram, self.of(name)) for name in names if self.of(name))


def share_of(pool: str) -> int:
    """The pool holds at least one so-many-th of the scratchpad."""
    return {STREAM: _STREAM_SHARE, ACTIVATION: _ACTIVATION_SHARE, ACCUMULATORS: _ACCUMULATOR_SHARE, VECTOR: _VECTOR_SHARE}[pool]


def resident_limit_bytes(sram_bytes: int, spills: bool, shares: FixedShares = FREE) -> int:
    """What the pools leave for resident activations; spilled ones need a pool of their own."""
    pools = [STREAM, ACCUMULATORS, VECTOR] + ([ACTIVATION] if spills else [])
    return max(0, sram_bytes - sum(shares.least(pool, sram_bytes) for pool in pools))


def share_out(sram_bytes: int, resident_bytes: int, spills: bool, shares: FixedShares = FREE) -> Room:
    """The room of each pool when *resident_bytes* live at once: fixed shares, and the rest to the stream (to spilled activations,
    where the hardware fixes the stream).

    Residents get as much again where there is room, so that an operator's output need not wait for the death of the last one's
    input.
    """
    resident_bytes = max(resident_bytes, min(2 * resident_bytes, resident_limit_bytes(sram_bytes, spills, shares)))
    accumulators, vector = shares.least(ACCUMULATORS, sram_bytes), sram_bytes // _VECTOR_SHARE
    activation = sram_bytes // _ACTIVATION_SHARE if spills else 0
    stream = sram_bytes - resident_bytes - accumulators - vector - activation
    if shares.stream_bytes is not None:
        activation += max(0, stream - shares.stream_bytes) if spills else 0
        stream = shares.stream_bytes
    return Room(stream, activation, accumulators, vector, resident_bytes)


@dataclass(frozen=True, slots=True)
class Site:
    """Where an operator is lowered: the machine, its room, and the choices of the run."""

    target: Target
    room: Room
    attention: AttentionStyle = "auto"
    token_ids: tuple[int, ...] | None = None

    def accumulator_pool(self, unit: str) -> str:
        """The pool that *unit* keeps partial sums in."""
        return ACCUMULATORS if unit == self.target.mxu else VECTOR
