"""FLAT and unfused attention on a 2-D and a 1-D array, chunk by chunk: cycles, busy cycles, DRAM bytes.

FLAT works at the granularity of rows: chunks of scores flow through QK, softmax and AV, and the space of a row is free for another
once AV has read it. Softmax is three-pass (maximum, exponential, sum, division): four lane-cycles a score. Unfused runs QK, softmax
and AV one after the other over all heads, scores and weights going to memory and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arch.einsum_arrays import WORD_BYTES, EinsumMachine
from .flat import HANDING, STAGES, AttentionShape, FlatMapping, traffic
from .in_order import Carrier, Channel, InOrderUnits, Moment, Time, Units, steady_total

#: Lane-cycles a score: one for each Einsum of softmax, maximum, subtract and exp (pipelined: 1), sum, divide; exp and divide have
#: units.
SOFTMAX_OPS = sum(stage == "softmax" for stage in STAGES.values())
#: Rows of scores that move together, of n = 256: FLAT lets rows flow, whole tiles would wait for each other. ASSUMED, and no figure
#: hangs on it: with 8 or 128 rows BERT's latencies at 1K to 1M tokens are within 0.01 % of those with 32.
CHUNK_ROWS = 32
#: Chunks that a chunk's softmax, and its product with V, come after its QK: as many rows of scores are in flight at a time.
SOFTMAX_LAG, AV_LAG = 2, 5
PROBE, STRIDE = 12, 12               # chunks before a period is looked for, and in a period


@dataclass(frozen=True, slots=True)
class AttentionRun:
    """Cycles of the whole attention; ``busy_2d`` in cycles of the array fully used; DRAM bytes, and those of them written."""

    cycles: float
    busy_2d: float
    busy_1d: float
    dram_bytes: float
    written_bytes: float


#: Appends tasks and transfers, and gives the ends of chunks.
Chunks = Callable[[Units, Carrier], list[Time]]


def _on_flat_memory(chunks: Chunks) -> list[float]:
    return [end for end in chunks(InOrderUnits(), Channel()) if not isinstance(end, Moment)]


def run_flat(
    shape: AttentionShape, machine: EinsumMachine, mapping: FlatMapping, memory: Callable[[Chunks], list[float]] = _on_flat_memory,
    probe: tuple[int, int] = (PROBE, STRIDE),
) -> AttentionRun:
    """FLAT under *mapping*. *memory*: what gives the ends of chunks in cycles; the flat memory of *machine* without. *probe*:
    chunks before a period is looked for, and in a period (which refresh wants long)."""
    first, stride = probe
    n = machine.n
    moved = traffic(shape, mapping, machine)
    chunks = shape.heads * -(-shape.queries // CHUNK_ROWS)
    share = machine.clock_hz / machine.memory.bytes_per_s / chunks            # cycles a chunk for each byte of the whole
    tile_share = CHUNK_ROWS / n
    # A chunk of QK fills n×n scores in e cycles (output stationary), or in n where K is pinned on e ≤ n of the rows; a chunk of
    # AV uses f ≤ n of the columns: n cycles for n×n weights.
    key_tiles = -(-shape.keys // n)
    qk_cycles = tile_share * key_tiles * (shape.e if mapping.stationarity == "output" else n)
    av_cycles = tile_share * key_tiles * n
    softmax_cycles = SOFTMAX_OPS * tile_share * shape.keys
    scores = shape.scores * WORD_BYTES * (1.0 if not mapping.scores_on_chip else moved.spilled)
    qk_in, av_in = moved.qk_bytes - scores, moved.av_bytes - scores

    def chunk_ends(units: Units, channel: Carrier) -> list[Time]:
        loaded = [channel.transfer(qk_in * share) for _ in range(2)]
        stored: list[Time] = []
        weighed: list[Time] = []
        found: list[Time] = []
        for chunk in range(first + 2 * stride + AV_LAG + 1):
            scored = units.run("2d", qk_cycles, (loaded[chunk],))
            loaded.append(channel.transfer(qk_in * share, (scored,)))
            stored.append(channel.transfer(scores * share, (scored,), write=True))
            weigh, finish = chunk - SOFTMAX_LAG, chunk - AV_LAG
            if weigh >= 0:
                read = channel.transfer(moved.softmax_bytes / 2 * share, (stored[weigh],))
                weights = units.run("1d", softmax_cycles, (read,))
                weighed.append(channel.transfer(moved.softmax_bytes / 2 * share, (weights,), write=True))
            if finish >= 0:
                arrived = channel.transfer((scores + av_in) * share, (weighed[finish],))
                found.append(units.run("2d", av_cycles, (weighed[finish], arrived)))
        return found

    ends = memory(chunk_ends)
    return AttentionRun(
        cycles=steady_total(lambda i: ends[i - 1], chunks, first, stride),
        busy_2d=shape.scores * (shape.e + shape.f) / n**2,
        busy_1d=chunks * softmax_cycles,
        dram_bytes=moved.total_bytes,
        written_bytes=moved.written_bytes,
    )


def unfused_bytes(shape: AttentionShape, machine: EinsumMachine) -> tuple[int, int, int]:
    """DRAM bytes of QK, softmax and AV: scores and weights once each way, K and V again for each block of queries.

    A block of queries (of outputs) takes half of the buffer, so that the next may arrive.
    """
    def passes(width: int) -> int:
        return -(-shape.queries * width * WORD_BYTES // (machine.buffer_bytes // 2))

    qk, softmax, av = (HANDING[stage].total * shape.scores * WORD_BYTES for stage in ("qk", "softmax", "av"))
    qk += WORD_BYTES * shape.heads * shape.e * (shape.queries + shape.keys * passes(shape.e))
    av += WORD_BYTES * shape.heads * shape.f * (shape.queries + shape.keys * passes(shape.f))
    return qk, softmax, av


def run_unfused(shape: AttentionShape, machine: EinsumMachine) -> AttentionRun:
    """Three operators in turn; in each, transfers are double-buffered against tiles of n queries."""
    n = machine.n
    tiles = shape.heads * -(-shape.queries // n)
    key_tiles = -(-shape.keys // n)
    qk, softmax, av = (moved * machine.clock_hz / machine.memory.bytes_per_s / tiles for moved in unfused_bytes(shape, machine))
    score = shape.scores * WORD_BYTES * machine.clock_hz / machine.memory.bytes_per_s / tiles
    softmax_cycles = SOFTMAX_OPS * shape.keys
    cycles = (_phase(tiles, qk - score, key_tiles * shape.e, score) + _phase(tiles, softmax / 2, softmax_cycles, softmax / 2)
              + _phase(tiles, av, key_tiles * shape.f, 0.0))
    written = sum(stage.writes for stage in HANDING.values())
    return AttentionRun(cycles, shape.scores * (shape.e + shape.f) / n**2, float(tiles * softmax_cycles),
                        float(sum(unfused_bytes(shape, machine))),
                        float(WORD_BYTES * (written * shape.scores + shape.heads * shape.queries * shape.f)))


def _phase(tiles: int, load_cycles: float, compute_cycles: float, store_cycles: float) -> float:
    """One operator: load, compute, store for each tile, two tiles in flight."""
    units, channel = InOrderUnits(), Channel()
    loaded = [channel.transfer(load_cycles) for _ in range(2)]
    ends: list[float] = []
    for tile in range(PROBE + 2 * STRIDE + 3):
        computed = units.run("array", compute_cycles, (loaded[tile],))
        loaded.append(channel.transfer(load_cycles, (computed,)))
        ends.append(max(channel.transfer(store_cycles, (computed,)), computed))
    return steady_total(lambda i: ends[i - 1], tiles, PROBE, STRIDE)
