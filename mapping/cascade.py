"""Fused attention on a 2-D and a 1-D array: the tiles of each design, run on units that work in order.

The one-pass cascade (Nayak et al., "FuseMax", MICRO 2024; ``workloads/cascades.ONE_PASS``) splits keys into M1 tiles of n and
queries into tiles of n, P1 of which stay in the buffer while K and V pass by once. For a tile of n×n scores the n×n array (2-D) or
the n lanes (1-D) compute:

    QK   scores (e MACs a PE)          LM   maximum of each column, which travels down n rows
    RM   running maximum               PRM  correction exp(old − new maximum)
    SLN  exponentials                  SLD  sums of columns      SPD, RD  running sum, corrected
    SLNV exponentials times V (f MACs) SPNV, RNV  running output, corrected;   AV  one division for each output, at the end

On 2-D PEs an exponential is a Taylor series of 6 MACs and an add; FLAT's 1-D array has a unit for it. Designs:

- ``binding`` (FuseMax): tiles are interleaved on both arrays, so that the column's latency and the 1-D work are hidden.
- ``architecture``: the same arrays, one tile at a time; the 2-D array waits for the maximum and for the 1-D array.
- ``cascade``: the one-pass cascade on FLAT's arrays, all but QK and SLNV on the 1-D array; tiles overlap.

Cycles come out of the tasks below and what each waits for; no closed form of a design's latency is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..arch.einsum_arrays import WORD_BYTES, EinsumMachine
from ..workloads.cascades import ONE_PASS, passes_of
from .flat import AttentionShape
from .in_order import Carrier, Channel, InOrderUnits, Moment, Time, Units, latest, steady_total

Design = Literal["binding", "architecture", "cascade"]
TAYLOR_OPS = 7                        # exponential on a PE without an exp unit: 6 MACs and an add
EXP_UNIT_OPS = 2                      # subtract, then the exp unit
#: Tiles between QK and SLN, and between SLNV and the 1-D array's use of its results: enough to hide n = 256 cycles down a column
#: with tiles of 137 cycles or more.
LAG = 3
#: Key tiles of a block, and blocks, that are simulated before a period is looked for; of short blocks as many as make up TILE_PROBE
#: tiles, for what the buffer has prefetched at the start to be used up. Short blocks share slots and lags: their times repeat only
#: after some of them, and a period is SHORT_STRIDE of them.
KEY_PROBE, BLOCK_PROBE, TILE_PROBE, SHORT_STRIDE = 8, 2, 96, 24


@dataclass(frozen=True, slots=True)
class Tiling:
    """Query tiles that stay in the buffer (P1), key tiles, and resident blocks of each head."""

    resident: int
    key_tiles: int
    blocks: int


def tiling(shape: AttentionShape, machine: EinsumMachine, design: Design) -> Tiling:
    """The largest P1 that divides the query tiles and fits beside two halves of a K and V tile.

    For each query the buffer holds q, the running maximum, sum and output; on FLAT's arrays also a tile's scores and exponentials,
    which there pass through the buffer on their way to the 1-D array.
    """
    n, words = machine.n, _words_a_query(shape, machine, design)
    room = machine.buffer_bytes - n * (shape.e + shape.f) * WORD_BYTES
    tiles = shape.queries // n
    fits = room // (words * n * WORD_BYTES)
    resident = max((factor for factor in range(1, min(tiles, fits) + 1) if tiles % factor == 0), default=0)
    if shape.queries % n or shape.keys % n or not resident:
        raise ValueError(f"{shape.queries} queries by {shape.keys} keys do not tile by {n} in {machine.buffer_bytes} bytes")
    return Tiling(resident, shape.keys // n, tiles // resident)


@dataclass(frozen=True, slots=True)
class CascadeRun:
    """What a whole attention takes: cycles, busy cycles of each array (2-D in whole-array MAC cycles), DRAM bytes."""

    cycles: float
    busy_2d: float
    busy_1d: float
    dram_bytes: float
    tiling: Tiling


def run(
    shape: AttentionShape, machine: EinsumMachine, design: Design, memory: Callable[[Layout], tuple[float, ...]] | None = None,
    key_probe: tuple[int, int] | None = None,
) -> CascadeRun:
    """Simulate the attention tile by tile; long regular stretches by their period (key tiles of a block, blocks).

    *memory*: what gives the ends of a layout's blocks in cycles; the flat memory of *machine* without. *key_probe*: key tiles of a
    block that are simulated before a period is looked for, and in a period (which refresh wants long).
    """
    first_keys, key_stride = key_probe or (KEY_PROBE, 1)
    cut = tiling(shape, machine, design)
    period = _PERIODS[design]
    bytes_per_cycle = machine.memory.bytes_per_s / machine.clock_hz
    blocks = shape.heads * cut.blocks
    block_tiles = min(cut.key_tiles, first_keys) * cut.resident
    probe, stride = max(BLOCK_PROBE, -(-TILE_PROBE // block_tiles)), 1 if block_tiles > TILE_PROBE else SHORT_STRIDE
    ends = {m: (memory or _block_ends)(Layout(period, shape.e, shape.f, machine.n, bytes_per_cycle, cut.resident, m,
                                              slots(shape, machine, design, cut.resident), min(blocks, probe + 2 * stride)))
            for m in _probed(cut.key_tiles, first_keys, key_stride)}

    def block_end(block: int) -> float:
        if cut.key_tiles in ends:
            return ends[cut.key_tiles][block - 1]
        return steady_total(lambda m: ends[m][block - 1], cut.key_tiles, first_keys, key_stride)

    tiles = shape.heads * cut.blocks * cut.key_tiles * cut.resident
    per_tile, per_query_tile = _BUSY[design](shape.e, shape.f, machine.n), shape.f
    return CascadeRun(
        cycles=steady_total(block_end, blocks, probe, stride),
        busy_2d=tiles * per_tile[0],
        busy_1d=tiles * per_tile[1] + shape.heads * shape.queries // machine.n * per_query_tile,
        dram_bytes=WORD_BYTES * shape.heads * passes_of(ONE_PASS).moved_elements(
            {"p": shape.queries, "m1": cut.key_tiles, "m0": machine.n, "e": shape.e, "f": shape.f}, cut.blocks),
        tiling=cut,
    )


def _probed(key_tiles: int, first: int, stride: int) -> tuple[int, ...]:
    return (key_tiles,) if key_tiles <= first + 2 * stride else tuple(first + step * stride for step in range(3))


@dataclass(frozen=True, slots=True)
class Slots:
    """Space in the buffer: tiles of K and V, and blocks of resident queries with their outputs, that it holds at a time."""

    keys: int
    blocks: int


def slots(shape: AttentionShape, machine: EinsumMachine, design: Design, resident: int) -> Slots:
    """One block of queries, or two where two fit; K and V tiles in what is left, at most 8 (more hide nothing more)."""
    block_bytes = resident * machine.n * _words_a_query(shape, machine, design) * WORD_BYTES
    key_bytes = machine.n * (shape.e + shape.f) * WORD_BYTES
    blocks = 2 if 2 * block_bytes + 2 * key_bytes <= machine.buffer_bytes else 1
    return Slots(min(8, (machine.buffer_bytes - blocks * block_bytes) // key_bytes), blocks)


def _words_a_query(shape: AttentionShape, machine: EinsumMachine, design: Design) -> int:
    return shape.e + 2 + shape.f + (2 * machine.n if design == "cascade" else 0)


TileFunction = Callable[["_State", int, int], None]


class _State:
    """The run so far: units, and when the values that later tasks wait for are ready, by resident query tile."""

    def __init__(self, layout: Layout, units: Units, channel: Carrier) -> None:
        self.units, self.channel, self.slots = units, channel, layout.slots
        self.e, self.f, self.n, self.resident = layout.e, layout.f, layout.n, layout.resident
        self.bytes_per_cycle = layout.bytes_per_cycle
        self.queries_in: dict[tuple[int, int], Time] = {}    # (block, p): the q tile has arrived
        self.queries_free: dict[tuple[int, int], Time] = {}  # its space may be overwritten: the last QK that reads it ends
        self.output_free: dict[tuple[int, int], Time] = {}   # its output has been stored
        self.keys_in: list[Time] = []                # arrival of the K, V halves, in order
        self.keys_free: list[Time] = []              # end of the last task that reads them
        self.queue: list[tuple[int, int, int]] = []   # tiles (block, m, p) in the order of their QK
        self.maximum_at: dict[int, Time] = {}        # by tile number: when each value is ready
        self.weights_at: dict[int, Time] = {}
        self.values_at: dict[int, Time] = {}
        self.correction_at: dict[int, Time] = {}

    def transfer(self, words: int, after: tuple[Time, ...], *, write: bool = False) -> Time:
        return self.channel.transfer(words * WORD_BYTES / self.bytes_per_cycle, after, write=write)

    def load_queries(self, block: int, p: int) -> None:
        self.queries_in[block, p] = self.transfer(
            self.n * self.e, (self.queries_free.get((block - self.slots.blocks, p), 0.0),))

    def load_keys(self) -> None:
        """The next tile of K and V, into the space of the one that many slots before."""
        index = len(self.keys_in)
        freed = (self.keys_free[index - self.slots.keys],) if index >= self.slots.keys else ()
        self.keys_in.append(self.transfer(self.n * (self.e + self.f), freed))
        self.keys_free.append(0.0)

    def output_space(self, block: int, m: int, p: int) -> Time:
        """When the running output of a tile may be written: at once, or when a block that had its space is stored."""
        return self.output_free.get((block - self.slots.blocks, p), 0.0) if m == 0 else 0.0

    def finish(self, block: int, p: int, ready: Time) -> None:
        """Divide the outputs of query tile p and store them."""
        divided = self.units.run("1d", self.f, (ready,))
        self.output_free[block, p] = self.transfer(self.n * self.f, (divided,), write=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """The first *blocks* blocks of a run, of *key_tiles* key tiles each."""

    period: TileFunction
    e: int
    f: int
    n: int
    bytes_per_cycle: float                # of the flat memory, in which transfers are stated
    resident: int
    key_tiles: int
    slots: Slots
    blocks: int


@lru_cache(maxsize=256)
def _block_ends(layout: Layout) -> tuple[float, ...]:
    """The ends of the blocks on a flat memory."""
    ends = lay_out(layout, InOrderUnits(), Channel())
    return tuple(end for end in ends if not isinstance(end, Moment))


def lay_out(layout: Layout, units: Units, channel: Carrier) -> tuple[Time, ...]:
    """Append the tasks and transfers of *layout*; gives the ends of its blocks."""
    state, period, key_tiles, resident, blocks = (_State(layout, units, channel), layout.period, layout.key_tiles,
                                                  layout.resident, layout.blocks)
    for block in range(blocks + 1 + 32 // (key_tiles * resident)):      # more than is asked for: each has others behind it
        for m in range(key_tiles):
            state.load_keys()
            for p in range(resident):
                if m == 0:
                    state.load_queries(block, p)
                state.queue.append((block, m, p))
                period(state, len(state.queue) - 1, key_tiles)
    for flushed in range(2 * LAG):
        period(state, len(state.queue) + flushed, key_tiles)
    return tuple(latest(*(state.output_free[block, p] for p in range(resident))) for block in range(blocks))


def _scores(state: _State, tile: int, *, wait: tuple[Time, ...] = ()) -> Time:
    """QK of a tile on the 2-D array; returns its end."""
    block, _, p = state.queue[tile]
    end = state.units.run("2d", state.e, (state.queries_in[block, p], state.keys_in[tile // state.resident], *wait))
    state.queries_free[block, p] = end
    return end


def _interleaved(state: _State, tile: int, key_tiles: int) -> None:
    """One slot of FuseMax's binding: QK and LM of this tile, the exponentials of one LAG back, the 1-D work of one 2·LAG back."""
    units = state.units
    if tile < len(state.queue):
        _scores(state, tile)
        state.maximum_at[tile] = units.run("2d", 1) + state.n
    older = tile - LAG
    if 0 <= older < len(state.queue):
        running = units.run("1d", 1, (state.maximum_at.pop(older),))
        state.correction_at[older] = units.run("1d", TAYLOR_OPS, (running,))
        units.run("1d", 1, (state.correction_at[older],))                                    # SPD
        units.run("2d", TAYLOR_OPS, (running,))
        units.run("2d", 1)                                                                   # SLD
        end = units.run("2d", state.f)
        state.values_at[older] = end + state.n
        state.keys_free[older // state.resident] = end
    oldest = tile - 2 * LAG
    if oldest >= 0:
        block, m, p = state.queue[oldest]
        ready = state.values_at.pop(oldest)
        units.run("1d", 1, (ready,))                                                         # RD
        units.run("1d", state.f, (state.correction_at.pop(oldest), state.output_space(block, m, p)))      # SPNV
        output = units.run("1d", state.f, (ready,))                                          # RNV
        if m == key_tiles - 1:
            state.finish(block, p, output)


def _one_at_a_time(state: _State, tile: int, key_tiles: int) -> None:
    """A tile of the +architecture design: nothing of the next tile starts on the 2-D array before the 1-D array is done."""
    if tile >= len(state.queue):
        return
    units, (block, m, p) = state.units, state.queue[tile]
    previous = state.values_at.get(tile - 1, 0.0)
    _scores(state, tile, wait=(previous,))
    maximum = units.run("2d", 1) + state.n
    running = units.run("1d", 1, (maximum,))
    correction = units.run("1d", TAYLOR_OPS, (running,))
    units.run("1d", 1, (correction,))                                                        # SPD
    units.run("2d", TAYLOR_OPS, (running,))
    summed = units.run("2d", 1)
    products = units.run("2d", state.f)
    units.run("1d", state.f, (correction, summed, state.output_space(block, m, p)))           # SPNV
    output = units.run("1d", state.f)                                                        # RNV takes SLNV as it leaves
    state.values_at = {tile: latest(output, products)}
    units.run("1d", 1, (summed,))                                                            # RD: beside the next tile's QK
    state.keys_free[tile // state.resident] = products
    if m == key_tiles - 1:
        state.finish(block, p, output)


def _on_flat_arrays(state: _State, tile: int, key_tiles: int) -> None:
    """A slot of +cascade: QK of this tile, softmax of the one before on the lanes, its product with V after that."""
    units = state.units
    if tile < len(state.queue):
        state.maximum_at[tile] = _scores(state, tile)
    older = tile - 1
    if 0 <= older < len(state.queue):
        units.run("1d", state.n, (state.maximum_at.pop(older),))                             # LM: n scores a lane
        running = units.run("1d", 1)
        units.run("1d", EXP_UNIT_OPS + 1, (running,))                                        # PRM, SPD
        weights = units.run("1d", EXP_UNIT_OPS * state.n)                                    # SLN
        units.run("1d", state.n + 1)                                                         # SLD, RD
        end = units.run("2d", state.f, (weights,))
        state.values_at[older] = end
        state.keys_free[older // state.resident] = end
    oldest = tile - 2
    if 0 <= oldest < len(state.queue):
        block, m, p = state.queue[oldest]
        units.run("1d", state.f, (state.output_space(block, m, p),))                         # SPNV
        output = units.run("1d", state.f, (state.values_at.pop(oldest),))                    # RNV
        if m == key_tiles - 1:
            state.finish(block, p, output)


_PERIODS: dict[Design, TileFunction] = {"binding": _interleaved, "architecture": _one_at_a_time, "cascade": _on_flat_arrays}


def _fusemax_busy(e: int, f: int, _: int) -> tuple[int, int]:
    return e + f + TAYLOR_OPS + 2, TAYLOR_OPS + 3 + 2 * f


def _flat_busy(e: int, f: int, n: int) -> tuple[int, int]:
    return e + f, (2 + EXP_UNIT_OPS) * n + EXP_UNIT_OPS + 3 + 2 * f


_BUSY: dict[Design, Callable[[int, int, int], tuple[int, int]]] = {
    "binding": _fusemax_busy, "architecture": _fusemax_busy, "cascade": _flat_busy}
