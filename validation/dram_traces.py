"""The request traces of the DRAM reference: patterns over one channel, by name, from a generator written out here.

Every trace is a list of channel-local burst indices with a kind (read or write) and the earliest cycle of offering. The index
packs row, bank, bank group, stack id, pseudo-channel and column, most significant first (``RoBaBgSidPcCo``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
#: Splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MAPPING = "RoBaBgSidPcCo"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of one channel as the reference writes them: ``COL,PC,SID,BG,BA,ROW,TX``."""

    columns: int
    pseudo_channels: int
    stack_ids: int
    bank_groups: int
    banks: int
    rows: int
    burst_bytes: int

    @classmethod
    def parse(cls, text: str) -> Geometry:
        return cls(*(int(part) for part in text.split(",")))


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of offering."""

    burst: Int64Array
    write: npt.NDArray[np.bool_]
    tick: Int64Array
    dependent: bool                     # each request waits for the data of the one before


class Random:
    """A splitmix64 stream read in whole arrays."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 1000003 + 17) & (2**64 - 1)

    def draws(self, count: int) -> npt.NDArray[np.uint64]:
        """The upper 32 bits of the next *count* numbers."""
        with np.errstate(over="ignore"):
            steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
            z = steps + np.uint64(self._state)
            self._state = (self._state + count * _GAMMA) & (2**64 - 1)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
            return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(32))


def _below(draw: npt.NDArray[np.uint64], n: int) -> Int64Array:
    return np.asarray((draw * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def _pack(
    g: Geometry, pc: Int64Array, sid: Int64Array, bg: Int64Array, ba: Int64Array, row: Int64Array, col: Int64Array,
) -> Int64Array:
    return ((((row * g.banks + ba) * g.bank_groups + bg) * g.stack_ids + sid) * g.pseudo_channels + pc) * g.columns + col


def _linear(g: Geometry, i: Int64Array) -> Int64Array:
    """Linear addresses: a row, then the next pseudo-channel, stack, group, bank."""
    per_row_index = g.columns * g.pseudo_channels * g.stack_ids * g.bank_groups * g.banks
    return i % (per_row_index * g.rows)


def _random(g: Geometry, source: Random, count: int, *, with_kind: bool) -> tuple[npt.NDArray[np.uint64], Int64Array]:
    """(the draw that decides the kind, packed random places); the kind is drawn before each place when it is drawn at all."""
    draws = source.draws(count * (7 if with_kind else 6)).reshape(count, -1)
    kind, place = (draws[:, 0], draws[:, 1:]) if with_kind else (draws[:, 0], draws)
    sizes = (g.pseudo_channels, g.stack_ids, g.bank_groups, g.banks, g.rows, g.columns)
    pc, sid, bg, ba, row, col = (_below(place[:, k], size) for k, size in enumerate(sizes))
    return kind, _pack(g, pc, sid, bg, ba, row, col)


def make_trace(kind: str, g: Geometry, count: int, seed: int = 1) -> Trace:
    """The trace named *kind*; ValueError for a name that is none."""
    i = np.arange(count, dtype=np.int64)
    zero = np.zeros(count, np.int64)
    all_write = np.full(count, kind.endswith("_wr"))
    source = Random(seed)
    if kind in ("seq_rd", "seq_wr"):
        return Trace(_linear(g, i), all_write, zero, False)
    if kind in ("bgi_rd", "bgi_wr"):
        j, pc = np.divmod(i, g.pseudo_channels)
        j, bg = np.divmod(j, g.bank_groups)
        j, col = np.divmod(j, g.columns)
        j, sid = np.divmod(j, g.stack_ids)
        j, ba = np.divmod(j, g.banks)
        return Trace(_pack(g, pc, sid, bg, ba, j % g.rows, col), all_write, zero, False)
    if kind in ("hit_rd", "hit_wr"):
        return Trace(_pack(g, zero, zero, zero, zero, zero + 5, i % g.columns), all_write, zero, False)
    if kind in ("rand_rd", "rand_wr"):
        return Trace(_random(g, source, count, with_kind=False)[1], all_write, zero, False)
    if kind in ("rowstride_rd", "rowstride_wr"):
        return Trace(_pack(g, zero, zero, zero, zero, i % g.rows, i % g.columns), all_write, zero, False)
    if kind in ("bankstride_rd", "bankstride_wr"):
        j, pc = np.divmod(i, g.pseudo_channels)
        j, bg = np.divmod(j, g.bank_groups)
        j, ba = np.divmod(j, g.banks)
        return Trace(_pack(g, pc, zero, bg, ba, j % g.rows, j % g.columns), all_write, zero, False)
    if kind == "pingpong_rd":
        return Trace(_pack(g, zero, zero, zero, zero, 7 + (i & 1), (i >> 1) % g.columns), all_write, zero, False)
    if kind in ("mix50_rand", "mix67_rand"):
        draw, burst = _random(g, source, count, with_kind=True)
        return Trace(burst, _below(draw, 2 if kind == "mix50_rand" else 3) == 0, zero, False)
    if kind in ("mix50_seq", "mix67_seq"):
        return _mixed_streams(g, i, 2 if kind == "mix50_seq" else 3)
    if kind.startswith("chase_"):
        return _chase(kind, g, i, source)
    if kind.startswith("paced_"):
        read_pct, interval = (int(part) for part in kind.split("_")[1:])
        draw, burst = _random(g, source, count, with_kind=True)
        return Trace(burst, _below(draw, 100) >= read_pct, i * interval, False)
    raise ValueError(f"no trace is named {kind!r}")


def _mixed_streams(g: Geometry, i: Int64Array, period: int) -> Trace:
    """Two linear streams: of every *period* requests the last is a write, half the rows away."""
    write = i % period == period - 1
    writes_before, reads_before = np.cumsum(write) - write, np.cumsum(~write) - ~write
    burst = _linear(g, np.where(write, writes_before, reads_before))
    per_row = g.columns * g.pseudo_channels * g.stack_ids * g.bank_groups * g.banks
    row, rest = np.divmod(burst, per_row)
    row = np.where(write, (row + g.rows // 2) % g.rows, row)
    return Trace(row * per_row + rest, write, np.zeros_like(i), False)


def _chase(kind: str, g: Geometry, i: Int64Array, source: Random) -> Trace:
    """Dependent reads: one row, one bank with a new row each, every bank in turn, or anywhere."""
    zero = np.zeros_like(i)
    reads = np.zeros(len(i), bool)
    if kind == "chase_hit":
        burst = _pack(g, zero, zero, zero, zero, zero + 9, i % g.columns)
    elif kind == "chase_conf":
        burst = _pack(g, zero, zero, zero, zero, i % g.rows, i % g.columns)
    elif kind == "chase_bank":
        burst = _pack(g, zero, zero, i % g.bank_groups, (i // g.bank_groups) % g.banks,
                      (i // (g.bank_groups * g.banks)) % g.rows, i % g.columns)
    elif kind == "chase_rand":
        burst = _random(g, source, len(i), with_kind=False)[1]
    else:
        raise ValueError(f"no trace is named {kind!r}")
    return Trace(burst, reads, zero, True)
