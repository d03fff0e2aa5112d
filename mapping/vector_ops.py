"""Operators of the vector unit and of the DMA engine: norms, pointwise functions, rotary positions, gathers, cache appends.

Resident operands are worked on where they are, in one record; spilled ones pass through in tiles of whole rows, or of pieces of a
row where none fits (``long_rows``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..sim.errors import ConfigError
from ..sim.program import Segment, View
from ..workloads.operators import Embedding, KvAppend, Operator, SelectLast
from ..workloads.vector import Elementwise, Norm, Rope, Softmax
from .long_rows import lower_long_rows, row_fits
from .storage import byte_ranges, whole_units, window_ranges
from .target import Site
from .tiles import Operand, Tiler, permute, tiles

#: A multiplier of Knuth's multiplicative hashing (The Art of Computer Programming, vol. 3, §6.4): spreads row numbers.
_SPREAD = 2654435761


def token_ids(rows: int, vocab: int, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The token of each row: the *given* ones, else a fixed spread over the vocabulary (a gather has no locality to use)."""
    if given is not None:
        if len(given) != rows or not all(0 <= token < vocab for token in given):
            raise ConfigError(f"{len(given)} token ids from {min(given, default=0)} to {max(given, default=0)}; the batch has "
                              f"{rows} rows and the vocabulary {vocab} tokens", key="token_ids")
        return given
    return tuple((row + 1) * _SPREAD % vocab for row in range(rows))


def rows_in_room(site: Site, row_bytes: int, reads: tuple[Operand, ...], write: Operand, rows: int) -> int:
    """Rows of a tile: all when every operand is resident, else so many that two tiles fit into each pool that they pass."""
    spilled = sum(not operand.resident for operand in reads)
    rooms = [site.room.activation_bytes // (2 * spilled)] if spilled else []
    rooms += [] if write.resident else [site.room.vector_bytes // 2]
    return max(1, min([rows, *(room // row_bytes for room in rooms)]))


def _lower_rows(
    op: Operator, operands: tuple[Operand, ...], site: Site, rows: int, cols: int, function: str, streams: int,
    view: Callable[[View], View] = lambda v: v, params: Callable[[int], dict[str, Any]] = lambda row: {},
) -> Segment:
    """``out = function(streams..., constants...)`` row by row: *streams* operands of [rows, cols], then weights read whole once.

    *view* reshapes a tile for the function; *params* gives its parameters from the tile's first row.
    """
    tiler, out = Tiler(op.name, operands, site), operands[-1]
    for operand in operands[:streams]:
        whole_units(operand.dtype, cols, f"{op.name}: a row")
    if function != "rope" and not row_fits(site, operands[:-1], out, cols):
        return lower_long_rows(op.name, operands, site, rows, cols, function, streams)
    constants = tuple(tiler.read(operand.window(operand.shape)) for operand in operands[streams:-1])
    tile_rows = rows_in_room(site, max(o.dtype.bytes_for(cols) for o in operands), operands[:streams], out, rows)
    for first, count in tiles(rows, tile_rows):
        reads = tuple(view(tiler.read(o.window((count, cols), offset=first * cols))) for o in operands[:streams])
        window = out.window((count, cols), offset=first * cols)
        sink = tiler.sink(window)
        tiler.lanes(function, (*reads, *constants), (view(sink),), **params(first))
        tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, rows_tile=tile_rows)


def lower_norm(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: x, weight, perhaps bias, the output."""
    assert isinstance(op, Norm)
    return _lower_rows(op, operands, site, op.rows, op.cols, op.function, 1)


def lower_elementwise(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: one or two of [rows, cols], the output."""
    assert isinstance(op, Elementwise)
    return _lower_rows(op, operands, site, op.rows, op.cols, op.function, op.arity)


def lower_softmax(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: scores, probabilities."""
    assert isinstance(op, Softmax)
    return _lower_rows(op, operands, site, op.rows, op.cols, "softmax", 1)


def lower_rope(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: x [rows, heads · head_dim], the output; a row's position is known from its number."""
    assert isinstance(op, Rope)

    def by_head(view: View) -> View:
        return View((view.shape[0], op.heads, op.head_dim), (view.strides[0], op.head_dim, 1), view.offset, view.buffer,
                    view.operand)

    return _lower_rows(op, operands, site, op.rows, op.heads * op.head_dim, "rope", 1, by_head,
                       lambda row: {"row": row, "tokens": op.tokens, "position": op.position_start})


def lower_select_last(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: x [batch · tokens, cols], the output [batch, cols]."""
    assert isinstance(op, SelectLast)
    tiler, (source, out) = Tiler(op.name, operands, site), operands
    for first, count in tiles(op.batch, rows_in_room(site, source.dtype.bytes_for(op.cols), (source,), out, op.batch)):
        last = (first * op.tokens + op.tokens - 1) * op.cols
        read = tiler.read(source.window((count, op.cols), (op.tokens * op.cols, 1), last))
        window = out.window((count, op.cols), offset=first * op.cols)
        sink = tiler.sink(window)
        tiler.lanes("copy", (read,), (sink,))
        tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu)


def lower_embedding(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: ids, table, perhaps positions, the output. The ids of many tiles are loaded first; they decide the ranges of
    the rows."""
    assert isinstance(op, Embedding)
    tiler, (ids, table), out = Tiler(op.name, operands, site), operands[:2], operands[-1]
    whole_units(table.dtype, op.cols, f"{op.name}: a row of the table")
    tokens = np.array(token_ids(op.rows, op.vocab, site.token_ids), dtype=np.int64)
    row_bytes = max(table.dtype.bytes_for(op.cols), out.dtype.bytes_for(op.cols))
    room = min(site.room.stream_bytes // 8, site.room.vector_bytes // 4) // row_bytes
    tile_rows = max(1, room)
    tiles_steered = max(1, site.room.stream_bytes // 8 // ids.dtype.bytes_for(tile_rows))
    for number, (first, count) in enumerate(tiles(op.rows, tile_rows)):
        if number % tiles_steered == 0:
            steering = min(tiles_steered * tile_rows, op.rows - first)
            tiler.load(ids, window_ranges(ids.window((steering,), offset=first), ids.dtype), steering)
            steered = (len(tiler.builder) - 1,)
        ranges = byte_ranges(table.dtype, tokens[first:first + count] * op.cols, op.cols)
        rows = View((count, op.cols), (op.cols, 1), 0, buffer=tiler.load(table, ranges, count * op.cols, steered))
        reads: tuple[View, ...] = (rows,) if not table.dtype.group else (tiler.converted(rows, table.dtype, out.dtype),)
        window = out.window((count, op.cols), offset=first * op.cols)
        sink = tiler.sink(window)
        if op.has_positions:
            reads += (_position_rows(op, operands[2], tiler, first, count),)
        tiler.lanes("add" if op.has_positions else "copy", reads, (sink,))
        tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu)


def _position_rows(op: Embedding, positions: Operand, tiler: Tiler, first: int, count: int) -> View:
    """The rows of learned positions of *count* rows from *first* on."""
    places = op.position_start + np.arange(first, first + count, dtype=np.int64) % op.tokens
    buffer = tiler.load(positions, byte_ranges(positions.dtype, places * op.cols, op.cols), count * op.cols)
    rows = View((count, op.cols), (op.cols, 1), 0, buffer=buffer)
    return tiler.converted(rows, positions.dtype, tiler.operands[-1].dtype)


def lower_kv_append(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: k, v, K cache, V cache. Stores straight from the activations; the lanes quantise when the formats differ."""
    assert isinstance(op, KvAppend)
    tiler = Tiler(op.name, operands, site)
    for source, cache in zip(operands[:2], operands[2:], strict=True):
        whole_units(cache.dtype, op.head_dim, f"{op.name}: a head of the KV cache")
        row = op.kv_heads * op.head_dim
        room = rows_in_room(site, source.dtype.bytes_for(row), (source,), cache, op.batch * op.tokens)
        for batch, batches in tiles(op.batch, max(1, room // op.tokens)):
            for first, count in tiles(op.tokens, min(room, op.tokens)):
                rows = tiler.read(source.window((batches, count, op.kv_heads, op.head_dim),
                                                (op.tokens * row, row, op.head_dim, 1), (batch * op.tokens + first) * row))
                by_head = permute(rows, 0, 2, 1, 3)
                head = op.kv_tokens * op.head_dim
                target = cache.window((batches, op.kv_heads, count, op.head_dim), (op.kv_heads * head, head, op.head_dim, 1),
                                      batch * op.kv_heads * head + (op.slot + first) * op.head_dim)
                if source.dtype != cache.dtype:
                    quantised = tiler.sink(target)
                    tiler.lanes("quantize", (by_head,), (quantised,))
                    by_head = quantised
                tiler.commit(target, by_head)
    return tiler.build(unit=site.target.vpu)
