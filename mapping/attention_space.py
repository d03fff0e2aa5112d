"""The map space of attention: what a choice depends on, which tiles fit on chip, and which ones the search looks at.

Flash attention takes *heads* KV heads × *q_tokens* queries of each head of their groups × *kv_tokens* keys at a time. The nest,
from the outside: sequences, KV heads, queries (``ways`` tiles of them take turns on the arrays), keys; in space two tile products,
on the arrays or on the lanes, with a softmax on the lanes between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..workloads.operators import Attention
from .attention_tiles import AttentionTile, Heads, KeySpan, fits, key_spans
from .gemm_space import Ints, sizes
from .target import Site, Target
from .tiles import Operand

#: Tiles of queries that take turns at most: two keep arrays and lanes busy, more hide latencies of small tiles.
_MOST_WAYS = 4
#: Tilings of an exhaustive search: a minute.
_MOST_TILINGS = 20_000
#: Halves of an extent and powers of two of the arrays' sides that are looked at.
_HALVES, _POWERS = 5, 4


@dataclass(frozen=True, slots=True)
class AttentionTask:
    """All that the choice of tiles depends on: equal tasks on one site get equal tiles.

    *slot*: the first row in the cache of the run's own tokens, whose keys and values come from its activations; None when all
    come from the cache.
    """

    heads: Heads
    causal: bool
    window: int | None
    slot: int | None
    q: DType
    kv: DType
    new: DType
    q_resident: bool
    new_resident: bool
    out_resident: bool
    unpacks: bool = False                              # the lanes unpack keys and values of the cache
    unpacks_new: bool = False                          # and those of the run's own tokens

    @classmethod
    def of(cls, op: Attention, operands: tuple[Operand, ...], target: Target) -> AttentionTask:
        """The task of *op* on *operands*, as ``lower_attention`` takes them."""
        q, kv, out = operands[0], operands[1], operands[-1]
        new = operands[3] if len(operands) > 3 and operands[3].first_row is not None else None
        return cls(Heads.of(op), op.causal, op.window, None if new is None else new.first_row, q.dtype, kv.dtype,
                   q.dtype if new is None else new.dtype, q.resident, new is not None and new.resident, out.resident,
                   target.must_dequantize(kv.dtype, q.dtype), new is not None and target.must_dequantize(new.dtype, q.dtype))

    @property
    def q_tokens(self) -> int:
        return self.heads.q_tokens

    @property
    def kv_tokens(self) -> int:
        return self.heads.kv_tokens

    def spans(self, q_first: int, q_count: int, kv_tile: int) -> list[KeySpan]:
        """The tiles of keys that some of those queries see."""
        return key_spans(self, self.slot, kv_tile, q_first, q_count)


def given_fits(given: Mapping[str, int | str], tile: AttentionTile, site: Site) -> bool:
    """Whether *tile* keeps to the fields that are *given*."""
    unit = "arrays" if tile.unit == site.target.mxu else "lanes"
    found = {"unit": unit, "heads": tile.heads, "q_tokens": tile.q_tokens, "kv_tokens": tile.kv_tokens, "ways": tile.ways}
    return all(found[name] == value for name, value in given.items())


def candidates(task: AttentionTask, site: Site, given: Mapping[str, int | str]) -> list[AttentionTile]:
    """The tiles that the pruned search looks at and that fit."""
    h, array = task.heads, site.target.array
    heads = _of(given, "heads", sizes(h.kv_heads, 1, _HALVES, 0) + [n for n in (array.arrays, 2 * array.arrays) if n < h.kv_heads])
    queries = _of(given, "q_tokens", sizes(h.q_tokens, 1, _HALVES)
                  + [n for power in range(_POWERS) if 0 < (n := (array.rows << power) // h.group) < h.q_tokens])
    keys = _of(given, "kv_tokens", sizes(h.kv_tokens, array.cols, _HALVES, _POWERS))
    return _fitting(task, site, heads, queries, keys, given)


def every_tile(task: AttentionTask, site: Site, given: Mapping[str, int | str]) -> list[AttentionTile]:
    """The whole space: for small attentions only."""
    h = task.heads
    heads, queries, keys = ([int(given[name])] if name in given else list(range(1, extent + 1))
                            for name, extent in (("heads", h.kv_heads), ("q_tokens", h.q_tokens), ("kv_tokens", h.kv_tokens)))
    most = len(heads) * len(queries) * len(keys)
    if most > _MOST_TILINGS:
        raise ConfigError(f"an exhaustive search of attention would look at {most:,} tilings; {_MOST_TILINGS:,} are the most",
                          key="attention.search", value="exhaustive", allowed=("pruned", "heuristic"),
                          mend="give it some of the tile sizes")
    return _fitting(task, site, heads, queries, keys, given)


def neighbours(tile: AttentionTile, task: AttentionTask, site: Site, given: Mapping[str, int | str]) -> list[AttentionTile]:
    """Tiles of sizes about those of *tile*, on its unit."""
    h = task.heads

    def near(name: str, extent: int, size: int) -> list[int]:
        if name in given:
            return [size]
        return sorted({min(extent, max(1, size * up // down)) for up, down in ((1, 2), (2, 3), (1, 1), (3, 2), (2, 1))}
                      | {min(extent, max(1, size + step)) for step in (-1, 1) if extent <= _SMALL})

    unit = "arrays" if tile.unit == site.target.mxu else "lanes"
    return _fitting(task, site, near("heads", h.kv_heads, tile.heads), near("q_tokens", h.q_tokens, tile.q_tokens),
                    near("kv_tokens", h.kv_tokens, tile.kv_tokens), {**given, "unit": unit})


#: Up to here the next size up and down is looked at too.
_SMALL = 32


def _of(given: Mapping[str, int | str], name: str, otherwise: list[int]) -> list[int]:
    return [int(given[name])] if name in given else sorted(set(otherwise))


def _fitting(
    task: AttentionTask, site: Site, heads: list[int], queries: list[int], keys: list[int], given: Mapping[str, int | str],
) -> list[AttentionTile]:
    """All combinations that fit, in order; the lanes take one tile of queries after the other."""
    grid: Ints = np.array(list(product(heads, queries, keys)), dtype=np.int64).reshape(-1, 3)
    found = []
    for unit in ("arrays", "lanes"):
        if given.get("unit", unit) != unit or (unit == "lanes" and not site.target.lanes.multiplies):
            continue
        name = site.target.mxu if unit == "arrays" else site.target.vpu
        for ways in range(1, _MOST_WAYS + 1) if unit == "arrays" else (1,):
            if given.get("ways", ways) == ways:
                ok = fits(name, grid[:, 0], grid[:, 1], grid[:, 2], task.heads, task.q, task.kv, site, ways)
                found += [AttentionTile(name, h, q, t, ways) for h, q, t in grid[ok].tolist()]
    return found
