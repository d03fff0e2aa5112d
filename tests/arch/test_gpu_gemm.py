"""GEMM on a GPU: waves, split-K, warm L2, the power cap, each in one question."""

from dataclasses import replace

import pytest
from tilesim.arch.gpu_config import Gpu, find_gpu
from tilesim.arch.gpu_gemm import SIMT_SPLITS, gemm, gemm_work, menu


def seconds(
    m: int, n: int, k: int, *, gpu: str = "a100-sxm-80gb", dtype: str = "bf16", l2_warm: bool = False, quantise: bool = True,
) -> float:
    return float(gemm(find_gpu(gpu), m, n, k, dtype=dtype, l2_warm=l2_warm, quantise=quantise).seconds[0])


def test_one_tile_more_than_a_wave_costs_a_step() -> None:
    """108 SMs of A100: 128 × 128 tiles over n; k so long that no smaller tile can hide the tail."""
    sms = find_gpu("a100-sxm-80gb").device.sms
    full, more = (seconds(128, 128 * tiles, 16384) for tiles in (sms, sms + 1))
    assert more > full * 1.02


def test_a_long_reduction_with_few_tiles_is_split() -> None:
    """64 × 1024 × 65536 has 16 tiles of 64 × 64; unsplit they would use 16 of 108 SMs."""
    gpu = find_gpu("a100-sxm-80gb")
    unsplit = gpu.architecture.model_copy(update={"no_split_k": ("bf16",)})
    alone = float(gemm(type(gpu)(gpu.device, unsplit, gpu.library), 64, 1024, 65536).seconds[0])
    assert seconds(64, 1024, 65536) < 0.5 * alone


def test_warm_operands_that_fit_in_l2_are_faster() -> None:
    assert seconds(8, 2048, 2048, l2_warm=True) < seconds(8, 2048, 2048)


def test_warmth_means_nothing_when_the_operands_are_far_larger_than_l2() -> None:
    assert seconds(8, 65536, 8192, l2_warm=True) == pytest.approx(seconds(8, 65536, 8192), rel=0.01)


def test_a_large_gemm_on_h200_runs_at_its_power_limit() -> None:
    time = gemm(find_gpu("h200-sxm"), 8192, 8192, 8192)
    assert time.bound == "power"
    assert float(time.power_w[0]) == pytest.approx(700, rel=0.02)
    assert float(time.clock_share[0]) < 0.95


def test_a_gemv_is_bound_by_memory() -> None:
    assert gemm(find_gpu("h100-sxm"), 1, 28672, 8192).bound == "memory"


def test_a_tiny_gemm_is_bound_by_its_launch() -> None:
    assert gemm(find_gpu("h100-sxm"), 16, 32, 64, l2_warm=True).bound == "launch"


def test_eight_bit_formats_pay_for_the_quantising_kernel() -> None:
    assert seconds(16, 256, 512, gpu="h100-sxm", dtype="fp8") > seconds(16, 256, 512, gpu="h100-sxm", dtype="fp8", quantise=False)


def test_a_board_without_tensor_cores_takes_the_simt_menu() -> None:
    assert menu(find_gpu("p4"), "fp32").split.max() == max(SIMT_SPLITS)


def test_where_batches_have_fewer_kernels_narrow_ones_pay_for_the_whole_tile() -> None:
    """An A100 multiplies a batch of 64 columns in tiles of 128, a V100 in tiles of 64; a lone problem has the whole menu."""
    padded, exact = find_gpu("a100-pcie-40gb"), find_gpu("v100-pcie-32gb")
    useful = 2 * 384 * 512 * 64 * 512
    assert float(gemm_work(padded, 512, 64, 512, batch=384, dtype="fp32").issued_flops[0]) == 2 * useful
    assert float(gemm_work(exact, 512, 64, 512, batch=384, dtype="fp32").issued_flops[0]) == useful
    assert float(gemm_work(padded, 65536, 64, 512, dtype="fp32").issued_flops[0]) == 2 * 65536 * 64 * 512


def _with(name: str, **facts: object) -> Gpu:
    gpu = find_gpu(name)
    return replace(gpu, architecture=gpu.architecture.model_copy(update=facts))


@pytest.mark.parametrize(("k", "is_split"), [(1024, False), (6144, True)])
def test_sgemm_splits_long_reductions_alone(k: int, is_split: bool) -> None:
    """64 tiles of 128 × 128 on the 108 SMs of an A100: thirds of 6144 products are worth a second pass, those of 1024 are not."""
    free, unsplit = (float(gemm(gpu, 512, 2048, k, dtype="fp32").seconds[0])
                     for gpu in (_with("a100-pcie-40gb"), _with("a100-pcie-40gb", no_split_k=("fp32",))))
    assert (free < unsplit * 0.9) == is_split
    assert is_split or free == unsplit


def test_a_lone_block_of_sgemm_waits_for_its_slices() -> None:
    """Loads of 0.5 µs behind slices of 8 products: what fills every SM twice hides them, 64 tiles on 132 SMs do not."""
    quick, slow = (_with("h100-sxm", load_latency_us=latency) for latency in (0.01, 0.5))
    few, many = ([float(gemm(gpu, m, 2048, 4096, dtype="fp32").seconds[0]) for gpu in (quick, slow)] for m in (512, 16384))
    assert few[1] > 1.05 * few[0]
    assert many[1] == pytest.approx(many[0], rel=1e-6)
