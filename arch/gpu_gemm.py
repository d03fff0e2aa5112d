"""Matrix multiplication on a GPU: thread-block tiles from the library's menu, in waves over the SMs.

out[m, n] = in[m, k] · w[k, n], `batch` times. A thread block owns one (tile_m × tile_n) output tile, or with split-K one
part of its reduction. It streams k-slices of both operands through shared memory, so its main loop runs at the slowest of
the math pipe, the SM's port to L2, and the loads that shared memory can keep in flight (Little's law). Tiles are dealt to
SMs in rounds; the SM with the most tiles decides. Between the tiles of a round L2 shares operand slabs, which sets the
DRAM traffic. The library's heuristic is taken to pick the fastest entry of its menu.

All arguments may be numpy arrays of one length: candidates are a second axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .gpu_config import ELEMENT_BYTES, QUANTISED, Gpu
from .gpu_kernel import (
    THREAD_BLOCK_START_S,
    Array,
    KernelTime,
    KernelWork,
    allowed_clock_share,
    allowed_seconds,
    busy_seconds,
    choose,
    l2_miss_share,
    run,
)

#: Split factors that libraries offer; stream-K behaves like the best of them.
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
#: SGEMM libraries split little: 64 tiles of 4096 products on 108 SMs take two thirds of the unsplit time, not less.
SIMT_SPLITS = (1, 2, 3)
#: Bytes of k that one pipeline stage holds for each row and column of the tile (128-byte swizzled shared-memory rows).
STAGE_K_BYTES = 128
#: A split part shorter than this many stages is not offered.
_SHORTEST_SPLIT_STAGES = 4
#: Nor does SGEMM split reductions of about 1000, whose second kernel would cost what it saves: parts hold as many products as
#: this at least. Read off the measured rows of four architectures, Pascal to Ada; 768 to 1024 fit them alike.
_SHORTEST_SIMT_SPLIT = 1024
#: Bytes of k in the slices that kernels without tensor cores work on: 8 products in fp32 (CUTLASS `simt_sgemm_128x128_8x2`). While
#: one is multiplied the next one is loaded, and no further one (double buffer: Lai and Seznec, CGO 2013): a block that has an SM to
#: itself waits for its loads where the products of a slice take less than they.
_SIMT_SLICE_BYTES = 32.0
#: fp32 kernels without tensor cores: threads along each side of a tile, and the products per operand load at which the
#: lanes are full: 6 × 6 per thread and more (Volkov and Demmel, SC 2008; Lai and Seznec, CGO 2013, on register blocking).
_SIMT_THREADS, _SIMT_FULL_RATIO = 16.0, 3.0
#: Tiles so narrow take half as many threads along that side, so that each keeps a block of products.
_SIMT_NARROW = 32.0
#: Accumulators are fp32.
_ACCUMULATOR_BYTES = 4
#: The tile that `tile_overhead_us` is stated for: a prologue fills, and an epilogue drains, in proportion to the area.
_OVERHEAD_TILE = 128.0 * 128.0
#: Resident thread blocks an SM is given at most by GEMM kernels.
_MOST_RESIDENT = 4
#: Share of L2 that one kernel's operand slabs can hold between rounds; the rest streams through. ASSUMED; a wrong value
#: moves only GEMMs whose slabs lie near the size of L2.
_SLAB_SHARE_OF_L2 = 0.5


@dataclass(frozen=True, slots=True)
class Menu:
    """The candidates as arrays of one length: tile shape and split factor."""

    tile_m: Array
    tile_n: Array
    split: Array


def menu(gpu: Gpu, dtype: str) -> Menu:
    """What the library ships for *dtype* on this architecture."""
    architecture = gpu.architecture
    tiles = architecture.tiles if gpu.runs_on_tensor_cores(dtype) else architecture.simt_tiles
    tiles = architecture.tiles_by_dtype.get(dtype, tiles)
    offered: tuple[int, ...] = SPLITS if gpu.runs_on_tensor_cores(dtype) else SIMT_SPLITS
    splits = (1,) if dtype in architecture.no_split_k else offered
    entries = np.array([(tm, tn, s) for tm, tn in tiles for s in splits], dtype=float)
    return Menu(entries[:, 0], entries[:, 1], entries[:, 2])


#: (core seconds, DRAM seconds, L2 bytes, DRAM bytes, issued FLOPs) of menu entries, each [problem, candidate].
_Candidates = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Problem sizes as a column, to broadcast against the menu's row."""

    m: Array
    n: Array
    k: Array
    batch: Array
    in_bytes: float
    weight_bytes: float
    out_bytes: float


def gemm_work(
    gpu: Gpu, m: ArrayLike, n: ArrayLike, k: ArrayLike, *, batch: ArrayLike = 1, dtype: str = "bf16",
    l2_warm: ArrayLike = False, groups: ArrayLike = 1,
) -> KernelWork:
    """The work of the best menu entry. *groups* > 1 makes a grouped GEMM: as many problems of m × n × k in one launch."""
    m, n, k, count, warm = (np.atleast_1d(np.asarray(a, dtype=float)) for a in
                            np.broadcast_arrays(m, n, k, np.asarray(batch, dtype=float) * np.asarray(groups), l2_warm))
    shapes = _Shapes(m[:, None], n[:, None], k[:, None], count[:, None], *_operand_bytes(dtype))
    entries = menu(gpu, dtype)
    candidates = _candidates(gpu, shapes, entries, dtype, warm[:, None] > 0)
    offered = _is_offered(gpu, shapes, entries, dtype)
    extra_s = np.broadcast_to(np.where(entries.split > 1, gpu.architecture.split_k_us * 1e-6, 0.0), offered.shape)
    pick = (np.arange(len(m)), _fastest(gpu, candidates, extra_s, offered, dtype))
    core_s, dram_s, l2_bytes, dram_bytes, issued = (part[pick] for part in candidates)
    start_s = (gpu.architecture.launch_us + gpu.library.host_gap_us) * 1e-6
    launch_s = np.full(len(m), start_s) + extra_s[pick]
    return KernelWork(launch_s, core_s, dram_s, 2.0 * count * m * n * k, issued, dram_bytes, l2_bytes, dtype)


def _fastest(gpu: Gpu, candidates: _Candidates, extra_s: Array, offered: NDArray[np.bool_], dtype: str) -> NDArray[np.int64]:
    """The menu entry of each problem that takes the least time at the clock that power allows *it*. No entry is faster than at full
    clock, so only those whose time there is below the best one's own under the limit can win: mostly that one alone."""
    full_s = np.where(offered, busy_seconds(_work_of(candidates, dtype), 1.0) + extra_s, np.inf)
    best: NDArray[np.int64] = np.argmin(full_s, axis=1)
    rows = np.arange(len(best))
    first = _work_of(tuple(part[rows, best] for part in candidates), dtype)
    share = allowed_clock_share(gpu, first)
    limited = share < 1.0
    if not np.any(limited):
        return best
    limited_s = allowed_seconds(gpu, first, share) + extra_s[rows, best]
    chosen = np.where((full_s < limited_s[:, None]) & limited[:, None])
    rivals = _work_of(tuple(part[chosen] for part in candidates), dtype)
    final_s = np.full_like(full_s, np.inf)
    final_s[chosen] = allowed_seconds(gpu, rivals, allowed_clock_share(gpu, rivals)) + extra_s[chosen]
    final_s[rows, best] = limited_s
    result: NDArray[np.int64] = np.where(limited, np.argmin(final_s, axis=1), best)
    return result


def _work_of(candidates: _Candidates, dtype: str) -> KernelWork:
    core_s, dram_s, l2_bytes, dram_bytes, issued = candidates
    nothing = np.zeros_like(core_s)
    return KernelWork(nothing, core_s, dram_s, nothing, issued, dram_bytes, l2_bytes, dtype)


def _is_offered(gpu: Gpu, shapes: _Shapes, entries: Menu, dtype: str) -> NDArray[np.bool_]:
    """Which entries of the menu the library has for each problem: some have fewer fp32 kernels for batches."""
    batched = gpu.architecture.simt_batched_tiles
    if not batched or gpu.runs_on_tensor_cores(dtype):
        return np.ones(np.broadcast_shapes(shapes.m.shape, entries.split.shape), dtype=bool)
    in_menu = np.array([(m, n) in batched for m, n in zip(entries.tile_m, entries.tile_n, strict=True)])
    offered: NDArray[np.bool_] = (shapes.batch <= 1) | in_menu
    return offered


def gemm(
    gpu: Gpu, m: ArrayLike, n: ArrayLike, k: ArrayLike, *, batch: ArrayLike = 1, dtype: str = "bf16",
    l2_warm: ArrayLike = False, quantise: ArrayLike = True,
) -> KernelTime:
    """Time, power and energy of a GEMM. For 8- and 4-bit formats *quantise* adds the kernel that quantises the activations;
    engines that fuse it into the operator before say False."""
    work = gemm_work(gpu, m, n, k, batch=batch, dtype=dtype, l2_warm=l2_warm)
    if dtype in QUANTISED and np.any(quantise):
        work = choose(np.asarray(quantise, dtype=bool), _with_quantisation(gpu, work, m, k, batch, dtype, l2_warm), work)
    return run(gpu, work)


def _operand_bytes(dtype: str) -> tuple[float, float, float]:
    """Bytes an element of the activations, the weights and the output takes in memory."""
    weight = ELEMENT_BYTES[dtype]
    wide = 4.0 if dtype in ("fp32", "tf32") else 2.0
    activation = weight if dtype in (*QUANTISED, "int8") else wide
    return activation, weight, wide


def _candidates(
    gpu: Gpu, shapes: _Shapes, entries: Menu, dtype: str, warm: NDArray[np.bool_],
) -> _Candidates:
    tiles_m, tiles_n = np.ceil(shapes.m / entries.tile_m), np.ceil(shapes.n / entries.tile_n)
    k_bytes = shapes.k * max(shapes.in_bytes, shapes.weight_bytes)
    stages_of_k = np.ceil(k_bytes / STAGE_K_BYTES)
    shortest = float(_SHORTEST_SPLIT_STAGES)
    if not gpu.runs_on_tensor_cores(dtype):
        shortest = _SHORTEST_SIMT_SPLIT * max(shapes.in_bytes, shapes.weight_bytes) / STAGE_K_BYTES
    split = np.minimum(entries.split, np.maximum(1.0, stages_of_k // shortest))
    steps = np.ceil(stages_of_k / split)
    blocks = shapes.batch * tiles_m * tiles_n * split
    core_s = _core_seconds(gpu, shapes, entries, dtype, steps, blocks)

    # A cluster reads a slab of inputs once for its neighbours along n, one of weights for those along m, where there are any.
    in_reads, weight_reads = (tile / np.minimum(gpu.architecture.multicast, others) for tile, others in (
        (entries.tile_m, tiles_n), (entries.tile_n, tiles_m)))
    operand_bytes = steps * split * STAGE_K_BYTES * (in_reads + weight_reads)
    outputs = shapes.batch * shapes.m * shapes.n
    partial_bytes = np.where(split > 1, 2.0 * split * outputs * _ACCUMULATOR_BYTES, 0.0)
    l2_bytes = shapes.batch * tiles_m * tiles_n * operand_bytes + outputs * shapes.out_bytes + partial_bytes
    l2_rate = gpu.l2_bytes_per_s * gpu.architecture.gemm_l2_share
    core_s = np.maximum(core_s, l2_bytes / l2_rate)

    operands = shapes.batch * (shapes.m * shapes.k * shapes.in_bytes + shapes.k * shapes.n * shapes.weight_bytes)
    store_bytes = outputs * shapes.out_bytes
    read_misses = l2_miss_share(gpu, operands + store_bytes, warm, gpu.architecture.warm_weight_share)
    store_misses = l2_miss_share(gpu, store_bytes, warm)
    spilled = np.where(partial_bytes > _SLAB_SHARE_OF_L2 * gpu.device.l2_bytes, partial_bytes, 0.0)
    dram_bytes = read_misses * _read_bytes(gpu, shapes, entries, tiles_m, tiles_n) + store_misses * store_bytes + spilled
    dram_s = dram_bytes / gpu.dram_stream_bytes_per_s + read_misses * gpu.architecture.cold_start_us * 1e-6
    if not gpu.architecture.overlaps_epilogue(dtype) and gpu.runs_on_tensor_cores(dtype):
        # Loads, products and stores of a tile come one after another; all SMs store at much the same time.
        core_s = core_s + store_bytes * (store_misses / gpu.dram_stream_bytes_per_s + (1.0 - store_misses) / l2_rate)
    step_k = STAGE_K_BYTES / max(shapes.in_bytes, shapes.weight_bytes)
    issued = 2.0 * shapes.batch * tiles_m * entries.tile_m * tiles_n * entries.tile_n * np.maximum(
        shapes.k, steps * split * step_k)
    return tuple(np.broadcast_arrays(core_s, dram_s, l2_bytes, dram_bytes, issued))


def _core_seconds(
    gpu: Gpu, shapes: _Shapes, entries: Menu, dtype: str, steps: Array, blocks: Array,
) -> Array:
    """Time of the busiest SM at full clock: its tiles through the main loop, and the prologues and epilogues that show."""
    architecture, device = gpu.architecture, gpu.device
    cycle_s = 1.0 / device.clock_hz
    step_k = STAGE_K_BYTES / max(shapes.in_bytes, shapes.weight_bytes)
    rate = gpu.flops_per_cycle_per_sm(dtype) * gpu.matmul_efficiency(dtype) * (
        1.0 if gpu.runs_on_tensor_cores(dtype) else _simt_share(entries))
    math_s = 2.0 * entries.tile_m * entries.tile_n * step_k / rate * cycle_s
    step_bytes = (entries.tile_m * shapes.in_bytes + entries.tile_n * shapes.weight_bytes) * step_k
    port_s = step_bytes / architecture.sm_l2_bytes_per_cycle * cycle_s

    per_sm = np.ceil(blocks / device.sms)
    accumulators = entries.tile_m * entries.tile_n * _ACCUMULATOR_BYTES
    resident = np.clip(np.floor(architecture.registers_per_sm_bytes / accumulators), 1, _MOST_RESIDENT)
    resident = np.minimum(resident, per_sm)
    in_flight = np.clip(np.floor(architecture.shared_memory_per_sm_bytes / resident / step_bytes), 1.0,
                        architecture.pipeline_stages)
    if not gpu.runs_on_tensor_cores(dtype):
        in_flight = np.full_like(in_flight, _SIMT_SLICE_BYTES / STAGE_K_BYTES)
    latency_s = architecture.load_latency_us * 1e-6 / in_flight

    rounds = np.ceil(per_sm / resident)
    loop_s = np.maximum(per_sm * steps * np.maximum(math_s, port_s), rounds * steps * latency_s)
    exposed = 1.0 if architecture.overlaps_epilogue(dtype) else rounds
    exposed = exposed * (entries.tile_m * entries.tile_n / _OVERHEAD_TILE)
    skew_s = architecture.wave_skew * np.minimum(per_sm, 1.0 + resident) * steps * math_s
    tile_s = architecture.tile_overhead_us * 1e-6 * exposed
    result: Array = loop_s + skew_s + tile_s
    return result


def _simt_share(entries: Menu) -> Array:
    """Share of the fp32 lanes that a tile keeps busy: its threads each load bm + bn operands for bm · bn products."""
    threads_m, threads_n = (np.where(tile <= _SIMT_NARROW, _SIMT_THREADS / 2, _SIMT_THREADS)
                            for tile in (entries.tile_m, entries.tile_n))
    block_m, block_n = entries.tile_m / threads_m, entries.tile_n / threads_n
    result: Array = np.minimum(1.0, block_m * block_n / (block_m + block_n) / _SIMT_FULL_RATIO)
    return result


def _read_bytes(
    gpu: Gpu, shapes: _Shapes, entries: Menu, tiles_m: Array, tiles_n: Array,
) -> Array:
    """DRAM reads of cold operands: the tiles of a round lie in a near-square block, and slabs stay in L2 while they fit."""
    in_bytes = shapes.m * shapes.k * shapes.in_bytes
    weight_bytes = shapes.k * shapes.n * shapes.weight_bytes
    room = _SLAB_SHARE_OF_L2 * gpu.device.l2_bytes

    block_m = np.clip(np.sqrt(gpu.device.sms * entries.tile_n / entries.tile_m), 1, tiles_m)
    block_n = np.clip(gpu.device.sms / block_m, 1, tiles_n)
    sweeps_m, sweeps_n = np.ceil(tiles_m / block_m), np.ceil(tiles_n / block_n)
    in_slab, weight_slab = in_bytes / sweeps_m, weight_bytes / sweeps_n
    # Down the columns: a weight slab stays while the inputs stream past it once per column of blocks; or along the rows.
    by_column = in_bytes * np.where(in_bytes <= room, 1.0, sweeps_n) + weight_bytes * np.where(
        weight_slab <= room, 1.0, sweeps_m)
    by_row = weight_bytes * np.where(weight_bytes <= room, 1.0, sweeps_m) + in_bytes * np.where(
        in_slab <= room, 1.0, sweeps_n)
    result: Array = shapes.batch * np.minimum(by_column, by_row)
    return result


def _with_quantisation(
    gpu: Gpu, work: KernelWork, m: ArrayLike, k: ArrayLike, batch: ArrayLike, dtype: str, l2_warm: ArrayLike,
) -> KernelWork:
    """*work* with the kernel before it that reads the 16-bit activations and writes them in *dtype* with their scales."""
    wide_m, wide_k, wide_batch = (np.asarray(a, dtype=np.float64) for a in (m, k, batch))
    elements: Array = np.atleast_1d(wide_m * wide_k * wide_batch)
    moved = elements * (2.0 + ELEMENT_BYTES[dtype])
    to_dram = moved * l2_miss_share(gpu, moved, np.asarray(l2_warm, dtype=bool))
    rows = np.atleast_1d(wide_m * wide_batch)
    rows_s = np.ceil(rows / gpu.device.sms) * THREAD_BLOCK_START_S         # one thread block finds the scale of one row
    launch_s = gpu.architecture.quantise_us.get(dtype, gpu.architecture.quantise_us.get("fp8", gpu.architecture.launch_us))
    return KernelWork(
        launch_s=work.launch_s + launch_s * 1e-6,
        core_s=work.core_s + np.maximum(moved / gpu.l2_bytes_per_s, rows_s),
        dram_s=work.dram_s + to_dram / (gpu.dram_stream_bytes_per_s * gpu.architecture.vector_stream),
        flops=work.flops, issued_flops=work.issued_flops, dram_bytes=work.dram_bytes + to_dram,
        l2_bytes=work.l2_bytes + moved, dtype=work.dtype,
    )
