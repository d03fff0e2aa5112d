"""Fused attention: what packing, splitting and causal blocks are worth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.gpu_attention import decode, prefill, prefill_work
from tilesim.arch.gpu_config import Gpu, assemble, find_gpu, shipped_gpus
from tilesim.arch.gpu_kernel import KernelTime


def s(time: KernelTime) -> float:
    return float(time.seconds[0])


def test_query_heads_that_share_a_cache_cost_almost_nothing_more() -> None:
    gpu = find_gpu("h100-sxm")
    assert s(decode(gpu, 64, 32, 8, 128, 4096)) == pytest.approx(s(decode(gpu, 64, 8, 8, 128, 4096)), rel=0.05)


def test_without_gqa_packing_the_repeats_are_read_from_l2() -> None:
    gpu = find_gpu("h100-sxm")
    unpacked = assemble(gpu.device.model_copy(update={"library": "trtllm-2023"}))
    assert s(decode(unpacked, 64, 64, 4, 128, 8192)) > 1.5 * s(decode(gpu, 64, 64, 4, 128, 8192))


def test_splitting_the_cache_keeps_a_lone_long_sequence_near_the_memory_rate() -> None:
    gpu = find_gpu("h100-sxm")
    cache_bytes = 2 * 8 * 131072 * 128 * 2
    assert cache_bytes / s(decode(gpu, 1, 64, 8, 128, 131072)) > 0.6 * gpu.device.dram_bandwidth_bytes_per_s


def test_a_kernel_that_does_not_split_leaves_sms_idle() -> None:
    gpu = find_gpu("a100-sxm-80gb")
    cache_bytes = 2 * 8 * 131072 * 128 * 2
    assert cache_bytes / s(decode(gpu, 1, 8, 8, 128, 131072)) < 0.2 * gpu.device.dram_bandwidth_bytes_per_s


def test_causal_prefill_takes_about_half_of_the_full_rectangle() -> None:
    gpu = find_gpu("a100-sxm-80gb")
    ratio = s(prefill(gpu, 4, 32, 32, 128, 8192, 8192)) / s(prefill(gpu, 4, 32, 32, 128, 8192, 8192, causal=False))
    assert 0.45 < ratio < 0.6


def test_kernels_that_do_not_skip_masked_blocks_pay_for_the_rectangle() -> None:
    gpu = find_gpu("a100-sxm-80gb")
    full = Gpu(gpu.device, gpu.architecture, gpu.library.model_copy(update={"causal_prefix_skip": False}))
    assert s(prefill(full, 1, 32, 8, 128, 4096, 4096)) > 1.6 * s(prefill(gpu, 1, 32, 8, 128, 4096, 4096))


def test_narrow_heads_reach_a_smaller_share_of_the_peak() -> None:
    """The softmax of a score costs the same for 64 and for 128 columns of products."""
    gpu = find_gpu("b200-sxm")
    wide, narrow = (prefill(gpu, 4, 32, 32, d, 8192, 8192) for d in (128, 64))
    assert float(narrow.flops[0]) / s(narrow) < 0.8 * float(wide.flops[0]) / s(wide)


def test_a_prompt_shorter_than_a_tile_issues_the_whole_tile() -> None:
    """A matrix instruction multiplies all rows of its tile: short prompts cost the energy of a full one."""
    gpu = find_gpu("b200-sxm")
    rows, columns = gpu.architecture.prefill_tile
    short, whole = (prefill_work(gpu, 128, 64, 64, 64, tokens, tokens) for tokens in (16, columns))
    assert rows >= columns
    assert short.flops[0] < 0.3 * whole.flops[0]
    assert short.issued_flops[0] == whole.issued_flops[0] == 4 * 128 * 64 * 64 * rows * columns


def test_packing_lets_the_heads_that_share_a_cache_share_a_tile() -> None:
    gpu = find_gpu("h100-sxm")
    apart = replace(gpu, architecture=gpu.architecture.model_copy(update={"prefill_packs_gqa": False}))
    packed, unpacked = (prefill_work(board, 256, 40, 8, 64, 16, 16).issued_flops[0] for board in (gpu, apart))
    assert gpu.architecture.prefill_packs_gqa
    assert unpacked == 5 * packed
    long = [prefill_work(board, 1, 40, 8, 64, 8192, 8192).issued_flops[0] for board in (gpu, apart)]
    assert long[0] == pytest.approx(long[1], rel=0.02)


@pytest.mark.parametrize("board", ["h100-sxm", "b200-sxm", "mi300x", "t4"])
def test_one_more_query_over_a_cache_costs_at_most_one_more_tile(board: str) -> None:
    """Libraries that split any cache: no step where decode kernel gives way to prefill kernel. 2.1: a tile more, and 5 %."""
    for batch, heads, kv_heads in ((1, 32, 8), (4, 8, 8), (1, 64, 1), (16, 32, 8)):
        for context in (511, 2048, 16400, 131072):
            queries = np.arange(1, 200)
            seconds = prefill(find_gpu(board), batch, heads, kv_heads, 128, queries, np.maximum(queries, context)).seconds
            steps = seconds[1:] / seconds[:-1]
            assert steps.min() > 0.9
            assert steps.max() < 2.1


def test_two_queries_over_a_long_cache_cost_hardly_more_than_one() -> None:
    one, two, eight = (s(prefill(find_gpu("h100-sxm"), 1, 32, 8, 128, queries, 65536)) for queries in (1, 2, 8))
    assert one <= two <= eight < 1.6 * one


@given(gpu=st.sampled_from(sorted({gpu.name for gpu in shipped_gpus().values()})), batch=st.integers(1, 64),
       group=st.integers(1, 16), context=st.integers(1, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_token_more_of_context_makes_no_step_in_decode(gpu: str, batch: int, group: int, context: int) -> None:
    shorter, longer = decode(find_gpu(gpu), batch, 8 * group, 8, 128, [context, context + 1]).seconds
    assert 0.999 * shorter <= longer <= 1.1 * shorter


def test_decode_on_cuda_cores_pays_for_each_query_head_that_shares_a_cache() -> None:
    """Closed form: slots of every cached element, once for each query head, over the lanes of the chip."""
    board = find_gpu("h100-sxm").device.model_copy(update={"library": "trtllm-2023"})
    gpu = assemble(board)
    time = decode(gpu, 1024, 232, 8, 64, 1152, dtype="fp16", kv_dtype="fp8")
    slots = 2 * 1024 * 232 * 64 * 1152 * gpu.library.decode_slots_per_element
    lanes_s = slots / (board.fp32_flops_per_cycle_per_sm / 2 * board.sms * board.clock_hz)
    assert float(time.core_s[0]) * float(time.clock_share[0]) == pytest.approx(lanes_s, rel=0.05)
