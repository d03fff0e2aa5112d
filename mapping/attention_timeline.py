"""The records of flash attention under a tile as the arrays of ``timeline``: what ``attention._Flash`` writes, without the bytes.

Groups of KV heads are alike: a few are walked, the others take what those in the middle take. Of many tiles of queries, so many
turns are walked, evenly spread: what a turn takes is linear in its keys, so the mean over midpoints is that over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from ..sim.dtypes import DType
from ..sim.units import PS_PER_S
from .attention_estimate import FP32_BYTES, RecordCosts, keys_seen
from .attention_space import AttentionTask
from .attention_tiles import AttentionTile
from .compiled import compiled
from .gemm_estimate import Floats
from .gemm_space import Ints
from .gemm_timeline import machine_of
from .target import Site
from .tiles import tiles as pieces
from .timeline import (
    ACTIVATION,
    ARRAYS,
    F_FOLDS,
    F_SIZE,
    F_STREAM,
    I_AFTER,
    I_BYTES,
    I_DEP_0,
    I_DEP_1,
    I_POOL,
    I_SIZE,
    LANES,
    P_ACCUMULATORS,
    P_ACTIVATION,
    P_STREAM,
    P_VECTOR,
    STORE,
    STREAM,
    copy_cost,
    gives,
    new_record,
    run_timeline,
)

#: Columns of the walked tiles: tile of queries, kind of tile, whether its keys are the run's own, whether it is the first and the
#: last of its queries, kind of queries.
_QUERIES, _KIND, _NEW, _FIRST, _LAST, _ROWS = range(6)
#: Columns of a kind of tile: bytes of scores, probabilities, keys of the cache, new ones, unpacked ones. Rows of its costs.
_SCORES, _PROBABILITIES, _CACHED, _FRESH, _PLAIN = range(5)
_QK, _PV_FIRST, _PV, _SOFTMAX_FIRST, _SOFTMAX, _UNPACK_CACHED, _UNPACK_NEW, _LOAD, _LOAD_NEW = range(9)
#: Columns of a kind of queries: bytes of them (loaded, packed, or as results), of the statistics, of the output. Rows of its costs.
_PACKED, _STATISTICS, _OUTPUT = range(3)
_LOAD_Q, _PACK, _END, _STORE = range(4)
#: Flags.
_ON_ARRAYS, _Q_HERE, _NEW_HERE, _OUT_HERE, _UNPACKS, _UNPACKS_NEW, _PACKS = range(7)
#: Records of a tile of keys, and of a tile of queries, at most.
_A_TILE, _A_QUERY = 7, 4
#: Tiles of keys that are walked, and those of one group of heads: about so many.
_WALKED, _IN_GROUP = 600, 200


@compiled
def _put(records: Ints, costs: Floats, at: int, unit: int, cost: Floats, first: int, second: int, after: int) -> None:
    """Record *at*, of *unit*, behind the records *first* and *second*; the first row of a free table."""
    new_record(records, at, unit)
    records[at, I_DEP_0], records[at, I_DEP_1], records[at, I_AFTER] = first, second, after
    copy_cost(costs, at, cost)


@compiled
def _takes(records: Ints, at: int, pool: int, nbytes: int) -> None:
    """Record *at* acquires *nbytes* of *pool*."""
    records[at, I_POOL], records[at, I_BYTES] = pool, nbytes


@compiled
def _operand(records: Ints, costs: Floats, at: int, tile: Ints, ki: Ints, kf: Floats, flags: Ints) -> int:
    """Keys or values of a tile, loaded and unpacked as they must be; gives the next record's number."""
    is_new, kind = tile[_NEW] > 0, tile[_KIND]
    if not (is_new and flags[_NEW_HERE]):
        pool, nbytes = (P_ACTIVATION, ki[kind, _FRESH]) if is_new else (P_STREAM, ki[kind, _CACHED])
        _put(records, costs, at, ACTIVATION if is_new else STREAM, kf[kind, _LOAD_NEW if is_new else _LOAD], -1, -1, int(is_new))
        _takes(records, at, pool, nbytes)
        at += 1
    if flags[_UNPACKS_NEW if is_new else _UNPACKS]:
        here = is_new and flags[_NEW_HERE] > 0
        _put(records, costs, at, LANES, kf[kind, _UNPACK_NEW if is_new else _UNPACK_CACHED], -1 if here else at - 1, -1, int(here))
        _takes(records, at, P_VECTOR, ki[kind, _PLAIN])
        if not here:
            gives(records, at, P_ACTIVATION if is_new else P_STREAM, ki[kind, _FRESH] if is_new else ki[kind, _CACHED])
        at += 1
    return at


@compiled
def _done_with(records: Ints, at: int, tile: Ints, ki: Ints, flags: Ints) -> None:
    """Product *at* is the last to read the tile's keys or values."""
    is_new, kind = tile[_NEW] > 0, tile[_KIND]
    if flags[_UNPACKS_NEW if is_new else _UNPACKS]:
        gives(records, at, P_VECTOR, ki[kind, _PLAIN])
    elif not (is_new and flags[_NEW_HERE]):
        gives(records, at, P_ACTIVATION if is_new else P_STREAM, ki[kind, _FRESH] if is_new else ki[kind, _CACHED])


@compiled
def _multiply_scores(
    records: Ints, costs: Floats, at: int, tile: Ints, ki: Ints, kf: Floats, ri: Ints, rf: Floats, flags: Ints,
    ready: Ints,
) -> int:
    """Queries when they are new, keys, and their product; *ready*: the record after which queries may be read."""
    rows, unit = tile[_ROWS], ARRAYS if flags[_ON_ARRAYS] else LANES
    if tile[_FIRST] and not flags[_Q_HERE]:
        _put(records, costs, at, ACTIVATION, rf[rows, _LOAD_Q], -1, -1, 1)
        _takes(records, at, P_ACTIVATION, ri[rows, _PACKED])
        ready[tile[_QUERIES]] = at
        at += 1
    if tile[_FIRST] and flags[_PACKS]:
        _put(records, costs, at, LANES, rf[rows, _PACK], ready[tile[_QUERIES]], -1, flags[_Q_HERE])
        _takes(records, at, P_VECTOR, ri[rows, _PACKED])
        if not flags[_Q_HERE]:
            gives(records, at, P_ACTIVATION, ri[rows, _PACKED])
        ready[tile[_QUERIES]] = at
        at += 1
    before = at
    at = _operand(records, costs, at, tile, ki, kf, flags)
    _put(records, costs, at, unit, kf[tile[_KIND], _QK], ready[tile[_QUERIES]], at - 1 if at > before else -1,
         int(flags[_Q_HERE] > 0 or tile[_NEW] > 0))
    _takes(records, at, P_ACCUMULATORS if flags[_ON_ARRAYS] else P_VECTOR, ki[tile[_KIND], _SCORES])
    _done_with(records, at, tile, ki, flags)
    if tile[_LAST] and (flags[_PACKS] or not flags[_Q_HERE]):
        gives(records, at, P_VECTOR if flags[_PACKS] else P_ACTIVATION, ri[rows, _PACKED])
    return at + 1


@compiled
def _finish(
    records: Ints, costs: Floats, at: int, tile: Ints, ki: Ints, kf: Floats, ri: Ints, rf: Floats, flags: Ints, scores: int,
    products: Ints,
) -> int:
    """Softmax of the product *scores*, the product with values, and the result where it is the last of its queries."""
    kind, rows = tile[_KIND], tile[_ROWS]
    unit, pool = (ARRAYS, P_ACCUMULATORS) if flags[_ON_ARRAYS] else (LANES, P_VECTOR)
    is_first = tile[_FIRST] > 0
    _put(records, costs, at, LANES, kf[kind, _SOFTMAX_FIRST if is_first else _SOFTMAX], scores,
         -1 if is_first else products[tile[_QUERIES]], 0)
    _takes(records, at, P_VECTOR, ki[kind, _PROBABILITIES] + (ri[rows, _STATISTICS] if is_first else 0))
    gives(records, at, pool, ki[kind, _SCORES])
    softmax = at
    at = _operand(records, costs, at + 1, tile, ki, kf, flags)
    _put(records, costs, at, unit, kf[kind, _PV_FIRST if is_first else _PV], softmax, at - 1, int(tile[_NEW] > 0))
    if is_first:
        _takes(records, at, pool, ri[rows, _OUTPUT])
    gives(records, at, P_VECTOR, ki[kind, _PROBABILITIES])
    _done_with(records, at, tile, ki, flags)
    products[tile[_QUERIES]] = at
    at += 1
    if tile[_LAST]:
        _put(records, costs, at, LANES, rf[rows, _END], at - 1, -1, 0)
        gives(records, at, pool, ri[rows, _OUTPUT])
        gives(records, at, P_VECTOR, ri[rows, _STATISTICS])
        at += 1
        if not flags[_OUT_HERE]:
            _takes(records, at - 1, P_VECTOR, ri[rows, _PACKED])
            _put(records, costs, at, STORE, rf[rows, _STORE], at - 1, -1, 0)
            gives(records, at, P_VECTOR, ri[rows, _PACKED])
            at += 1
    return at


@compiled
def _judge(
    tiles: Ints, ki: Ints, kf: Floats, ri: Ints, rf: Floats, flags: Ints, queries: int, in_round: int, machine: Floats,
) -> tuple[float, float]:
    """(end of all, time from the last product of the first *in_round* tiles of queries to that of all), in picoseconds, of
    *queries* tiles of queries; −1 when they wait for ever."""
    most = _A_TILE * len(tiles) + _A_QUERY * queries
    records, costs, ended = np.empty((most, I_SIZE), np.int64), np.empty((most, F_SIZE)), np.empty(most)
    ready, products = np.full(queries, -1, np.int64), np.full(queries, -1, np.int64)
    at, before = 0, -1
    for i in range(len(tiles)):
        at = _multiply_scores(records, costs, at, tiles[i], ki, kf, ri, rf, flags, ready)
        scores = at - 1
        if not flags[_ON_ARRAYS]:
            at = _finish(records, costs, at, tiles[i], ki, kf, ri, rf, flags, scores, products)
        elif i > 0:                                    # the scores of the next tile before the softmax of this one
            at = _finish(records, costs, at, tiles[i - 1], ki, kf, ri, rf, flags, before, products)
        before = scores
    if flags[_ON_ARRAYS]:
        at = _finish(records, costs, at, tiles[len(tiles) - 1], ki, kf, ri, rf, flags, before, products)
    _, end = run_timeline(records, costs, at, 0, machine, ended)
    if end < 0:
        return end, 0.0
    return end, ended[products[queries - 1]] - ended[products[in_round - 1]]


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds of tiles of keys, (heads, rows, keys), and of tiles of queries, (heads, rows), each with its number."""

    tiles: dict[tuple[int, int, int], int] = field(default_factory=dict)
    queries: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Walk:
    """What is walked of a tile's plan: its tiles of keys in order, and how it goes on."""

    tiles: Ints
    queries: int                                       # tiles of queries
    in_round: int                                      # of each round: groups of heads whose turns come out even
    more_rounds: float                                 # than were walked
    share: float                                       # what all queries take for each that is walked


def _walk(tile: AttentionTile, task: AttentionTask, whole: bool, kinds: _Kinds) -> _Walk:
    seen, rows = keys_seen(task, tile.q_tokens)
    spans = (-(-seen // tile.kv_tokens)).sum(axis=1)
    starts = _walked_queries(spans.mean(), len(rows), tile.ways, whole)
    in_round = tile.ways // math.gcd(tile.ways, len(starts))
    groups, more_rounds = _walked_groups(tile, task, int(spans[starts].sum()), in_round, whole)
    found: list[tuple[int, ...]] = []
    keys = {at: task.spans(at * tile.q_tokens, int(rows[at]), tile.kv_tokens) for at in starts}
    flat = [(number, heads, at) for number, (heads, at) in enumerate((heads, at) for heads in groups for at in starts)]
    for turn in range(0, len(flat), tile.ways):
        for step in zip_longest(*([(*one, index) for index in range(len(keys[one[2]]))] for one in flat[turn:turn + tile.ways])):
            for number, heads, at, index in (one for one in step if one is not None):
                span, count = keys[at][index], int(rows[at])
                found.append((number, kinds.tiles.setdefault((heads, count, span.count), len(kinds.tiles)), int(span.is_new),
                              int(index == 0), int(index == len(keys[at]) - 1),
                              kinds.queries.setdefault((heads, count), len(kinds.queries))))
    work = seen.sum(axis=1) * rows
    return _Walk(np.array(found, dtype=np.int64).reshape(-1, 6), len(flat), min(len(flat), in_round * len(starts)), more_rounds,
                 float(work.sum() / work[starts].sum()))


def _walked_queries(spans: float, queries: int, ways: int, whole: bool) -> list[int]:
    """The tiles of queries of a group that are walked: all, or turns of them evenly spread."""
    turns = -(-queries // ways)
    walked = turns if whole else max(2, int(_IN_GROUP / (spans * ways)))
    if walked >= turns:
        return list(range(queries))
    chosen = [int((i + 0.5) * turns / walked) * ways + way for i in range(walked) for way in range(ways)]
    return [at for at in chosen if at < queries]


def _walked_groups(
    tile: AttentionTile, task: AttentionTask, in_group: int, in_round: int, whole: bool,
) -> tuple[list[int], float]:
    """(heads of each group that is walked, for how many rounds of *in_round* groups they go on); of those that are not walked a
    ragged one counts as its share."""
    h = task.heads
    every = [count for _ in range(h.batch) for _, count in pieces(h.kv_heads, tile.heads)]
    rounds = max(2, _WALKED // (in_group * in_round))
    if whole or rounds * in_round >= len(every):
        return every, 0.0
    return [tile.heads] * (rounds * in_round), h.batch * h.kv_heads / tile.heads / in_round - rounds


def judge(tiles: Sequence[AttentionTile], task: AttentionTask, site: Site, whole: bool = False) -> Floats:
    """Seconds under each tile by the timeline; infinite for one that cannot run. *whole*: everything is walked."""
    found, machine = np.empty(len(tiles)), machine_of(site)
    for unit in dict.fromkeys(tile.unit for tile in tiles):
        kinds, on_arrays = _Kinds(), unit == site.target.mxu
        walks = {at: _walk(tile, task, whole, kinds) for at, tile in enumerate(tiles) if tile.unit == unit}
        costs = *_tiles(kinds, task, site, on_arrays), *_queries(kinds, task, site, on_arrays)
        for at, walk in walks.items():
            packs = task.heads.group > 1 and tiles[at].q_tokens > 1
            here = task.q_resident, task.new_resident, task.out_resident
            flags = np.array([on_arrays, *here, task.unpacks, task.unpacks_new, packs], dtype=np.int64)
            end_ps, rounds_ps = _judge(walk.tiles, *costs, flags, walk.queries, walk.in_round, machine)
            round_ps = rounds_ps / max(1, walk.queries // walk.in_round - 1)
            found[at] = (end_ps + walk.more_rounds * round_ps) * walk.share / PS_PER_S if end_ps >= 0 else np.inf
    return found


def _bytes(dtype: DType, elements: Any) -> Any:
    """``DType.bytes_for``, elementwise."""
    return dtype.bytes_for(elements)


def _tiles(kinds: _Kinds, task: AttentionTask, site: Site, on_arrays: bool) -> tuple[Ints, Floats]:
    """Bytes and costs of each kind of tile."""
    h, cost = task.heads, RecordCosts(task, site, on_arrays)
    heads, rows, keys = np.array(list(kinds.tiles), dtype=np.int64).T
    m, held = h.group * rows, heads * keys * h.head_dim
    scores = heads * m * keys
    ints, floats = np.zeros((len(keys), 5), dtype=np.int64), np.zeros((len(keys), 9, F_SIZE))
    ints[:, _SCORES], ints[:, _PROBABILITIES] = FP32_BYTES * scores, _bytes(task.q, scores)
    ints[:, _CACHED], ints[:, _FRESH], ints[:, _PLAIN] = (_bytes(dtype, held) for dtype in (task.kv, task.new, task.q))
    # What the ports read of new keys that the cache holds in another format is taken as what they read of the cache's.
    bits = float(task.q.bits if task.unpacks else task.kv.bits_per_element)
    floats[:, _QK] = cost.product(heads, m, h.head_dim, keys, bits, False)
    floats[:, _PV_FIRST], floats[:, _PV] = (cost.product(heads, m, keys, h.head_dim, bits, adds) for adds in (False, True))
    floats[:, _SOFTMAX_FIRST], floats[:, _SOFTMAX] = (cost.softmax(scores, heads * m, first) for first in (True, False))
    for row, dtype in ((_UNPACK_CACHED, task.kv), (_UNPACK_NEW, task.new)):
        floats[:, row] = cost.per_element("dequantize", held, float(dtype.bits_per_element), task.q.bits)
    token = h.head_dim
    for count in np.unique(keys):
        run, stride = _bytes(task.kv, int(count) * token), _bytes(task.kv, h.kv_tokens * token)
        floats[keys == count, _LOAD] = _moves(ints[keys == count, _CACHED], run, stride, False, site)
    if task.slot is not None:
        floats[:, _LOAD_NEW] = _moves(ints[:, _FRESH], _bytes(task.new, token), _bytes(task.new, h.kv_heads * token), False, site)
    return ints, floats


def _queries(kinds: _Kinds, task: AttentionTask, site: Site, on_arrays: bool) -> tuple[Ints, Floats]:
    """Bytes and costs of each kind of tile of queries."""
    h, cost = task.heads, RecordCosts(task, site, on_arrays)
    heads, tokens = np.array(list(kinds.queries), dtype=np.int64).T
    rows = heads * h.group * tokens
    elements = rows * h.head_dim
    ints, floats = np.zeros((len(rows), 3), dtype=np.int64), np.zeros((len(rows), 4, F_SIZE))
    ints[:, _PACKED], ints[:, _OUTPUT] = _bytes(task.q, elements), FP32_BYTES * elements
    ints[:, _STATISTICS] = 2 * FP32_BYTES * rows
    floats[:, _PACK], floats[:, _END] = cost.per_element("copy", elements, task.q.bits, task.q.bits), cost.end(rows)
    row = _bytes(task.q, h.q_row)
    for count, is_one in {(int(count), bool(token == 1)) for count, token in zip(heads, tokens, strict=True)}:
        mine = (heads == count) & ((tokens == 1) == is_one)
        run = row if is_one else _bytes(task.q, count * h.group * h.head_dim)
        for kind, write in ((_LOAD_Q, False), (_STORE, True)):
            floats[mine, kind] = _moves(ints[mine, _PACKED], run, row, write, site)
    return ints, floats


def _moves(nbytes: Ints, run: int, stride: int, write: bool, site: Site) -> Floats:
    """Transfers of windows of runs of *run* bytes, *stride* bytes apart."""
    rates, windows = site.target.rates, site.target.windows
    rate = rates.write_bytes_per_s if write else rates.read_bytes_per_s
    byte_ps = (1 - rates.pause_s / rates.pause_every_s) * PS_PER_S / rate
    cost = np.zeros((len(nbytes), F_SIZE))
    cost[:, F_STREAM] = nbytes * (byte_ps / windows.share(run, stride, write))
    cost[:, F_FOLDS] = 0.0 if write else nbytes * (byte_ps / windows.share(run, stride, write, alone=True))
    return cost
