"""FLAT: fused attention by rows of the score matrix, its tensor placements, their traffic, and a search over them.

Kao et al., "FLAT", ASPLOS 2023. Rows of scores (a whole head, or P1 queries by all keys) stay in the buffer between QK, softmax and
AV; each other tensor is kept there too ("on chip") or streamed past it. What does not fit is spilled in proportion. The traffic
follows from the loops; the model equals the artifact's Timeloop runs (see FuseMax's artifact, src/accel/flat.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from ..arch.einsum_arrays import WORD_BYTES, EinsumMachine
from ..workloads.cascades import THREE_PASS, passes_of
from ..workloads.passes import crossings

Stationarity = Literal["output", "weight"]
#: The three operators of attention and the Einsums that each computes.
STAGES = {"QK": "qk", "GM": "softmax", "SN": "softmax", "SD": "softmax", "A": "softmax", "AV": "av"}
#: How often each operator reads and writes a score (or what became of it) in a memory that they share: where softmax passes over
#: them there, and where it holds whole rows and takes and gives each once.
PASSING = crossings(passes_of(THREE_PASS), STAGES, keeps_fibre=False)
HANDING = crossings(passes_of(THREE_PASS), STAGES, keeps_fibre=True)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """*heads* products over all batches; queries p, keys m, widths e (q, k) and f (v)."""

    heads: int
    queries: int
    keys: int
    e: int
    f: int

    @property
    def scores(self) -> int:
        return self.heads * self.queries * self.keys


@dataclass(frozen=True, slots=True)
class FlatMapping:
    """Which tensors the buffer keeps, how many queries are fused, which operand the array pins."""

    q_on_chip: bool
    k_on_chip: bool
    scores_on_chip: bool
    v_on_chip: bool
    av_on_chip: bool
    stationarity: Stationarity
    rows: int                         # queries that are fused: all of them, or P1


@dataclass(frozen=True, slots=True)
class FlatTraffic:
    """DRAM bytes of a mapping by what moves them, how many of them are written, and the buffer that it wants."""

    qk_bytes: float
    av_bytes: float
    softmax_bytes: float
    written_bytes: float
    wanted_bytes: int
    spilled: float                    # share of what is on chip that does not fit

    @property
    def total_bytes(self) -> float:
        return self.qk_bytes + self.av_bytes + self.softmax_bytes


def wanted_bytes(shape: AttentionShape, mapping: FlatMapping, n: int) -> int:
    """Buffer that the mapping wants: scores once; of each other tensor two tiles (one in use, one in flight)."""
    rows, e, f = mapping.rows, shape.e, shape.f
    kept = ((mapping.q_on_chip, rows * e, e), (mapping.k_on_chip, shape.keys * e, e), (mapping.v_on_chip, shape.keys * f, f),
            (mapping.av_on_chip, rows * f, f))
    words = sum(2 * (tile if on_chip else n * width) for on_chip, tile, width in kept)
    words += rows * shape.keys if mapping.scores_on_chip else 2 * n * n
    return words * WORD_BYTES


def traffic(shape: AttentionShape, mapping: FlatMapping, machine: EinsumMachine) -> FlatTraffic:
    """DRAM bytes of the whole attention under *mapping*; e and f are at most n."""
    n, heads = machine.n, shape.heads
    wanted = wanted_bytes(shape, mapping, n)
    spilled = max(0.0, 1.0 - machine.buffer_bytes / wanted)
    key_tiles, query_tiles = -(-shape.keys // n), -(-shape.queries // n)
    blocks = -(-shape.queries // mapping.rows)
    # Output stationary holds one n×n tile of scores in the PEs and re-reads both operands for each; weight stationary holds K
    # (V) while the fused rows stream by.
    k_passes = query_tiles if mapping.stationarity == "output" else blocks
    q = _moved(heads * shape.queries * shape.e, key_tiles, 1, mapping.q_on_chip, spilled)
    k = _moved(heads * shape.keys * shape.e, k_passes, blocks, mapping.k_on_chip, spilled)
    v = _moved(heads * shape.keys * shape.f, k_passes, blocks, mapping.v_on_chip, spilled)
    # Weight stationary adds to the outputs once for each key tile: off chip they are read and written every time.
    av_passes = 1 if mapping.stationarity == "output" else 2 * key_tiles - 1
    av = _moved(heads * shape.queries * shape.f, av_passes, 1, mapping.av_on_chip, spilled)
    # On chip, and spilled in part: written by QK; read for the maximum, read for the exponential, written, read for the division,
    # written; read by AV.
    each, share = (PASSING, spilled) if mapping.scores_on_chip else (HANDING, 1.0)
    qk_words, softmax_words, av_words = (each[stage].total * share * shape.scores for stage in ("qk", "softmax", "av"))
    written = sum(stage.writes for stage in each.values()) * share * shape.scores
    # An output is written as often as it is read, and once more.
    written += (av + heads * shape.queries * shape.f) / 2
    return FlatTraffic((q + k + qk_words) * WORD_BYTES, (v + av + av_words) * WORD_BYTES, softmax_words * WORD_BYTES,
                       written * WORD_BYTES, wanted, spilled)


def _moved(words: float, streamed_passes: int, kept_passes: int, on_chip: bool, spilled: float) -> float:
    """Words of one tensor from or to DRAM: streamed again and again, or kept save the spilled share."""
    if not on_chip:
        return words * streamed_passes
    return words * ((1.0 - spilled) * kept_passes + spilled * streamed_passes)


def mappings(shape: AttentionShape, machine: EinsumMachine) -> Iterator[FlatMapping]:
    """The space: every placement, both stationarities, whole heads or 1, 2 or 4 times the array's rows of queries."""
    rows = sorted({shape.queries, *(machine.n * factor for factor in (1, 2, 4) if machine.n * factor <= shape.queries)})
    stationarities: tuple[Stationarity, ...] = ("output", "weight")
    flags = (False, True)
    for q, k, s, v, av, stationarity, fused in product(flags, flags, flags, flags, flags, stationarities, rows):
        yield FlatMapping(q, k, s, v, av, stationarity, fused)


def best_mapping(shape: AttentionShape, machine: EinsumMachine) -> FlatMapping:
    """The mapping with the least DRAM traffic; of equals the one that wants the least buffer, then the first."""
    def cost(mapping: FlatMapping) -> tuple[float, int]:
        found = traffic(shape, mapping, machine)
        return found.total_bytes, found.wanted_bytes

    return min(mappings(shape, machine), key=cost)
