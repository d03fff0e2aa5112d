"""Whole models on GPUs, from plain numbers: one forward step as a sequence of kernels and collectives.

Each kernel is timed by `arch/gpu_*`; a step adds them up on the device. The host launches kernels at its own pace: inside a
CUDA graph it does not show; an engine that builds its inputs anew for each prompt waits for it; in eager mode device and host
run side by side and the longer one shows, softened because the queue between them runs empty at every synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..arch import gpu_attention, gpu_gemm, gpu_moe, gpu_vector
from ..arch.gpu_collectives import LinkClass, collective_seconds
from ..arch.gpu_config import ELEMENT_BYTES, Gpu
from ..arch.gpu_kernel import KernelTime
from .gpu_shapes import Shape

#: Exponent that joins host and device time of an eager step. ASSUMED 3: between a sum (1) and perfect overlap (∞).
_HOST_OVERLAP_EXPONENT = 3.0


@dataclass(frozen=True, slots=True)
class Engine:
    """A framework: its formats and its one host constant."""

    host_us_per_layer: float                # launching one layer's kernels and collectives
    mode: Literal["eager", "queued", "graph"]   # eager: host beside device; queued: prefill waits for it, decode does not
    dtype: str = "fp16"
    kv_dtype: str = "fp16"
    host_us_per_sequence: float = 0.0       # handing one sequence of the batch to the workers, before anything is launched
    dequantises_from_tokens: int | None = None     # of so many tokens it widens narrow weights in memory and multiplies in 16 bits


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: device time, the time with the host, energy of all GPUs."""

    device_s: float
    seconds: float
    energy_j: float
    layers: int = 0


def step(
    gpu: Gpu, shape: Shape, engine: Engine, *, batch: int, q_len: int, kv_len: int, ranks: int = 1, link: LinkClass | None = None,
) -> Step:
    """`q_len` new tokens of `batch` sequences; `kv_len` cached tokens with the new ones; tensor parallel over *ranks*."""
    tokens = float(batch * q_len)
    layer_s, layer_j = _layer(gpu, shape, engine, batch, q_len, kv_len, ranks)
    if shape.dense_layers:
        dense_s, dense_j = _layer(gpu, shape.dense_part, engine, batch, q_len, kv_len, ranks)
        share = shape.dense_layers / shape.layers
        layer_s, layer_j = layer_s + share * (dense_s - layer_s), layer_j + share * (dense_j - layer_j)
    message = tokens * shape.hidden * 2.0
    reductions = 1 if shape.parallel_block else 2
    reduce_s = reductions * collective_seconds(gpu, "allreduce", message, ranks, link) if ranks > 1 else 0.0
    head = gpu_gemm.gemm(gpu, batch, shape.vocabulary / ranks, shape.hidden, dtype="fp16")
    look_up = gpu_vector.vector(gpu, "embed", tokens, shape.hidden, dtype="fp16")
    device_s = shape.layers * (layer_s + reduce_s) + _seconds(head) + _seconds(look_up)
    host_s = shape.layers * engine.host_us_per_layer * 1e-6
    seconds = with_host(device_s, host_s, engine, is_decode=q_len == 1) + batch * engine.host_us_per_sequence * 1e-6
    energy = ranks * (shape.layers * layer_j + _joules(head) + gpu.device.idle_power_w * (
        seconds - shape.layers * layer_s - _seconds(head)))
    return Step(device_s, seconds, energy, shape.layers)


def with_host(device_s: float, host_s: float, engine: Engine, *, is_decode: bool) -> float:
    """Time of a step that the host launches in *host_s*."""
    if engine.mode == "eager":
        exponent = _HOST_OVERLAP_EXPONENT
        return float((device_s**exponent + host_s**exponent) ** (1 / exponent))
    return device_s if is_decode or engine.mode == "graph" else device_s + host_s


def _layer(gpu: Gpu, shape: Shape, engine: Engine, batch: int, q_len: int, kv_len: int, ranks: int) -> tuple[float, float]:
    """Seconds and joules of one layer on one rank, without its all-reduces."""
    tokens = float(batch * q_len)
    heads, kv_heads = max(1.0, shape.heads / ranks), max(1.0, shape.kv_heads / ranks)
    width = shape.ffn / ranks
    dtype = engine.dtype

    def linear(n: float, k: float) -> KernelTime:
        if engine.dequantises_from_tokens is None or tokens < engine.dequantises_from_tokens or ELEMENT_BYTES[dtype] >= 2.0:
            return gpu_gemm.gemm(gpu, tokens, n, k, dtype=dtype, quantise=False)
        widened_bytes = k * n * (ELEMENT_BYTES[dtype] + 2.0)
        widening_s = widened_bytes / gpu.dram_stream_bytes_per_s
        wide = gpu_gemm.gemm(gpu, tokens, n, k, dtype="fp16")
        widening_j = widening_s * gpu.device.idle_power_w + widened_bytes * gpu.architecture.pj_per_dram_byte * 1e-12
        return replace(wide, seconds=wide.seconds + widening_s, energy_j=wide.energy_j + widening_j)

    def vector(op: str, n: float) -> KernelTime:
        return gpu_vector.vector(gpu, op, tokens, n, dtype="fp16", l2_warm=True)

    attention = (
        gpu_attention.decode(gpu, batch, heads, kv_heads, shape.head_dim, kv_len, kv_dtype=engine.kv_dtype, dtype="fp16")
        if q_len == 1 else
        gpu_attention.prefill(gpu, batch, heads, kv_heads, shape.head_dim, q_len, kv_len, dtype="fp16", l2_warm=True))
    up = 2.0 * width if shape.gated else width
    kernels = [
        vector("add_rmsnorm", shape.hidden),
        linear((heads + 2 * kv_heads) * shape.head_dim, shape.hidden),
        vector("rope", (heads + kv_heads) * shape.head_dim),
        attention,
        linear(shape.hidden, heads * shape.head_dim),
        vector("add_rmsnorm", shape.hidden),
    ]
    if shape.experts:
        kernels.append(gpu_gemm.gemm(gpu, tokens, shape.experts, shape.hidden, dtype="fp16"))       # the router
        kernels.append(gpu_moe.moe(gpu, tokens, width, shape.hidden, shape.experts, shape.top_k, dtype=dtype))
        width = shape.shared_ffn / ranks
        up = 2.0 * width
    if width:
        kernels += [linear(up, shape.hidden), vector("gated_activation" if shape.gated else "activation", width),
                    linear(shape.hidden, width)]
    return sum(map(_seconds, kernels)), sum(map(_joules, kernels))


def generation_s(gpu: Gpu, shape: Shape, engine: Engine, *, batch: int, prompt: int, output: int, ranks: int = 1) -> float:
    """A static batch from prompt to last token: one prefill, then `output` − 1 steps; the context grows linearly, and so does
    a step's time, so the mean context stands for all."""
    first = step(gpu, shape, engine, batch=batch, q_len=prompt, kv_len=prompt, ranks=ranks).seconds
    if output <= 1:
        return first
    mean = step(gpu, shape, engine, batch=batch, q_len=1, kv_len=prompt + output // 2, ranks=ranks).seconds
    return first + (output - 1) * mean


def cache_bytes_per_token(shape: Shape, kv_dtype: str) -> float:
    return 2.0 * shape.layers * shape.kv_heads * shape.head_dim * ELEMENT_BYTES[kv_dtype]


def _seconds(time: KernelTime) -> float:
    return float(time.seconds[0])


def _joules(time: KernelTime) -> float:
    return float(time.energy_j[0])
