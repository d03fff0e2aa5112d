"""Attention's choices: the shape it is mapped as, its unit, its tiles, and which keys each tile of queries must see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..arch.systolic import gemm_cycles
from ..sim.dtypes import DType
from ..workloads.operators import Attention
from .gemm_heuristic import check_format
from .target import TILE_BYTES, Site
from .tiles import Operand, tiles

#: Keys that the lanes take at a time at most; ASSUMED: a longer row of scores saves no work, only records.
_LANE_KEYS = 8192


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape that attention is mapped as: *batch* sequences of *kv_heads* heads, *group* query heads to each.

    With one new token a sequence, sequences and heads become one axis: rows of q, K and V lie as if of one sequence.
    """

    batch: int
    kv_heads: int
    group: int
    head_dim: int
    q_tokens: int
    kv_tokens: int

    @classmethod
    def of(cls, op: Attention) -> Heads:
        """The shape of *op*."""
        group = op.heads // op.kv_heads
        if op.q_tokens == 1:
            return cls(1, op.batch * op.kv_heads, group, op.head_dim, 1, op.kv_tokens)
        return cls(op.batch, op.kv_heads, group, op.head_dim, op.q_tokens, op.kv_tokens)

    @property
    def q_row(self) -> int:
        """Elements of a token's row of q."""
        return self.kv_heads * self.group * self.head_dim


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """*heads* KV heads × *q_tokens* queries (of each head of the group) × *kv_tokens* keys at a time, on *unit*.

    *ways*: tiles of queries that take turns. A tile's next softmax rescales what its last product added to, so alone it would
    leave the arrays idle while the lanes work, and the lanes while the arrays do.
    """

    unit: str
    heads: int
    q_tokens: int
    kv_tokens: int
    ways: int = 1


@dataclass(frozen=True, slots=True)
class KeySpan:
    """*count* keys from row *first* of the cache on; *is_new*: rows of this run, taken from its activations."""

    first: int
    count: int
    is_new: bool


def choose_attention_unit(op: Attention, q: Operand, site: Site) -> str:
    """The arrays or the lanes, by the time that both products take there."""
    check_format(q.dtype, site)
    heads, target = Heads.of(op), site.target
    m, pairs = heads.group * heads.q_tokens, heads.batch * heads.kv_heads
    array_cycles = (gemm_cycles(m, heads.head_dim, heads.kv_tokens, target.array, pairs).total
                    + gemm_cycles(m, heads.kv_tokens, heads.head_dim, target.array, pairs).total)
    lanes_s = target.lanes.product_s(2 * pairs * m * heads.kv_tokens * heads.head_dim)
    return target.mxu if array_cycles / target.array.clock_hz <= lanes_s else target.vpu


def rule_tile(op: Attention, q: Operand, kv: Operand, site: Site) -> AttentionTile:
    """The fixed rule: the largest tile, from a preferred size down, of which two (at last, one) fit into every pool."""
    heads, array = Heads.of(op), site.target.array
    unit = choose_attention_unit(op, q, site)
    if unit == site.target.mxu and heads.group * heads.q_tokens >= array.rows:
        preferred = AttentionTile(unit, min(heads.kv_heads, 2 * array.arrays),
                                  min(heads.q_tokens, max(1, 4 * array.rows // heads.group)),
                                  min(heads.kv_tokens, max(array.cols, array.rows)))
    else:
        preferred = AttentionTile(unit, heads.kv_heads, min(heads.q_tokens, array.rows), min(heads.kv_tokens, _LANE_KEYS))
    smallest = AttentionTile(unit, 1, 1, 1)
    for copies in (2, 1):
        tile = preferred
        while not tile_fits(tile, heads, q.dtype, kv.dtype, site, copies) and tile != smallest:
            tile = _smaller(tile, heads, site)
        if tile_fits(tile, heads, q.dtype, kv.dtype, site, copies):
            return replace(tile, ways=copies if unit == site.target.mxu else 1)
    return smallest


def tile_fits(tile: AttentionTile, heads: Heads, q: DType, kv: DType, site: Site, copies: int) -> bool:
    """Whether *copies* tiles in flight fit into the pools."""
    return bool(fits(tile.unit, tile.heads, tile.q_tokens, tile.kv_tokens, heads, q, kv, site, copies))


def fits(unit: str, heads_tile: Any, q_tile: Any, kv_tile: Any, heads: Heads, q: DType, kv: DType, site: Site, copies: int) -> Any:
    """Whether *copies* tiles in flight fit into the pools, each tile of keys no larger than tiles are; elementwise."""
    m, keys = heads_tile * heads.group * q_tile, heads_tile * kv_tile * heads.head_dim
    scores, sums = 4 * m * kv_tile, 4 * m * heads.head_dim
    packed = 2 * q.bytes_for(m * heads.head_dim)                           # queries in, results out
    lanes = q.bytes_for(m * kv_tile) + 8 * m + packed
    if site.target.must_dequantize(kv, q):
        lanes = lanes + 2 * q.bytes_for(keys)
    on_lanes, room = unit == site.target.vpu, site.room
    ok = (kv.bytes_for(keys) <= TILE_BYTES) & (2 * copies * kv.bytes_for(keys) <= room.stream_bytes)
    ok &= copies * (lanes + (scores + sums if on_lanes else 0)) <= room.vector_bytes
    if not on_lanes:
        ok &= (1 + copies) * scores + copies * sums <= room.accumulator_bytes
    if room.activation_bytes:
        ok &= copies * (packed + 2 * q.bytes_for(keys)) <= room.activation_bytes
    return ok


def _smaller(tile: AttentionTile, heads: Heads, site: Site) -> AttentionTile:
    """The next tile to try: fewer queries while they hide the shift-in of keys, fewer heads, fewer keys, fewer queries."""
    if tile.unit == site.target.mxu and tile.q_tokens > 1 and heads.group * tile.q_tokens > 2 * site.target.array.rows:
        return replace(tile, q_tokens=-(-tile.q_tokens // 2))
    if tile.heads > 1:
        return replace(tile, heads=-(-tile.heads // 2))
    if tile.kv_tokens > tile.q_tokens or tile.q_tokens == 1:
        return replace(tile, kv_tokens=max(1, tile.kv_tokens // 2))
    return replace(tile, q_tokens=-(-tile.q_tokens // 2))


class Masked(Protocol):
    """What decides which keys a query sees."""

    @property
    def q_tokens(self) -> int: ...
    @property
    def kv_tokens(self) -> int: ...
    @property
    def causal(self) -> bool: ...
    @property
    def window(self) -> int | None: ...


def key_spans(op: Masked, slot: int | None, tile_tokens: int, q_first: int, q_count: int) -> list[KeySpan]:
    """The tiles of keys that some of the queries q_first … q_first + q_count − 1 see; *slot*: where the run's own rows begin.

    Rows are positions, but for one query over a ring cache, which sees them all whatever their order.
    """
    position = op.kv_tokens - op.q_tokens + q_first
    high = position + q_count if op.causal and op.q_tokens > 1 else op.kv_tokens
    low = max(0, position - op.window + 1) if op.causal and op.window is not None else 0
    return spans_between(low, high, slot, op.q_tokens, tile_tokens)


def spans_between(low: int, high: int, slot: int | None, new_tokens: int, tile_tokens: int) -> list[KeySpan]:
    """Tiles of the keys low … high − 1, cached ones first, then those of the run's own tokens slot … slot + new_tokens − 1."""
    pieces = [(low, high, False)] if slot is None else [
        (low, min(slot, high), False), (max(low, slot + new_tokens), high, False),
        (max(low, slot), min(slot + new_tokens, high), True)]
    return [KeySpan(first, count, is_new) for begin, end, is_new in pieces if begin < end
            for first, count in tiles(end - begin, tile_tokens, begin)]


def mask_params(op: Attention, q_first: int, q_count: int, span: KeySpan) -> dict[str, Any]:
    """The causal mask's parameters for a tile of scores; empty when every query sees every key of it."""
    if not op.causal or op.q_tokens == 1:
        return {}
    position = op.kv_tokens - op.q_tokens + q_first
    hides_later = span.first + span.count - 1 > position
    hides_earlier = op.window is not None and span.first < position + q_count - op.window
    if not (hides_later or hides_earlier):
        return {}
    return {"q_position": position, "kv_position": span.first, "window": op.window}
