"""What tiles of flash attention cost: each record exactly, for the timeline, and whole plans in closed form, for many at once.

The costs of records are those that the engine charges (``arch.costs``): fold arithmetic, lane operations, bytes at the scratchpad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arch.systolic import gemm_accesses, gemm_times
from ..arch.systolic_folds import spatial_and_temporal
from ..arch.vector import FUNCTION_OPS
from ..sim.units import PS_PER_S
from .attention_space import AttentionTask
from .attention_tiles import AttentionTile
from .gemm_estimate import COLD, Floats
from .gemm_space import Ints
from .target import Site
from .timeline import F_DRAIN, F_FOLDS, F_NEXT_PRELOAD, F_NEXT_STREAM, F_PRELOAD, F_READ, F_SIZE, F_STREAM, F_WRITTEN

#: Bytes of a score, a partial sum, a running maximum.
FP32_BYTES = 4
#: Simple lane operations of the online softmax on each score; see ``arch.vector.lane_ops``.
_SOFTMAX_OPS = 4


class RecordCosts:
    """The costs of the records of a tile, as rows of a timeline: *heads* KV heads of the group, *rows* queries, *keys* keys.

    All arguments may be arrays of one shape; the answers then are [..., F_SIZE].
    """

    def __init__(self, task: AttentionTask, site: Site, on_arrays: bool) -> None:
        self.task, self.site, self.on_arrays = task, site, on_arrays
        self._array_ps, self._lane_ps = PS_PER_S / site.target.array.clock_hz, PS_PER_S / site.target.lanes.clock_hz

    def product(self, heads: Any, m: Any, k: Any, n: Any, b_bits: float, accumulates: bool) -> Floats:
        """*heads* products [m, k]·[k, n] of q's format with one of *b_bits*."""
        a_bits = self.task.q.bits
        if not self.on_arrays:
            reads = heads * ((m * k * a_bits + k * n * b_bits) / 8 + FP32_BYTES * m * n * accumulates)
            return self.lanes(heads * m * k * n, reads, FP32_BYTES * heads * m * n)
        array = self.site.target.array
        m, k, n = (np.asarray(extent, dtype=np.int64) for extent in (m, k, n))
        times = gemm_times(m, k, n, array, heads)
        stream = spatial_and_temporal(m, k, n, array.dataflow)[2]
        words = gemm_accesses(m, k, n, rows=array.rows, cols=array.cols, dataflow=array.dataflow)
        found = np.zeros((*np.shape(times.end), F_SIZE))
        for column, cycles in ((F_PRELOAD, times.first_start), (F_FOLDS, times.last_start - times.first_start), (F_STREAM, stream),
                               (F_DRAIN, times.end - times.last_start - stream), (F_NEXT_STREAM, times.next_stream),
                               (F_NEXT_PRELOAD, times.next_preload)):
            found[..., column] = cycles * self._array_ps
        found[..., F_READ] = heads * ((words.input_reads * a_bits + words.weight_reads * b_bits) / 8
                                      + FP32_BYTES * (words.output_reads + m * n * accumulates))
        found[..., F_WRITTEN] = heads * FP32_BYTES * words.output_writes
        return found

    def softmax(self, scores: Any, rows: Any, is_first: bool) -> Floats:
        """The online softmax of *scores* scores in *rows* rows (of all heads); all but the first rescale the output."""
        rescaled = 0 if is_first else (2 + self.task.heads.head_dim) * rows
        ops = scores * (_SOFTMAX_OPS + self.site.target.lanes.exp_ops) + rescaled
        carried = 0 if is_first else self.task.heads.head_dim * rows
        written = scores * self.task.q.bits / 8 + FP32_BYTES * (2 * rows + carried)
        return self.lanes(ops, FP32_BYTES * (scores + rescaled), written)

    def end(self, rows: Any) -> Floats:
        """The division by the sums."""
        elements = rows * self.task.heads.head_dim
        simple, _ = FUNCTION_OPS["online_softmax_end"]
        ops = elements * simple + rows * self.site.target.lanes.exp_ops
        return self.lanes(ops, FP32_BYTES * (elements + rows), elements * self.task.q.bits / 8)

    def per_element(self, function: str, elements: Any, read_bits: float, written_bits: float) -> Floats:
        """A function of the lanes without special operations."""
        return self.lanes(elements * FUNCTION_OPS[function][0], elements * read_bits / 8, elements * written_bits / 8)

    def lanes(self, ops: Any, read: Any, written: Any) -> Floats:
        """*ops* lane operations that read and write so many bytes."""
        lanes = self.site.target.lanes
        found = np.zeros((*np.shape(ops), F_SIZE))
        found[..., F_STREAM] = (-(-np.asarray(ops) // lanes.lanes) + lanes.latency_cycles) * self._lane_ps
        found[..., F_READ], found[..., F_WRITTEN] = read, written
        return found

    def interval_s(self, cost: Floats) -> Any:
        """Seconds from one record of that cost on its unit to the next alike, the ports' share included."""
        ports_ps = np.maximum(cost[..., F_READ], cost[..., F_WRITTEN]) / self.site.target.rates.port_bytes_per_s * PS_PER_S
        follows = np.maximum(cost[..., F_NEXT_STREAM], cost[..., F_NEXT_PRELOAD] + cost[..., F_PRELOAD])
        alone = cost[..., F_FOLDS] + np.maximum(cost[..., F_STREAM], follows)
        return np.maximum(alone, ports_ps) / PS_PER_S


def alone_s(cost: Floats) -> Any:
    """Seconds from the start of a record to its end."""
    return cost[..., [F_PRELOAD, F_FOLDS, F_STREAM, F_DRAIN]].sum(axis=-1) / PS_PER_S


@dataclass(frozen=True, slots=True)
class AttentionEstimate:
    """The predicted costs of tiles: seconds of each resource, bytes at each level, energy, records."""

    seconds: Floats
    arrays_s: Floats
    lanes_s: Floats
    memory_s: Floats
    chain_s: Floats                                    # of each tile of queries' softmax and product one after the other
    fill_s: Floats
    drain_s: Floats
    q_bytes: Floats
    kv_bytes: Floats
    out_bytes: Floats
    sram_bytes: Floats
    energy_j: Floats
    records: Floats

    @property
    def dram_bytes(self) -> Floats:
        """All bytes to and from DRAM."""
        return self.q_bytes + self.kv_bytes + self.out_bytes

    def score(self, site: Site) -> Floats:
        """What the search makes small. Between other operators most filling is hidden, but no unit is faster than its work."""
        seconds = self.seconds
        if site.contended:
            busiest = np.minimum(seconds, np.maximum(np.maximum(self.arrays_s, self.lanes_s), self.memory_s))
            seconds = np.maximum(seconds - (1 - COLD) * self.fill_s, busiest)
        return {"latency": seconds, "energy": self.energy_j, "edp": self.energy_j * seconds}[site.objective]

    def take(self, chosen: npt.NDArray[Any]) -> AttentionEstimate:
        """Those at *chosen*."""
        return AttentionEstimate(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def at(self, index: int) -> dict[str, float]:
        """The costs of one tile as plain numbers."""
        return {field.name: float(getattr(self, field.name)[index]) for field in fields(self)}

    def timed(self, seconds: Floats, site: Site) -> AttentionEstimate:
        """The same tiles, taking *seconds*."""
        return replace(self, seconds=seconds, energy_j=self.energy_j + site.target.rates.static_w * (seconds - self.seconds))

    @classmethod
    def joined(cls, parts: Sequence[AttentionEstimate]) -> AttentionEstimate:
        """Several estimates, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def keys_seen(task: AttentionTask, q_tile: int) -> tuple[Ints, Ints]:
    """[cached before the run's own rows, behind them, the run's own] keys of each tile of queries [tiles, 3], and its rows."""
    first = np.arange(0, task.q_tokens, q_tile, dtype=np.int64)
    rows = np.minimum(q_tile, task.q_tokens - first)
    position = task.kv_tokens - task.q_tokens + first
    masked = task.causal and task.q_tokens > 1
    high = position + rows if masked else np.full_like(first, task.kv_tokens)
    low = np.maximum(0, position - task.window + 1) if task.causal and task.window is not None else np.zeros_like(first)
    begin, end = (task.kv_tokens, task.kv_tokens) if task.slot is None else (task.slot, task.slot + task.q_tokens)
    pieces = (np.minimum(begin, high) - low, high - np.maximum(low, end), np.minimum(end, high) - np.maximum(low, begin))
    return np.maximum(0, np.stack(pieces, axis=1)), rows


def estimate(tiles: Sequence[AttentionTile], task: AttentionTask, site: Site) -> AttentionEstimate:
    """The costs of *tiles*."""
    on_arrays = np.array([tile.unit == site.target.mxu for tile in tiles], dtype=bool)
    parts = {unit: _estimate([tile for tile, mine in zip(tiles, on_arrays, strict=True) if mine == unit], task, site, unit)
             for unit in {*on_arrays.tolist()}}
    order = np.empty(len(tiles), dtype=np.int64)
    order[np.concatenate([np.flatnonzero(on_arrays == unit) for unit in parts])] = np.arange(len(tiles))
    return AttentionEstimate.joined(list(parts.values())).take(order)


def _estimate(tiles: Sequence[AttentionTile], task: AttentionTask, site: Site, on_arrays: bool) -> AttentionEstimate:
    h, rates, cost = task.heads, site.target.rates, RecordCosts(task, site, on_arrays)
    heads, q_tile, kv_tile, ways = (np.array([getattr(tile, name) for tile in tiles], dtype=np.int64)
                                    for name in ("heads", "q_tokens", "kv_tokens", "ways"))
    seen = {size: keys_seen(task, size) for size in {*q_tile.tolist()}}
    keys, spans, new = np.zeros(len(tiles)), np.zeros(len(tiles)), np.zeros(len(tiles))
    for index, (size, along) in enumerate(zip(q_tile.tolist(), kv_tile.tolist(), strict=True)):
        pieces, _ = seen[size]
        keys[index], spans[index], new[index] = pieces.sum(), (-(-pieces // along)).sum(), pieces[:, 2].sum()
    groups = h.batch * h.kv_heads / heads                              # a ragged one counts as its share
    tiles_of_queries = task.q_tokens / q_tile
    share = tiles_of_queries / -(-task.q_tokens // q_tile)              # of the last tile of queries
    pairs = groups * spans * share
    count = np.maximum(1, np.ceil(keys / spans)).astype(np.int64)
    m = h.group * q_tile
    operand_bits = float(task.q.bits if task.unpacks else task.kv.bits_per_element)
    scores_cost = cost.product(heads, m, h.head_dim, count, operand_bits, False)
    sums_cost = cost.product(heads, m, count, h.head_dim, operand_bits, True)
    softmax_cost = cost.softmax(heads * m * count, heads * m, False)
    end_cost = cost.end(heads * m)
    unit_s = pairs * (cost.interval_s(scores_cost) + cost.interval_s(sums_cost))
    ends = groups * tiles_of_queries
    lanes_s = pairs * cost.interval_s(softmax_cost) + ends * cost.interval_s(end_cost)
    stored, produced = float(task.kv.bits_per_element) / 8, float(task.new.bits_per_element) / 8
    moved = groups * 2 * heads * h.head_dim                             # the last tile of queries loads all of its keys as well
    kv_bytes = moved * ((keys - new) * stored + new * produced * (not task.new_resident))
    unpacked = moved * ((keys - new) * task.unpacks + new * task.unpacks_new)
    lanes_s = lanes_s + unpacked * FUNCTION_OPS["dequantize"][0] / site.target.lanes.lanes / site.target.lanes.clock_hz
    elements = h.batch * task.q_tokens * h.q_row * np.ones(len(tiles))
    q_bytes, out_bytes = (elements * task.q.bits / 8 * (not here) for here in (task.q_resident, task.out_resident))
    memory_s = (kv_bytes + q_bytes) / rates.read_bytes_per_s + out_bytes / rates.write_bytes_per_s
    arrays_s = unit_s if on_arrays else np.zeros(len(tiles))
    lanes_s = lanes_s if on_arrays else lanes_s + unit_s
    chain_s = pairs * (alone_s(softmax_cost) + alone_s(sums_cost)) / ways if on_arrays else np.zeros(len(tiles))
    fill_s = (rates.latency_s + np.minimum(kv_bytes, heads * h.head_dim * count * stored) / rates.read_bytes_per_s
              + alone_s(scores_cost) + alone_s(softmax_cost))
    drain_s = alone_s(sums_cost) + alone_s(end_cost) + np.minimum(out_bytes, heads * m * h.head_dim * task.q.bits / 8
                                                                  ) / rates.write_bytes_per_s
    busiest = np.maximum(np.maximum(arrays_s, lanes_s), np.maximum(memory_s, chain_s))
    seconds = busiest * np.maximum(0.0, 1 - 1 / np.maximum(pairs, 1)) + fill_s + drain_s
    at_ports = sum(number * (one[..., F_READ] + one[..., F_WRITTEN])
                   for number, one in ((pairs, scores_cost), (pairs, sums_cost), (pairs, softmax_cost), (ends, end_cost)))
    sram = at_ports + kv_bytes + q_bytes + out_bytes + unpacked * (stored + task.q.bits / 8)
    macs = pairs * heads * 2 * m * count * h.head_dim
    mac_pj = site.target.array.mac_energy_pj.get(task.q.name, 0.0) if on_arrays else site.target.lanes.mac_energy_pj
    ops = pairs * heads * m * (count * (_SOFTMAX_OPS + site.target.lanes.exp_ops) + h.head_dim + 2) + elements
    energy = 1e-12 * (macs * mac_pj + sram * rates.sram_pj_per_byte + (kv_bytes + q_bytes + out_bytes) * rates.dram_pj_per_byte
                      + ops * site.target.lanes.op_energy_pj) + rates.static_w * seconds
    loads = 2 * (1 - new / np.maximum(keys, 1) * task.new_resident)
    records = pairs * (3 + loads + 2 * task.unpacks) + ends * (1 + (not task.q_resident) + (not task.out_resident))
    return AttentionEstimate(seconds, arrays_s, lanes_s, memory_s, chain_s, fill_s, drain_s, q_bytes, kv_bytes, out_bytes, sram,
                             energy, records)
