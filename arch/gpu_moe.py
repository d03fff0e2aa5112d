"""A mixture-of-experts FFN on one GPU: tokens gathered by expert, two grouped GEMMs, an activation, a weighted scatter.

The router is not included. Each active expert holds three matrices (gate, up, down). Grouped kernels take tiles of whole
experts, so an expert with few tokens wastes the rest of its tile; they do not split the reduction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from .gpu_config import ELEMENT_BYTES, Gpu
from .gpu_gemm import gemm_work
from .gpu_kernel import KernelTime, KernelWork, l2_miss_share, run


def expected_active(experts: ArrayLike, top_k: ArrayLike, tokens: ArrayLike) -> np.ndarray:
    """Experts that receive at least one token when each token draws *top_k* different ones evenly."""
    experts, top_k, tokens = np.broadcast_arrays(*(np.asarray(a, dtype=float) for a in (experts, top_k, tokens)))
    result: np.ndarray = experts * (1.0 - (1.0 - top_k / experts) ** tokens)
    return result


def moe(
    gpu: Gpu, tokens: ArrayLike, width: ArrayLike, hidden: ArrayLike, experts: ArrayLike, top_k: ArrayLike, *,
    active: ArrayLike | None = None, dtype: str = "bf16", l2_warm: ArrayLike = False,
) -> KernelTime:
    """One MoE FFN layer: *tokens* × *hidden* in, experts of *width*; *active* experts if known, else the expected number."""
    return run(gpu, moe_work(gpu, tokens, width, hidden, experts, top_k, active=active, dtype=dtype, l2_warm=l2_warm))


def moe_work(
    gpu: Gpu, tokens: ArrayLike, width: ArrayLike, hidden: ArrayLike, experts: ArrayLike, top_k: ArrayLike, *,
    active: ArrayLike | None = None, dtype: str = "bf16", l2_warm: ArrayLike = False,
) -> KernelWork:
    tokens, width, hidden, experts, top_k, warm = (
        np.atleast_1d(np.asarray(a, dtype=float)) for a in np.broadcast_arrays(tokens, width, hidden, experts, top_k, l2_warm))
    hit = np.minimum(np.ceil(expected_active(experts, top_k, tokens)), experts) if active is None else np.atleast_1d(
        np.asarray(active, dtype=float))
    return _layer_work(gpu, tokens, width, hidden, hit, tokens * top_k, dtype, warm)


def _layer_work(
    gpu: Gpu, tokens: np.ndarray, width: np.ndarray, hidden: np.ndarray, active: np.ndarray, routed: np.ndarray, dtype: str,
    warm: np.ndarray,
) -> KernelWork:
    grouped = replace(gpu, architecture=gpu.architecture.model_copy(update={
        "no_split_k": (*gpu.architecture.no_split_k, dtype),
        "matmul_efficiency": {key: value * gpu.architecture.moe_efficiency
                              for key, value in gpu.architecture.matmul_efficiency.items()}}))
    per_expert = routed / active
    gate_up = gemm_work(grouped, per_expert, 2.0 * width, hidden, dtype=dtype, groups=active, l2_warm=warm)
    down = gemm_work(grouped, per_expert, hidden, width, dtype=dtype, groups=active, l2_warm=warm)
    # Around the GEMMs: gather the tokens, write and read the intermediate of width 2n and n, scatter-add the outputs.
    element = max(ELEMENT_BYTES[dtype], 2.0)
    moved = element * (routed * 3.0 * width + tokens * hidden * 2.0 + routed * hidden * 2.0)
    moved_dram = moved * l2_miss_share(gpu, moved, warm)
    stream = gpu.dram_stream_bytes_per_s
    return KernelWork(
        launch_s=np.full_like(tokens, gpu.architecture.moe_launch_us * 1e-6),
        core_s=gate_up.core_s + down.core_s + moved / gpu.l2_bytes_per_s,
        dram_s=(gate_up.dram_s + down.dram_s) / gpu.architecture.moe_stream + moved_dram / stream,
        flops=gate_up.flops + down.flops, issued_flops=gate_up.issued_flops + down.issued_flops,
        dram_bytes=gate_up.dram_bytes + down.dram_bytes + moved_dram, l2_bytes=gate_up.l2_bytes + down.l2_bytes + moved,
        dtype=dtype,
    )
