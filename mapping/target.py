"""What the mapper knows of a machine: its units, its memories, and how the scratchpad is shared out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..arch.systolic import SystolicConfig
from ..arch.vector import VectorConfig
from ..sim.dtypes import DType
from ..sim.program import Pool
from .constraints import Constraints
from .memory_rates import AllAlike, Windows

#: Queues of the DMA engine.
STREAM_QUEUE, ACTIVATION_QUEUE, STORE_QUEUE = "dma.stream", "dma.activation", "dma.store"
#: Pools of the scratchpad; only one unit allocates from each (the arrays, or the lanes, from theirs).
STREAM, ACTIVATION, ACCUMULATORS, VECTOR = "stream", "activation", "accumulators", "vector"

#: No tile of weights or KV cache is larger: four or more are in flight, and the last one's compute is a short tail.
TILE_BYTES = 1 << 20

AttentionStyle = Literal["auto", "unfused", "flash"]
Objective = Literal["latency", "energy", "edp"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What the cost model of the search knows of the memory: rates, latency, energy. The defaults are a toy machine's."""

    read_bytes_per_s: float = 16e9                     # sustained, DRAM and link together
    write_bytes_per_s: float = 16e9
    latency_s: float = 100e-9                          # of the first byte
    issue_s: float = 1e-9                              # of one descriptor
    pause_s: float = 0.0                               # in which refresh lets nothing through, once every so long;
    pause_every_s: float = 1.0                         # the sustained rates are means over both
    port_bytes_per_s: float = 256e9                    # of the scratchpad, each way, beside DMA
    max_in_flight: int = 64                            # transfers of a queue
    stripe_bytes: int = 1                              # consecutive bytes that meet every channel once
    dram_pj_per_byte: float = 40.0                     # link included
    sram_pj_per_byte: float = 1.0
    static_w: float = 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """The least share of the scratchpad that each pool gets, as divisors of its capacity."""

    accumulators: int
    vector: int
    activation: int
    stream: int

    def of(self, pool: str) -> int:
        """The pool holds at least one so-many-th of the scratchpad."""
        return {STREAM: self.stream, ACTIVATION: self.activation, ACCUMULATORS: self.accumulators, VECTOR: self.vector}[pool]


#: The shares that the mapper chooses from, the usual ones first: accumulators hold two blocks of 512 x 1024 fp32 in 32 MiB, the
#: lanes and spilled activations want a few tiles of 256 KiB, streamed weights at least 4 tiles of 1 MiB; what resident activations
#: leave over goes to the stream. The others are for large products of spilled activations: more room for blocks and strips of A.
SHARES = (Shares(8, 16, 16, 8), Shares(4, 16, 4, 8), Shares(4, 8, 3, 8))


@dataclass(frozen=True, slots=True)
class FixedShares:
    """Shares of the scratchpad that the hardware fixes, in bytes; None where the mapper may choose."""

    accumulator_bytes: int | None = None
    stream_bytes: int | None = None

    def least(self, pool: str, sram_bytes: int, shares: Shares) -> int:
        """The bytes of *pool* that residents leave alone."""
        fixed = {ACCUMULATORS: self.accumulator_bytes, STREAM: self.stream_bytes}.get(pool)
        return sram_bytes // shares.of(pool) if fixed is None else fixed

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
    widens: tuple[str, ...] = ()                       # formats that the scratchpad's operand ports widen
    rates: Rates = Rates()
    windows: Windows = field(default=AllAlike(), compare=False, repr=False)      # what windows in DRAM get of the rate

    def must_dequantize(self, dtype: DType, wanted: DType) -> bool:
        """Whether elements of *dtype* are unpacked on the lanes before they meet operands of format *wanted*."""
        return (bool(dtype.group) or dtype.bits < wanted.bits) and dtype.base not in self.widens


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of the scratchpad for each pool, and for resident activations."""

    stream_bytes: int
    activation_bytes: int
    accumulator_bytes: int
    vector_bytes: int
    resident_bytes: int
    shares: Shares = SHARES[0]

    def of(self, pool: str) -> int:
        """Capacity of the pool of that name."""
        return {STREAM: self.stream_bytes, ACTIVATION: self.activation_bytes, ACCUMULATORS: self.accumulator_bytes,
                VECTOR: self.vector_bytes}[pool]

    def pools(self, sram: str) -> tuple[Pool, ...]:
        """The pools of a program; one without bytes is left out."""
        names = (STREAM, ACTIVATION, ACCUMULATORS, VECTOR)
        return tuple(Pool(name, sram, self.of(name)) for name in names if self.of(name))


def resident_limit_bytes(sram_bytes: int, spills: bool, fixed: FixedShares = FREE, shares: Shares = SHARES[0]) -> int:
    """What the pools leave for resident activations; spilled ones need a pool of their own."""
    pools = [STREAM, ACCUMULATORS, VECTOR] + ([ACTIVATION] if spills else [])
    return max(0, sram_bytes - sum(fixed.least(pool, sram_bytes, shares) for pool in pools))


def share_out(
    sram_bytes: int, resident_bytes: int, spills: bool, fixed: FixedShares = FREE, shares: Shares = SHARES[0],
) -> Room:
    """The room of each pool when *resident_bytes* live at once: *shares*, and the rest to the stream (to spilled activations,
    where the hardware fixes the stream).

    Residents get as much again where there is room, so that an operator's output need not wait for the death of the last one's
    input.
    """
    resident_bytes = max(resident_bytes, min(2 * resident_bytes, resident_limit_bytes(sram_bytes, spills, fixed, shares)))
    accumulators, vector = fixed.least(ACCUMULATORS, sram_bytes, shares), sram_bytes // shares.vector
    activation = sram_bytes // shares.activation if spills else 0
    stream = sram_bytes - resident_bytes - accumulators - vector - activation
    if fixed.stream_bytes is not None:
        activation += max(0, stream - fixed.stream_bytes) if spills else 0
        stream = fixed.stream_bytes
    return Room(stream, activation, accumulators, vector, resident_bytes, shares)


@dataclass(frozen=True, slots=True)
class Site:
    """Where an operator is lowered: the machine, its room, and the choices of the run."""

    target: Target
    room: Room
    attention: AttentionStyle = "auto"
    token_ids: tuple[int, ...] | None = None
    objective: Objective = "latency"
    contended: bool = False                            # by the loads of other operators
    constraints: Constraints = field(default_factory=Constraints)
    rough: bool = False                                # the estimate's word is enough: while shares are compared

    def accumulator_pool(self, unit: str) -> str:
        """The pool that *unit* keeps partial sums in."""
        return ACCUMULATORS if unit == self.target.mxu else VECTOR
