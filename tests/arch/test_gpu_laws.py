"""Laws that every GPU kernel obeys, on every board: no roofline is beaten, more work takes no less time, energy adds up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch import gpu_attention, gpu_gemm, gpu_moe, gpu_vector
from tilesim.arch.gpu_config import ELEMENT_BYTES, Gpu, find_gpu, shipped_gpus
from tilesim.arch.gpu_kernel import KernelTime, busy_seconds, dynamic_energy_j, voltage_share

GPUS = sorted({gpu.name: gpu for gpu in shipped_gpus().values()}.items())
sizes = st.integers(1, 20_000)
boards = st.sampled_from([gpu for _, gpu in GPUS])
dtypes = st.sampled_from(["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "nvfp4"])


def seconds(time: KernelTime) -> float:
    return float(time.seconds[0])


def assert_within_roofline(gpu: Gpu, time: KernelTime, dtype: str, least_bytes: float) -> None:
    assert seconds(time) >= float(time.flops[0]) / gpu.peak_flops_per_s(dtype)
    assert seconds(time) >= least_bytes / gpu.device.dram_bandwidth_bytes_per_s


@settings(max_examples=60, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, k=sizes, dtype=dtypes)
def test_no_gemm_beats_its_roofline(gpu: Gpu, m: int, n: int, k: int, dtype: str) -> None:
    element = ELEMENT_BYTES[dtype]
    wide = 4.0 if dtype in ("fp32", "tf32") else 2.0
    time = gpu_gemm.gemm(gpu, m, n, k, dtype=dtype, quantise=False)
    assert_within_roofline(gpu, time, dtype, (m * k + k * n) * element + m * n * wide)


@settings(max_examples=60, deadline=None)
@given(gpu=boards, batch=st.integers(1, 512), kv_heads=st.integers(1, 16), group=st.integers(1, 16), kv_len=st.integers(1, 100_000))
def test_no_decode_beats_its_roofline(gpu: Gpu, batch: int, kv_heads: int, group: int, kv_len: int) -> None:
    time = gpu_attention.decode(gpu, batch, kv_heads * group, kv_heads, 128, kv_len)
    assert_within_roofline(gpu, time, "bf16", 2.0 * batch * kv_heads * kv_len * 128 * 2)


@settings(max_examples=60, deadline=None)
@given(gpu=boards, batch=st.integers(1, 64), heads=st.integers(1, 64), tokens=st.integers(1, 16_000), prefix=st.integers(0, 16_000))
def test_no_prefill_beats_its_roofline(gpu: Gpu, batch: int, heads: int, tokens: int, prefix: int) -> None:
    time = gpu_attention.prefill(gpu, batch, heads, heads, 128, tokens, tokens + prefix)
    touched = 2.0 * batch * heads * 128 * (2 * tokens + 2 * (tokens + prefix))
    assert_within_roofline(gpu, time, "bf16", touched)


@settings(max_examples=40, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, op=st.sampled_from(sorted(gpu_vector.FUSED_TENSORS)))
def test_no_vector_kernel_beats_its_roofline(gpu: Gpu, m: int, n: int, op: str) -> None:
    time = gpu_vector.vector(gpu, op, m, n)
    assert seconds(time) >= gpu_vector.FUSED_TENSORS[op] * m * n * 2 / gpu.device.dram_bandwidth_bytes_per_s


@settings(max_examples=30, deadline=None)
@given(gpu=boards, tokens=st.integers(1, 8192), experts=st.integers(1, 256), top_k=st.integers(1, 8))
def test_no_expert_layer_beats_its_roofline(gpu: Gpu, tokens: int, experts: int, top_k: int) -> None:
    top_k = min(top_k, experts)
    time = gpu_moe.moe(gpu, tokens, 512, 2048, experts, top_k)
    assert seconds(time) >= float(time.flops[0]) / gpu.peak_flops_per_s("bf16")


@settings(max_examples=60, deadline=None)
@given(gpu=boards, m=st.integers(1, 5000), n=st.integers(1, 5000), k=st.integers(2048, 20_000), factor=st.integers(2, 4))
def test_a_gemm_that_is_whole_times_larger_takes_no_less_time(gpu: Gpu, m: int, n: int, k: int, factor: int) -> None:
    """Stated quantisation: multiples of a size, 5 % for padded tiles, and k long enough that every split is offered for both."""
    base = seconds(gpu_gemm.gemm(gpu, m, n, k))
    for larger in ((factor * m, n, k), (m, factor * n, k), (m, n, factor * k)):
        assert seconds(gpu_gemm.gemm(gpu, *larger)) >= 0.95 * base


@settings(max_examples=40, deadline=None)
@given(gpu=boards, batch=st.integers(1, 256), kv_len=st.integers(1, 60_000))
def test_a_longer_context_decodes_no_faster(gpu: Gpu, batch: int, kv_len: int) -> None:
    short, long = (seconds(gpu_attention.decode(gpu, batch, 32, 8, 128, length)) for length in (kv_len, 2 * kv_len))
    assert long >= short * (1 - 1e-9)


@settings(max_examples=80, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, k=sizes, dtype=dtypes)
def test_cold_products_move_at_least_their_operands(gpu: Gpu, m: int, n: int, k: int, dtype: str) -> None:
    """Through DRAM, and through L2: a multicast shares reads among the tiles of one product, of which every byte is read once."""
    work = gpu_gemm.gemm_work(gpu, m, n, k, dtype=dtype)
    operands = (m * k + k * n) * ELEMENT_BYTES[dtype]
    outputs = m * n * (4.0 if dtype in ("fp32", "tf32") else 2.0)
    assert float(work.dram_bytes[0]) >= (operands + outputs) * (1 - 1e-9)
    assert float(work.l2_bytes[0]) >= (operands + outputs) * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, k=sizes)
def test_the_chosen_tile_is_the_fastest_at_the_clock_that_it_gets(gpu: Gpu, m: int, n: int, k: int) -> None:
    """A menu of one entry is never faster than the whole menu: the choice sees the power limit."""
    whole = seconds(gpu_gemm.gemm(gpu, m, n, k))
    for tile in gpu.architecture.tiles[:3]:
        alone = replace(gpu, architecture=gpu.architecture.model_copy(update={"tiles": (tile,)}))
        assert whole <= seconds(gpu_gemm.gemm(alone, m, n, k)) * (1 + 1e-3)


@settings(max_examples=40, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, k=sizes)
def test_board_power_stays_within_its_limit_and_above_idle(gpu: Gpu, m: int, n: int, k: int) -> None:
    time = gpu_gemm.gemm(gpu, m, n, k)
    assert gpu.device.idle_power_w <= float(time.power_w[0]) <= gpu.device.power_limit_w * 1.001


def test_a_limit_below_the_draw_of_dram_stretches_the_time() -> None:
    """Streaming alone draws 470 W on an H200: at a limit of 250 W no clock of the core helps."""
    board = find_gpu("h200-sxm")
    capped = Gpu(board.device.model_copy(update={"power_limit_w": 250.0}), board.architecture, board.library)
    free, slow = (gpu_attention.decode(gpu, 64, 32, 8, 128, 32768) for gpu in (board, capped))
    assert seconds(slow) > 1.5 * seconds(free)
    assert float(slow.power_w[0]) == pytest.approx(250.0, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(gpu=boards, m=sizes, n=sizes, k=sizes)
def test_energy_is_idle_power_times_time_plus_the_actions(gpu: Gpu, m: int, n: int, k: int) -> None:
    work = gpu_gemm.gemm_work(gpu, m, n, k)
    time = gpu_gemm.gemm(gpu, m, n, k)
    actions = dynamic_energy_j(gpu, work, time.clock_share)
    assert float(time.energy_j[0]) == pytest.approx(float(gpu.device.idle_power_w * time.seconds[0] + actions[0]), rel=1e-9)


def test_a_lower_clock_makes_core_work_longer_and_cheaper() -> None:
    gpu = find_gpu("h100-sxm")
    work = gpu_gemm.gemm_work(gpu, 8192, 8192, 8192)
    assert float(busy_seconds(work, 0.5)[0]) > float(busy_seconds(work, 1.0)[0])
    assert float(dynamic_energy_j(gpu, work, 0.5)[0]) < float(dynamic_energy_j(gpu, work, 1.0)[0])


def test_boards_of_one_architecture_share_a_voltage_curve() -> None:
    """At the clock for which the energies are stated the voltage is whole; a slower board's operations cost less."""
    fast, slow = find_gpu("h100-sxm"), find_gpu("h100-pcie-80gb")
    work = gpu_gemm.gemm_work(fast, 4096, 4096, 4096)
    assert float(voltage_share(fast, 1.0)) == 1.0
    assert float(voltage_share(fast, slow.device.clock_hz / fast.device.clock_hz)) == pytest.approx(float(voltage_share(slow, 1.0)))
    assert float(dynamic_energy_j(slow, work, 1.0)[0]) < float(dynamic_energy_j(fast, work, 1.0)[0])


def test_arrays_give_the_same_answers_as_single_kernels() -> None:
    gpu = find_gpu("a100-sxm-80gb")
    m, n, k = np.array([1, 128, 4096]), np.array([4096, 4096, 4096]), np.array([4096, 8192, 512])
    together = gpu_gemm.gemm(gpu, m, n, k).seconds
    apart = [seconds(gpu_gemm.gemm(gpu, *shape)) for shape in zip(m, n, k, strict=True)]
    assert together == pytest.approx(apart)
