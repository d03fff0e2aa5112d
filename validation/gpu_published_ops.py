"""Published kernels of further kinds: paged decode attention, grouped GEMMs, linear layers with 4-bit weights; and the printed
names of boards."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..arch import gpu_attention, gpu_gemm
from ..arch.gpu_config import ELEMENT_BYTES, Gpu
from ..arch.gpu_kernel import run
from .gpu_rows import RawRow, number
from .gpu_shapes import shape_named


def board_named(name: str, gpus: Mapping[str, Gpu]) -> Gpu | None:
    """The board that a table prints as *name*: spaces for dashes, the memory's size behind it, no vendor's prefix."""
    dashed = name.replace(" ", "-")
    bare = re.sub(r"-?\d+GB$", "", dashed)
    return next((gpus[key] for key in (name, dashed, bare, f"RTX{bare}") if key in gpus), None)


def sizes_of(raw: RawRow) -> dict[str, float]:
    """The `key=number` facts of a row's shape."""
    return {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", raw.get("shape") or "")}


def decode_attention(raw: RawRow, gpu: Gpu) -> float | None:
    """µs or GB/s of one decode step; the page table costs nothing here."""
    sizes, context = sizes_of(raw), number(raw, "context")
    if not {"heads_q", "heads_kv", "head_dim"} <= set(sizes) or context != context:
        return None
    batch = number(raw, "batch", 1.0)
    time = gpu_attention.decode(gpu, batch, sizes["heads_q"], sizes["heads_kv"], sizes["head_dim"], context, dtype="bf16")
    seconds = float(time.seconds[0])
    if raw["metric"] == "latency":
        return seconds * 1e6
    return 2.0 * batch * sizes["heads_kv"] * context * sizes["head_dim"] * ELEMENT_BYTES["bf16"] / seconds / 1e9


def grouped_gemm(raw: RawRow, gpu: Gpu) -> float | None:
    """TFLOP/s or GB/s of a grouped GEMM in 8 bits with block scales, operands quantised before."""
    sizes = sizes_of(raw)
    if not {"groups", "M_per_group", "N", "K"} <= set(sizes):
        return None
    groups, m, n, k = (sizes[key] for key in ("groups", "M_per_group", "N", "K"))
    seconds = float(run(gpu, gpu_gemm.gemm_work(gpu, m, n, k, dtype="fp8_block", groups=groups)).seconds[0])
    if raw["metric"] == "achieved_bandwidth":
        return groups * (m * k + k * n + 2.0 * m * n) / seconds / 1e9
    return 2.0 * groups * m * n * k / seconds / 1e12


def narrow_weights(raw: RawRow, gpu: Gpu) -> float | None:
    """Speed-up of a layer's linear operators with 4-bit weights over 16-bit ones, at *batch* rows."""
    shape = shape_named(f"llama-{raw['name'].rpartition('-')[2]}")
    if shape is None:
        return None
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    n = np.array([heads, shape.hidden, 2.0 * shape.ffn, shape.hidden])
    k = np.array([shape.hidden, shape.heads * shape.head_dim, shape.hidden, shape.ffn])
    rows = number(raw, "batch")
    wide, narrow = (float(gpu_gemm.gemm(gpu, rows, n, k, dtype=dtype).seconds.sum()) for dtype in ("fp16", "int4"))
    return wide / narrow
