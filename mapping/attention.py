"""Attention: flash style (online softmax over tiles of keys) and unfused (scores written out), with grouped query heads.

The query heads that share a KV head meet its keys in one product: their rows are packed into one m. Keys and values of tokens
that were cached before this run are streamed from DRAM; those of the run's own tokens are taken from the activations that the cache
append stores, so that no load of the stream queue waits for a projection of the same layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

from ..sim.dtypes import DTYPES
from ..sim.errors import ConfigError
from ..sim.program import Segment, View
from ..workloads.cascades import ONE_PASS, THREE_PASS, passes_of
from ..workloads.operators import Attention, Operator
from ..workloads.passes import Cascade
from .attention_explain import attention_notes, cascade_notes
from .attention_search import AttentionChoice, choose_attention, given_tile
from .attention_space import AttentionTask
from .attention_tiles import AttentionTile, Heads, KeySpan, key_spans, mask_params, rule_tile, spans_between
from .constraints import AttentionConstraints
from .storage import whole_units
from .target import Site
from .tiles import Operand, Tiler, permute, reshape, tiles

FP32 = DTYPES["fp32"]


def lower_attention(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: q, K cache, V cache; k and v of the run's own tokens where they were appended; scores and probabilities where
    they are written out; the output."""
    assert isinstance(op, Attention)
    whole_units(operands[1].dtype, op.head_dim, f"{op.name}: a head of the KV cache")
    return (_Unfused if site.attention == "unfused" else _Flash)(op, operands, site).lower()


class _Parts:
    """What both styles share: tiles of q, K and V on chip."""

    def __init__(self, op: Attention, operands: tuple[Operand, ...], site: Site) -> None:
        self.op, self.site = op, site
        self.q, self.k, self.v, self.out = operands[0], operands[1], operands[2], operands[-1]
        self.has_new = len(operands) > 3 and operands[3].first_row is not None
        self.new_k, self.new_v = (operands[3], operands[4]) if self.has_new else (self.k, self.v)
        self.slot = operands[3].first_row if self.has_new else None
        self.heads = Heads.of(op)
        self.task = AttentionTask.of(op, operands, site.target)
        self.choice: AttentionChoice | None = None
        self.tile = self._choose()
        self.tiler = Tiler(op.name, operands, site)

    def _choose(self) -> AttentionTile:
        """The tile: what the search finds for flash; unfused, the fixed rule's."""
        constraints = self.site.constraints.of(self.op.name).attention
        rule = rule_tile(self.op, self.q, self.k, self.site)
        try:
            if self.site.attention == "unfused":
                return given_tile(self.task, rule, self.site, constraints)
            self.choice = choose_attention(self.task, rule, self.site, constraints)
        except ConfigError as error:
            if constraints == AttentionConstraints():
                raise
            raise self.site.constraints.blamed(error, self.op.name, "attention") from None
        return self.choice.tile

    def query_tiles(self) -> Iterator[_Queries]:
        """The tiles of queries, in order."""
        for batch in range(self.heads.batch):
            for head, count in tiles(self.heads.kv_heads, self.tile.heads):
                for first, rows in tiles(self.heads.q_tokens, self.tile.q_tokens):
                    yield _Queries(self, batch, head, count, first, rows)

    def rows(self, cache: Operand, new: Operand, queries: _Queries, span: KeySpan) -> View:
        """K or V of the span as [heads, tokens, head_dim], in the format of q."""
        h, source = self.heads, new if span.is_new else cache
        shape = (queries.heads, span.count, h.head_dim)
        if span.is_new:
            assert self.slot is not None
            row = h.kv_heads * h.head_dim
            window = new.window(shape, (h.head_dim, row, 1), (queries.batch * h.q_tokens + span.first - self.slot) * row
                                + queries.head * h.head_dim)
        else:
            first = (queries.batch * h.kv_heads + queries.head) * h.kv_tokens + span.first
            window = cache.window(shape, (h.kv_tokens * h.head_dim, h.head_dim, 1), first * h.head_dim)
        return self.tiler.converted(self.tiler.read(window), source.dtype, self.q.dtype)

    def keys(self, queries: _Queries, span: KeySpan) -> View:
        return permute(self.rows(self.k, self.new_k, queries, span), 0, 2, 1)

    def values(self, queries: _Queries, span: KeySpan) -> View:
        return self.rows(self.v, self.new_v, queries, span)

    def notes(self, style: str, cascade: Cascade) -> dict[str, Any]:
        """The choices, for the report, and how often the *cascade* passes over the keys.

        ``counted_macs`` are the pairs that the mask lets through; the segment executes more where a tile is masked in part (flash),
        or all (unfused).
        """
        tile = self.tile
        notes = {"style": style, **cascade_notes(passes_of(cascade)), "counted_macs": self.op.macs, "unit": tile.unit,
                 "heads_tile": tile.heads, "q_tile": tile.q_tokens, "kv_tile": tile.kv_tokens, "ways": tile.ways,
                 "group": self.heads.group}
        return notes if self.choice is None else {**notes, **attention_notes(self.choice, self.task)}


class _Queries:
    """One tile of queries: *rows* tokens from *first* on, of the query heads of *heads* KV heads from *head* on."""

    def __init__(self, parts: _Parts, batch: int, head: int, heads: int, first: int, rows: int) -> None:
        self.parts, self.batch, self.head, self.heads, self.first, self.rows = parts, batch, head, heads, first, rows
        self._packed: View | None = None

    @property
    def m(self) -> int:
        """Rows of one product: the group's heads of every token."""
        return self.rows * self.parts.heads.group

    def by_token(self, view: View) -> View:
        """A contiguous [heads, m, x] as [heads, group, tokens, x], the form in which masks apply."""
        split = reshape(view, self.heads, self.rows, self.parts.heads.group, view.shape[-1])
        return permute(split, 0, 2, 1, 3)

    def _window(self, operand: Operand) -> View:
        """[tokens, heads, group, head_dim] of q or of the output: runs as long as a token's heads are."""
        h = self.parts.heads
        return operand.window((self.rows, self.heads, h.group, h.head_dim),
                              (h.q_row, h.group * h.head_dim, h.head_dim, 1),
                              (self.batch * h.q_tokens + self.first) * h.q_row + self.head * h.group * h.head_dim)

    def packed(self) -> View:
        """The queries as [heads, m, head_dim]; the lanes pack them when a group's rows are not one stride apart."""
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def _pack(self) -> View:
        parts, h = self.parts, self.parts.heads
        found = permute(parts.tiler.read(self._window(parts.q)), 1, 0, 2, 3)
        if self.rows == 1 or h.group == 1:
            along = found.strides[2] if self.rows == 1 else found.strides[1]
            return View((self.heads, self.m, h.head_dim), (found.strides[0], along, 1), found.offset, found.buffer,
                        found.operand)
        packed = parts.tiler.temporary("packed queries", found.shape, parts.q.dtype, parts.site.target.vpu)
        parts.tiler.lanes("copy", (found,), (packed,))
        return reshape(packed, self.heads, self.m, h.head_dim)

    def finish(self, function: str, *reads: View) -> None:
        """Write the result, ``function(reads...)`` with reads as [heads, group, tokens, x], to where the output lives."""
        window = self._window(self.parts.out)
        sink = self.parts.tiler.sink(window)
        self.parts.tiler.lanes(function, reads, (permute(sink, 1, 2, 0, 3),))
        self.parts.tiler.commit(window, sink)


class _Flash(_Parts):
    """Online softmax over tiles of keys (Dao et al., 2022, arXiv:2205.14135, algorithm 1; Milakov and Gimelshein, 2018,
    arXiv:1805.02867). Tiles that are wholly masked are skipped. On the arrays two tiles of queries take turns and the scores of
    the next tile are multiplied before the softmax of this one, so that arrays and lanes work at once.
    """

    def lower(self) -> Segment:
        lookahead = 1 if self.tile.unit == self.site.target.mxu else 0
        waiting: list[_FlashTile] = []
        for tile in self._tiles():
            tile.multiply_scores()
            waiting.append(tile)
            if len(waiting) > lookahead:
                waiting.pop(0).finish()
        for tile in waiting:
            tile.finish()
        return self.tiler.build(**self.notes("flash", ONE_PASS))

    def _tiles(self) -> Iterator[_FlashTile]:
        """All tiles; ``ways`` tiles of queries take turns."""
        queries = self.query_tiles()
        while turns := [self._tiles_of(one) for one in islice(queries, self.tile.ways)]:
            for turn in zip_longest(*turns):
                yield from (tile for tile in turn if tile is not None)

    def _tiles_of(self, queries: _Queries) -> Iterator[_FlashTile]:
        vpu, group = self.site.target.vpu, self.heads.group
        statistics = tuple(self.tiler.temporary(name, (queries.heads, group, queries.rows), FP32, vpu)
                           for name in ("maximum", "total"))
        output = self.tiler.temporary("output", (queries.heads, queries.m, self.heads.head_dim), FP32, self.tile.unit)
        spans = key_spans(self.op, self.slot, self.tile.kv_tokens, queries.first, queries.rows)
        for index, span in enumerate(spans):
            yield _FlashTile(self, queries, span, statistics, output, index == 0, index == len(spans) - 1)


class _FlashTile:
    """One tile of queries on one tile of keys."""

    def __init__(self, parts: _Parts, queries: _Queries, span: KeySpan, statistics: tuple[View, ...], output: View,
                 is_first: bool, is_last: bool) -> None:
        self.parts, self.queries, self.span, self.statistics, self.output = parts, queries, span, statistics, output
        self.is_first, self.is_last = is_first, is_last
        shape = (queries.heads, queries.m, span.count)
        self.scores = parts.tiler.temporary("scores", shape, FP32, parts.tile.unit)

    def multiply_scores(self) -> None:
        """scores = q Kᵀ."""
        parts = self.parts
        queries, keys = self.queries.packed(), parts.keys(self.queries, self.span)
        parts.tiler.builder.multiply(parts.tile.unit, queries, keys, self.scores, accumulate=False)

    def finish(self) -> None:
        """Probabilities against the running maximum, their product with V added to the rescaled output."""
        parts, queries, tiler = self.parts, self.queries, self.parts.tiler
        probabilities = tiler.temporary("probabilities", self.scores.shape, parts.q.dtype, parts.site.target.vpu)
        output = queries.by_token(self.output)
        carried = () if self.is_first else (output,)
        running = () if self.is_first else (*self.statistics, output)
        tiler.lanes("online_softmax", (queries.by_token(self.scores), *running),
                    (queries.by_token(probabilities), *self.statistics, *carried), scale=parts.op.scale,
                    **mask_params(parts.op, queries.first, queries.rows, self.span))
        tiler.builder.multiply(parts.tile.unit, probabilities, parts.values(queries, self.span), self.output,
                               accumulate=not self.is_first)
        if self.is_last:
            queries.finish("online_softmax_end", output, self.statistics[1])


class _Unfused(_Parts):
    """Three passes: all scores are written out, softmax reads and writes them, the last product reads them again.

    Scores and probabilities are operands [batch, kv_heads, q_tokens · group, kv_tokens] in the format of q; the whole rectangle
    is computed, masked pairs included, as frameworks do without a fused kernel.
    """

    def __init__(self, op: Attention, operands: tuple[Operand, ...], site: Site) -> None:
        super().__init__(op, operands, site)
        self.scores, self.probabilities = operands[-3], operands[-2]

    def lower(self) -> Segment:
        for queries in self.query_tiles():
            for span in self._spans():
                self._multiply_scores(queries, span)
        self._softmax()
        for queries in self.query_tiles():
            self._multiply_values(queries)
        return self.tiler.build(**self.notes("unfused", THREE_PASS))

    def _spans(self) -> list[KeySpan]:
        return spans_between(0, self.heads.kv_tokens, self.slot, self.heads.q_tokens, self.tile.kv_tokens)

    def _window(self, operand: Operand, queries: _Queries, span: KeySpan) -> View:
        """[heads, m, keys] of scores or probabilities."""
        h = self.heads
        rows = h.q_tokens * h.group
        first = ((queries.batch * h.kv_heads + queries.head) * rows + queries.first * h.group) * h.kv_tokens + span.first
        return operand.window((queries.heads, queries.m, span.count), (rows * h.kv_tokens, h.kv_tokens, 1), first)

    def _multiply_scores(self, queries: _Queries, span: KeySpan) -> None:
        window = self._window(self.scores, queries, span)
        sums = self.tiler.temporary("scores", window.shape, FP32, self.tile.unit)
        self.tiler.builder.multiply(self.tile.unit, queries.packed(), self.keys(queries, span), sums, accumulate=False)
        sink = self.tiler.sink(window)
        self.tiler.lanes("scale", (sums,), (sink,), factor=self.op.scale)
        self.tiler.commit(window, sink)

    def _softmax(self) -> None:
        h, op = self.heads, self.op
        rows = h.batch * h.kv_heads * h.q_tokens * h.group
        is_masked = op.causal and (op.q_tokens > 1 or (op.window is not None and op.window < op.kv_tokens))
        mask: dict[str, Any] = {"q_position": op.kv_tokens - op.q_tokens, "q_tokens": h.q_tokens, "group": h.group,
                                "window": op.window} if is_masked else {}
        is_resident = self.scores.resident and self.probabilities.resident
        room = min(self.site.room.activation_bytes, self.site.room.vector_bytes) // 2
        for first, count in tiles(rows, rows if is_resident else max(1, room // self.q.dtype.bytes_for(h.kv_tokens))):
            source = self.tiler.read(self.scores.window((count, h.kv_tokens), offset=first * h.kv_tokens))
            window = self.probabilities.window((count, h.kv_tokens), offset=first * h.kv_tokens)
            sink = self.tiler.sink(window)
            self.tiler.lanes("softmax", (source,), (sink,), **({"row": first, **mask} if mask else {}))
            self.tiler.commit(window, sink)

    def _multiply_values(self, queries: _Queries) -> None:
        output = self.tiler.temporary("output", (queries.heads, queries.m, self.heads.head_dim), FP32, self.tile.unit)
        for index, span in enumerate(self._spans()):
            probabilities = self.tiler.read(self._window(self.probabilities, queries, span))
            self.tiler.builder.multiply(self.tile.unit, probabilities, self.values(queries, span), output, accumulate=index > 0)
        queries.finish("copy", queries.by_token(output))
