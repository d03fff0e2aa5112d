"""Fused attention on a GPU: flash prefill with causal blocks, and split-KV decode over a paged cache.

Prefill: one thread block per (sequence, head, query tile). It walks the KV tiles that the causal mask leaves, at the rate
of two matrix products and one exponential per score, which overlap only in part (Dao, FlashAttention-2, 2023, §3; Shah et
al., FlashAttention-3, 2024, §3.1).

Decode: one thread block per (sequence, KV head, part of the KV cache); the query heads that share K and V are packed into
the rows of one tile (GQA packing), so the kernel reads each KV byte once. Too few work items leave SMs idle unless the
cache is split (Flash-Decoding, 2023); a lone block streams only what it has in flight.

A few new tokens over a long cache lie between the two. FlashAttention-3 and TensorRT-LLM's generated kernels split any cache
and pack few tokens into a decode kernel's tile, so the faster of both kernels is taken, its cache split by the same rule of
occupancy. FlashAttention-2 splits for one packed query token alone (`splits_mha_cache: false`): 16 tokens over 16400 cached ones
take 17 times the time of one there, as measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .gpu_config import ELEMENT_BYTES, Gpu
from .gpu_kernel import Array, KernelTime, KernelWork, choose, l2_miss_share, run

#: Exponentials an SM starts in one cycle: 16 MUFU lanes (CUDA C programming guide, arithmetic throughput table, cc 7–10).
EXPS_PER_CYCLE_PER_SM = 16.0
#: fp32 operations around each score: scale-and-subtract, maximum, sum, conversion, share of the rescale.
#: Counted from FlashAttention-2, algorithm 1.
FP32_OPS_PER_SCORE = 6.0
#: Rows of the smallest matrix-instruction tile: GQA groups are padded to it.
_DECODE_ROW_TILE = 16
#: Decode splits the cache until there are this many work items for each SM.
_ITEMS_PER_SM_WANTED = 2.0
#: Shortest part of a split cache, in tokens.
_SHORTEST_SPLIT_TOKENS = 256
#: Rows (tokens × heads that share a cache) that a block of a decode kernel holds: those of one warp group's matrix instruction.
#: More rows take more blocks, each of which reads the cache again.
_MOST_DECODE_ROWS = 64.0


def decode(
    gpu: Gpu, batch: ArrayLike, heads: ArrayLike, kv_heads: ArrayLike, head_dim: ArrayLike, kv_len: ArrayLike, *,
    dtype: str = "bf16", kv_dtype: str | None = None, l2_warm: ArrayLike = False,
) -> KernelTime:
    """One new token per sequence against `kv_len` cached ones (the new one included)."""
    return run(gpu, decode_work(gpu, batch, heads, kv_heads, head_dim, kv_len, dtype=dtype, kv_dtype=kv_dtype,
                                l2_warm=l2_warm))


def decode_work(
    gpu: Gpu, batch: ArrayLike, heads: ArrayLike, kv_heads: ArrayLike, head_dim: ArrayLike, kv_len: ArrayLike, *,
    dtype: str = "bf16", kv_dtype: str | None = None, l2_warm: ArrayLike = False, q_len: ArrayLike = 1,
) -> KernelWork:
    """The work of a decode kernel; `q_len` new tokens are packed beside the heads that share a cache, each seeing all of it."""
    batch, heads, kv_heads, head_dim, kv_len, warm, q_len = _columns(batch, heads, kv_heads, head_dim, kv_len, l2_warm, q_len)
    architecture, device = gpu.architecture, gpu.device
    group = heads / kv_heads
    cache_bytes = 2.0 * batch * kv_heads * kv_len * head_dim * ELEMENT_BYTES[kv_dtype or dtype]
    vector_bytes = 2.0 * batch * heads * q_len * head_dim * ELEMENT_BYTES[dtype]

    rows = q_len * group
    row_blocks = np.ceil(rows / _MOST_DECODE_ROWS)
    items = batch * kv_heads * row_blocks
    may_split = np.ones_like(items) if architecture.splits_mha_cache else np.where(group > 1, 1.0, 0.0)
    splits = np.where(may_split > 0, _splits(items, _ITEMS_PER_SM_WANTED * device.sms, kv_len), 1.0)
    blocks = items * splits
    active = np.minimum(blocks, device.sms)

    padded_rows = np.where(row_blocks > 1, row_blocks * _MOST_DECODE_ROWS, np.ceil(rows / _DECODE_ROW_TILE) * _DECODE_ROW_TILE)
    issued = 4.0 * batch * kv_heads * padded_rows * np.ceil(kv_len / 16.0) * 16.0 * head_dim
    math_s = issued / (4.0 * head_dim) * _score_seconds(gpu, head_dim, dtype) / active
    block_s = architecture.decode_cta_us * 1e-6 * np.maximum(1.0, blocks / device.sms)
    in_flight = np.minimum(blocks, _ITEMS_PER_SM_WANTED * device.sms)
    lone_s = cache_bytes * row_blocks / (in_flight * architecture.decode_block_gb_per_s * 1e9)
    if gpu.library.decode_slots_per_element:
        lanes = device.fp32_flops_per_cycle_per_sm / 2.0
        elements = 2.0 * batch * heads * q_len * kv_len * head_dim      # each query head multiplies its own copy
        math_s = elements * gpu.library.decode_slots_per_element / (lanes * active * device.clock_hz)
    core_s = np.maximum(math_s + block_s, lone_s)

    footprint = cache_bytes + vector_bytes
    dram_bytes = footprint * l2_miss_share(gpu, footprint, warm)
    reads = footprint * (row_blocks if gpu.library.packs_gqa else group)
    core_s = np.maximum(core_s, reads / gpu.l2_bytes_per_s)
    dram_s = dram_bytes / (gpu.dram_stream_bytes_per_s * architecture.decode_stream)
    dram_s = dram_s + dram_bytes / footprint * architecture.cold_start_us * 1e-6
    launch_s = np.full_like(items, architecture.decode_launch_us * 1e-6)
    flops = 4.0 * batch * heads * head_dim * _causal_pairs(q_len, kv_len)
    return KernelWork(launch_s, core_s, dram_s, flops, issued, dram_bytes, reads, dtype)


def _splits(items: Array, wanted_blocks: float, kv_len: Array) -> Array:
    """Parts into which each item's cache is cut: enough to give the chip *wanted_blocks*, none shorter than the shortest. The mean
    over library heuristics that round it one way or another: no step at a multiple of the shortest part."""
    result: Array = np.clip(wanted_blocks / items, 1.0, np.maximum(1.0, kv_len / _SHORTEST_SPLIT_TOKENS))
    return result


def _rounds(gpu: Gpu, blocks: Array, kv_len: Array) -> Array:
    """Rounds of thread blocks over the SMs: whole ones, or where caches are split (into parts of the shortest at most, which the
    last round then counts by) as many as the work fills and one part."""
    filled = blocks / gpu.device.sms
    whole = np.ceil(filled)
    if not gpu.architecture.splits_mha_cache:
        return whole
    rounds: Array = np.minimum(whole, filled + np.minimum(1.0, _SHORTEST_SPLIT_TOKENS / kv_len))
    return rounds


def _causal_pairs(q_len: Array, kv_len: Array) -> Array:
    """Pairs of a query and a key that it sees, when the queries are the last of the keys."""
    pairs: Array = q_len * kv_len - q_len * (q_len - 1.0) / 2.0
    return pairs


def prefill(
    gpu: Gpu, batch: ArrayLike, heads: ArrayLike, kv_heads: ArrayLike, head_dim: ArrayLike, q_len: ArrayLike,
    kv_len: ArrayLike, *, dtype: str = "bf16", l2_warm: ArrayLike = False, causal: bool = True,
) -> KernelTime:
    """`q_len` new tokens per sequence, the last of `kv_len`; causal unless told otherwise."""
    return run(gpu, prefill_work(gpu, batch, heads, kv_heads, head_dim, q_len, kv_len, dtype=dtype, l2_warm=l2_warm,
                                 causal=causal))


def prefill_work(
    gpu: Gpu, batch: ArrayLike, heads: ArrayLike, kv_heads: ArrayLike, head_dim: ArrayLike, q_len: ArrayLike,
    kv_len: ArrayLike, *, dtype: str = "bf16", l2_warm: ArrayLike = False, causal: bool = True,
) -> KernelWork:
    batch, heads, kv_heads, head_dim, q_len, kv_len, warm = _columns(
        batch, heads, kv_heads, head_dim, q_len, kv_len, l2_warm)
    architecture, device, element = gpu.architecture, gpu.device, ELEMENT_BYTES[dtype]
    tile_rows, tile_columns = architecture.prefill_tile
    packed = heads / kv_heads if architecture.prefill_packs_gqa else np.ones_like(heads)    # heads whose rows share a tile
    items, queries_per_tile = batch * heads / packed, tile_rows / packed
    query_tiles = np.ceil(q_len / queries_per_tile)
    blocks = items * query_tiles
    skips = causal and gpu.library.causal_prefix_skip
    # Scores that one item issues: a matrix instruction multiplies the whole tile, however few of its rows hold a query.
    scores = tile_rows * _kv_columns(tile_columns, queries_per_tile, q_len, kv_len, query_tiles, skips)
    score_s = _score_seconds(gpu, head_dim, dtype)
    total_s = items * scores * score_s / device.sms
    longest_s = tile_rows * np.ceil(kv_len / tile_columns) * tile_columns * score_s
    block_s = architecture.prefill_cta_us * 1e-6 * np.maximum(1.0, blocks / device.sms)
    rounds = _rounds(gpu, blocks, kv_len)
    mean_block_s = scores / query_tiles * score_s
    # Unequal blocks, dealt longest first, let SMs end about half a mean block apart; equal ones come in whole rounds, and a
    # single round ends with its longest block. The causal triangle is the unequal part of a tile's columns.
    unequal = q_len / kv_len if skips else np.zeros_like(q_len)
    dealt_s = unequal * (total_s + 0.5 * mean_block_s) + (1.0 - unequal) * rounds * mean_block_s
    core_s = np.where(rounds <= 1, rounds * longest_s, np.maximum(dealt_s, longest_s)) + block_s

    touched = element * batch * head_dim * (2.0 * heads * q_len + 2.0 * kv_heads * kv_len)
    kv_reads = element * items * 2.0 * head_dim * scores / tile_rows
    core_s = np.maximum(core_s, kv_reads / gpu.l2_bytes_per_s)
    dram_bytes = touched * l2_miss_share(gpu, touched, warm)
    dram_s = dram_bytes / gpu.dram_stream_bytes_per_s
    pairs = _causal_pairs(q_len, kv_len) if causal else q_len * kv_len
    flops = 4.0 * batch * heads * head_dim * pairs
    issued = 4.0 * items * head_dim * scores
    launch_s = np.full_like(blocks, architecture.prefill_launch_us * 1e-6)
    softmax_pj = items * scores * architecture.pj_per_score
    work = KernelWork(launch_s, core_s, dram_s, flops, issued, dram_bytes, kv_reads, dtype, softmax_pj)
    return _or_decode(gpu, work, (batch, heads, kv_heads, head_dim, kv_len), q_len, dtype, warm)


def _or_decode(
    gpu: Gpu, prompt: KernelWork, sizes: tuple[Array, ...], q_len: Array, dtype: str, warm: Array,
) -> KernelWork:
    """*prompt*, or a decode kernel's work: always for one new token; for more over a cache, where libraries have one, if faster."""
    few = (sizes[-1] > q_len) & gpu.architecture.splits_mha_cache
    if not np.any(few | (q_len == 1)):
        return prompt
    packed = decode_work(gpu, *sizes, dtype=dtype, l2_warm=warm, q_len=q_len)
    is_faster = run(gpu, packed).seconds < run(gpu, prompt).seconds
    return choose((q_len == 1) | (few & is_faster), packed, prompt)


def _score_seconds(gpu: Gpu, head_dim: Array, dtype: str) -> Array:
    """Seconds an SM takes for one score at full clock: two products of head_dim MACs, one exponential, its fp32 work."""
    architecture, device = gpu.architecture, gpu.device
    matmul_cycles = 4.0 * head_dim / _product_flops_per_cycle(gpu, dtype)
    lanes = device.fp32_flops_per_cycle_per_sm / 2.0
    softmax_cycles = np.full_like(matmul_cycles, 1.0 / EXPS_PER_CYCLE_PER_SM + FP32_OPS_PER_SCORE / lanes)
    longer, shorter = np.maximum(matmul_cycles, softmax_cycles), np.minimum(matmul_cycles, softmax_cycles)
    result: Array = (longer + (1.0 - architecture.softmax_overlap) * shorter) / device.clock_hz
    return result


def _product_flops_per_cycle(gpu: Gpu, dtype: str) -> float:
    """Rate of the two products: the matrix pipe and the instructions around it (fragment loads, address work) take turns. A
    board with half of the pipe's rate therefore loses less to them (RTX 4090 against RTX PRO 6000: one constant fits both)."""
    return 1.0 / (1.0 / gpu.flops_per_cycle_per_sm(dtype) + 1.0 / gpu.architecture.prefill_issue_flops_per_cycle)


def _kv_columns(
    tile_columns: int, queries_per_tile: Array, q_len: Array, kv_len: Array, query_tiles: Array, skips: bool,
) -> Array:
    """KV columns that the query tiles of one item walk, summed over the tiles and padded to whole KV tiles."""
    whole = np.ceil(kv_len / tile_columns) * tile_columns
    if not skips:
        result: Array = query_tiles * whole
        return result
    # Tile i ends at column prefix + (i+1)·tile; on average padding adds half a KV tile to each.
    prefix = kv_len - q_len
    mean_end = prefix + np.minimum(q_len, 0.5 * queries_per_tile * (query_tiles + 1.0))
    padded = np.minimum(whole, mean_end + 0.5 * tile_columns)
    exact = np.where(query_tiles <= 1, whole, padded)
    result = query_tiles * exact
    return result


def _columns(*arguments: ArrayLike) -> list[Array]:
    return [np.atleast_1d(np.asarray(a, dtype=float)) for a in np.broadcast_arrays(*arguments)]
