"""The cost model of the search: what a plan of a matrix product takes, in closed form, for many plans at once.

Every unit works through its records in order and they overlap: the time is that of the busiest unit, plus filling (the first
tiles) and draining (the last block's epilogue and store). The counts are those of the records that ``gemm.lower_gemm`` writes and
the rates those that the engine charges; ``tests/mapping/test_search.py`` holds the estimate against simulated times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arch.systolic import SystolicConfig, gemm_accesses, gemm_times
from .gemm_space import GemmTask, Ints, Plans
from .target import Site

Floats = npt.NDArray[np.float64]
#: Lane operations that unpacking one element takes; see ``arch.vector.FUNCTION_OPS``.
DEQUANTIZE_OPS = 2
#: Share of a model's operators that begin with no weights waiting on chip. ASSUMED: one in eight (the first of a run, and those
#: after others whose weights took all of the memory's time); overturned by a model that another share makes faster.
COLD = 1 / 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """The predicted costs of plans: seconds of each resource, bytes at each level, energy, records."""

    seconds: Floats
    arrays_s: Floats
    lanes_s: Floats
    memory_s: Floats
    fill_s: Floats
    drain_s: Floats
    a_bytes: Ints                                      # from DRAM
    b_bytes: Ints
    c_bytes: Ints                                      # to DRAM
    sram_bytes: Ints
    energy_j: Floats
    records: Ints

    @property
    def dram_bytes(self) -> Ints:
        """All bytes to and from DRAM."""
        return self.a_bytes + self.b_bytes + self.c_bytes

    @classmethod
    def joined(cls, parts: Sequence[Estimate]) -> Estimate:
        """Several estimates, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def at(self, index: int) -> dict[str, float]:
        """The costs of one plan as plain numbers."""
        return {field.name: getattr(self, field.name)[index].item() for field in fields(self)}

    def score(self, site: Site) -> Floats:
        """What the search makes small. Between other operators most filling is hidden."""
        seconds = self.seconds - (1 - COLD) * self.fill_s if site.contended else self.seconds
        return {"latency": seconds, "energy": self.energy_j, "edp": self.energy_j * seconds}[site.objective]

    def take(self, chosen: npt.NDArray[Any]) -> Estimate:
        """Those at *chosen*."""
        return Estimate(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def timed(self, seconds: Floats, site: Site) -> Estimate:
        """The same plans, taking *seconds*."""
        energy = self.energy_j + site.target.rates.static_w * (seconds - self.seconds)
        return replace(self, seconds=seconds, energy_j=energy, fill_s=np.zeros_like(seconds))


@dataclass(frozen=True, slots=True)
class _Work:
    """Sums over all records of a plan: cycles of arrays and lanes, bytes at the scratchpad."""

    arrays: Floats
    lanes: Floats
    sram_bytes: Floats
    first: Floats                                      # cycles before the first product streams
    last: Floats                                       # cycles of a whole tile's product


def traffic(p: Plans, task: GemmTask) -> tuple[Ints, Ints, Ints]:
    """Bytes of A and B read from DRAM and of C written to it."""
    m_blocks, n_blocks = -(-task.m // p.m_tile), -(-task.n // p.n_block)
    a = task.batch * task.a.bytes_for(task.m * task.k) * np.where(p.hold_a > 0, 1, n_blocks)
    b = task.batch * task.b.bytes_for(task.k * task.n) * np.where(p.hold_b > 0, 1, m_blocks)
    c = np.full(len(p), task.batch * task.c.bytes_for(task.m * task.n))
    return a * (not task.a_resident), b * (not task.b_resident), c * (not task.c_resident)


def shares(p: Plans, task: GemmTask, site: Site, alone: bool = False) -> Floats:
    """[plans, 3]: the share of the memory's rate that windows of A, B and C get, several in flight or each *alone*."""
    windows = site.target.windows
    return _of_windows(p, task, lambda run_bytes, stride_bytes, write: windows.share(run_bytes, stride_bytes, write, alone))


def _of_windows(p: Plans, task: GemmTask, ask: Callable[[int, int, bool], float]) -> Floats:
    """[plans, 3]: what *ask* tells of the windows of A, B and C: bytes of a run, from one to the next, whether written."""
    found = np.ones((len(p), 3))

    def fill(column: int, sizes: Ints, extent: int, bits: float, write: bool) -> None:
        for size in np.unique(sizes):
            if size < extent:
                found[sizes == size, column] = ask(max(1, int(size * bits / 8)), max(1, int(extent * bits / 8)), write)

    if not task.a_resident and task.m > 1:
        fill(0, p.k_tile, task.k, task.a.bits, False)
    if not task.b_resident and not task.b_blocked:
        bits = float(task.b.bits_per_element)
        fill(1, p.k_tile, task.k, bits, False) if task.transposed else fill(1, p.n_tile, task.n, bits, False)
    if not task.c_resident and task.m > 1:
        fill(2, p.n_block, task.n, task.c.bits, True)
    return found


def uneven(p: Plans, task: GemmTask, stripe_bytes: int) -> Ints:
    """How many operands in DRAM move in tiles that are no whole number of stripes, so that channels are asked different things."""
    def ragged(sizes: Ints, extent: int, bits: float) -> Ints:
        return np.asarray((sizes < extent) & ((sizes * bits / 8) % stripe_bytes != 0), dtype=np.int64)

    found = np.zeros(len(p), dtype=np.int64)
    if not task.a_resident:
        found = found + ragged(p.k_tile, task.k, task.a.bits)
    if not task.b_resident:
        bits = float(task.b.bits_per_element)
        along = p.k_tile * p.n_tile if task.b_blocked else p.k_tile if task.transposed else p.n_tile
        found = found + ragged(along, task.k * task.n if task.b_blocked else task.k if task.transposed else task.n, bits)
    if not task.c_resident:
        found = found + ragged(p.n_block, task.n, task.c.bits)
    return found


def bound_seconds(p: Plans, task: GemmTask, site: Site) -> Floats:
    """A time that no run of the plan can beat: its MACs at the peak of its unit, its bytes at the sustained rate."""
    target = site.target
    a, b, c = traffic(p, task)
    macs = task.batch * task.m * task.k * task.n
    products_s = np.where(p.on_arrays > 0, macs / target.array.peak_macs_per_s, target.lanes.product_s(macs))
    return np.maximum(products_s, (a + b) / target.rates.read_bytes_per_s + c / target.rates.write_bytes_per_s)


def estimate(p: Plans, task: GemmTask, site: Site) -> Estimate:
    """The costs of the plans *p*."""
    target, rates = site.target, site.target.rates
    a_bytes, b_bytes, c_bytes = traffic(p, task)
    loads_a, loads_b, records, lanes_cycles, lane_bytes, last_epilogue = _movement(p, task, site)
    work = _products(p, task, site)
    lanes = np.where(p.on_arrays > 0, 0.0, work.lanes) + lanes_cycles
    arrays_s, lanes_s = work.arrays / target.array.clock_hz, lanes / target.lanes.clock_hz
    share = shares(p, task, site)
    memory_s = np.maximum((a_bytes / share[:, 0] + b_bytes / share[:, 1]) / rates.read_bytes_per_s
                          + c_bytes / share[:, 2] / rates.write_bytes_per_s,
                          np.maximum(loads_a * (not task.a_resident), loads_b * (not task.b_resident)) * rates.issue_s)
    first_b = np.minimum(p.k_tile * p.n_tile, task.k * task.n) * float(task.b.bits_per_element) / 8 * (not task.b_resident)
    first_a = p.m_tile * p.k_tile * task.a.bits / 8 * (not task.a_resident)
    loads = (not task.a_resident) or (not task.b_resident)
    unpack = DEQUANTIZE_OPS * p.k_tile * p.n_tile / target.lanes.lanes / target.lanes.clock_hz if task.unpacks else 0.0
    unit_hz = np.where(p.on_arrays > 0, target.array.clock_hz, target.lanes.clock_hz)
    fill_s = loads * rates.latency_s + (first_a + first_b) / rates.read_bytes_per_s + unpack + work.first / unit_hz
    busiest = np.maximum(np.maximum(arrays_s, lanes_s), memory_s)
    last_s = np.where(memory_s >= busiest, work.last / unit_hz, 0.0)
    stored = p.m_tile * p.n_block * task.c.bits / 8 * (not task.c_resident)
    drain_s = last_s + last_epilogue / target.lanes.clock_hz + np.minimum(stored, c_bytes) / rates.write_bytes_per_s
    seconds = busiest - np.minimum(fill_s, memory_s * (memory_s >= busiest)) + fill_s + drain_s
    sram = work.sram_bytes + lane_bytes + a_bytes + b_bytes + c_bytes
    moved = _of_windows(p, task, lambda run_bytes, stride_bytes, write: target.windows.moved(run_bytes, stride_bytes))
    dram = a_bytes * moved[:, 0] + b_bytes * moved[:, 1] + c_bytes * moved[:, 2]
    macs = task.batch * task.m * task.k * task.n
    array_pj = max((target.array.mac_energy_pj.get(d.name, 0.0) for d in (task.a, task.b)), default=0.0)
    mac_pj = np.where(p.on_arrays > 0, array_pj, target.lanes.mac_energy_pj)
    energy = 1e-12 * (macs * mac_pj + sram * rates.sram_pj_per_byte + dram * rates.dram_pj_per_byte
                      + lanes_cycles * target.lanes.lanes * target.lanes.op_energy_pj) + rates.static_w * seconds
    return Estimate(seconds, arrays_s, lanes_s, memory_s, fill_s, drain_s, a_bytes, b_bytes, c_bytes, sram.astype(np.int64), energy,
                    records)


def _movement(p: Plans, task: GemmTask, site: Site) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Loads of A and of B, all records, cycles of unpacking and epilogues, their scratchpad bytes, the last epilogue's cycles."""
    target, room = site.target, site.room
    m_blocks, n_blocks = -(-task.m // p.m_tile), -(-task.n // p.n_block)
    k_tiles, n_tiles = -(-task.k // p.k_tile), -(-task.n // p.n_tile)
    loads_a = task.batch * m_blocks * k_tiles * np.where(p.hold_a > 0, 1, n_blocks)
    loads_b = task.batch * k_tiles * n_tiles * np.where(p.hold_b > 0, 1, m_blocks)
    port = target.rates.port_bytes_per_s / target.lanes.clock_hz
    lanes, latency = target.lanes.lanes, target.lanes.latency_cycles
    columns = np.minimum(p.n_block, task.n)
    rows_at_once = p.m_tile if task.c_resident else np.maximum(1, room.vector_bytes // 8 * 8 // task.c.bits // columns)
    chunks = -(-p.m_tile // np.minimum(rows_at_once, p.m_tile))
    read, written = 4.0 * p.split_k, task.c.bits / 8
    per_element = np.maximum(1.0 * p.split_k / lanes, np.maximum(read, written) / port)
    elements = float(task.batch * task.m * task.n)
    blocks = task.batch * m_blocks * n_blocks
    cycles = elements * per_element + blocks * chunks * latency
    moved = elements * (read + written)
    records = (loads_a * (not task.a_resident) + loads_b * (not task.b_resident) + task.batch * m_blocks * k_tiles * n_tiles
               + blocks * chunks * (1 if task.c_resident else 2))
    if task.unpacks:
        each = (task.k * task.n) * task.batch * (loads_b / (task.batch * k_tiles * n_tiles))
        cycles = cycles + each * DEQUANTIZE_OPS / lanes + loads_b * latency
        moved = moved + each * (float(task.b.bits_per_element) / 8 + task.a.bits / 8)
        records = records + loads_b
    last = p.m_tile * columns * per_element + latency
    return loads_a, loads_b, records, cycles, moved, last


def _pieces(extent: int, size: Ints) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """(size, how many) of the full tiles, and of the ragged last one (size 1 where there is none)."""
    full, rest = extent // size, extent % size
    return (np.minimum(size, extent), full), (np.maximum(rest, 1), (rest > 0).astype(np.int64))


def _products(p: Plans, task: GemmTask, site: Site) -> _Work:
    """The tile products: full and ragged in each extent, eight kinds at most."""
    target = site.target
    array, lanes = target.array, target.lanes
    total = np.zeros(len(p))
    lane_total, sram, first, last = np.zeros(len(p)), np.zeros(len(p)), np.zeros(len(p)), np.zeros(len(p))
    port = target.rates.port_bytes_per_s / array.clock_hz
    lane_port = target.rates.port_bytes_per_s / lanes.clock_hz
    b_bits = float(task.a.bits if task.unpacks else task.b.bits_per_element)
    for m, m_count in _pieces(task.m, p.m_tile):
        for k, k_count in _pieces(task.k, p.k_tile):
            for n, n_count in _pieces(task.n, p.n_tile):
                count = task.batch * m_count * k_count * n_count
                if not count.any():
                    continue
                preload, interval, alone, reads, writes = _tile(np.where(p.swap, n, m), k, np.where(p.swap, m, n),
                                                                np.where(p.swap, b_bits, task.a.bits),
                                                                np.where(p.swap, task.a.bits, b_bits), array)
                stretch = np.maximum(0.0, np.maximum(reads, writes) / port - alone)
                lane_reads, lane_writes = (m * k * task.a.bits + k * n * b_bits) / 8 + 4 * m * n, 4 * m * n
                on_lanes = lanes.latency_cycles + np.maximum(m * k * n / lanes.lanes,
                                                              np.maximum(lane_reads, lane_writes) / lane_port)
                total += count * (interval + stretch)
                lane_total += count * on_lanes
                sram += count * np.where(p.on_arrays, reads + writes, lane_reads + lane_writes)
                if not last.any():
                    first, last = np.where(p.on_arrays, preload, 0.0), np.where(p.on_arrays, alone + stretch, on_lanes)
    # Sums that a further k tile adds to are read back; those of the lanes were counted with each of their products.
    added_to = np.where(p.on_arrays, -(-task.k // p.k_tile), 0) - p.split_k
    return _Work(total * p.on_arrays, lane_total, sram + 4.0 * task.batch * task.m * task.n * added_to, first, last)


def _tile(m: Any, k: Any, n: Any, a_bits: Any, b_bits: Any, array: SystolicConfig) -> tuple[Any, Any, Any, Any, Any]:
    """(preload, cycles until the next product may follow, cycles alone, bytes read, bytes written) of one product on the arrays."""
    times = gemm_times(m, k, n, array)
    interval = times.last_start - times.first_start + np.maximum(times.next_stream, times.next_preload + times.first_start)
    words = gemm_accesses(m, k, n, rows=array.rows, cols=array.cols, dataflow=array.dataflow)
    reads = (words.input_reads * a_bits + words.weight_reads * b_bits) / 8 + 4 * words.output_reads
    return times.first_start, interval, times.end, reads, 4 * words.output_writes
