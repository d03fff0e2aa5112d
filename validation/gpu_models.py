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

#: Exponent that joins host and device time of an eager step. ASSUMED 3: between a sum (1) and perfect overlap (∞).
_HOST_OVERLAP_EXPONENT = 3.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder (or encoder) stack in plain numbers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    gated: bool = True                      # three FFN matrices and act(gate)·up, else two and act(x)
    experts: int = 0                        # routed experts of width `ffn` in place of the FFN; 0: a dense FFN
    top_k: int = 0
    shared_ffn: int = 0                     # width of an expert that every token takes beside the routed ones
    dense_layers: int = 0                   # layers of these that have no experts but an FFN of `dense_ffn`
    dense_ffn: int = 0
    parallel_block: bool = False            # attention and FFN side by side: one all-reduce a layer (GPT-J, Falcon)

    @property
    def weights(self) -> float:
        """Parameters without the embedding look-up."""
        qkv = self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim
        out = self.heads * self.head_dim * self.hidden
        matrices = (3 if self.gated else 2) * self.hidden
        ffn = matrices * (self.ffn * max(1, self.experts) + self.shared_ffn)
        mlps = (self.layers - self.dense_layers) * ffn + self.dense_layers * matrices * self.dense_ffn
        return float(self.layers * (qkv + out) + mlps + self.hidden * self.vocabulary)

    @property
    def dense_part(self) -> Shape:
        """The stack of its layers that have no experts."""
        return replace(self, layers=self.dense_layers, ffn=self.dense_ffn, experts=0, top_k=0, shared_ffn=0, dense_layers=0)

    @property
    def stored_weights(self) -> float:
        """Parameters in memory: with the embedding table (no shipped model of this size ties it to the head)."""
        return self.weights + float(self.hidden * self.vocabulary)


#: Published shapes: model cards and `config.json` files of the models.
SHAPES = {
    "llama-7b": Shape(32, 4096, 32, 32, 128, 11008, 32000),
    "llama-13b": Shape(40, 5120, 40, 40, 128, 13824, 32000),
    "llama-30b": Shape(60, 6656, 52, 52, 128, 17920, 32000),
    "code-llama-34b": Shape(48, 8192, 64, 8, 128, 22016, 32000),
    "mistral-7b": Shape(32, 4096, 32, 8, 128, 14336, 32000),
    "yi-34b": Shape(60, 7168, 56, 8, 128, 20480, 64000),
    "qwen1.5-72b": Shape(80, 8192, 64, 64, 128, 24576, 152064),
    "llama-70b": Shape(80, 8192, 64, 8, 128, 28672, 32000),
    "llama-3-8b": Shape(32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3-70b": Shape(80, 8192, 64, 8, 128, 28672, 128256),
    "llama-3-405b": Shape(126, 16384, 128, 8, 128, 53248, 128256),
    "bloom-176b": Shape(70, 14336, 112, 112, 128, 57344, 250880, gated=False),
    "gpt-j-6b": Shape(28, 4096, 16, 16, 256, 16384, 50400, gated=False, parallel_block=True),
    "falcon-180b": Shape(80, 14848, 232, 8, 64, 59392, 65024, gated=False, parallel_block=True),
    "qwen2.5-1.5b": Shape(28, 1536, 12, 2, 128, 8960, 151936),
    "qwen2.5-14b": Shape(48, 5120, 40, 8, 128, 13824, 152064),
    "qwen3-30b-a3b": Shape(48, 2048, 32, 4, 128, 768, 151936, experts=128, top_k=8),
    "qwen3-32b": Shape(64, 5120, 64, 8, 128, 25600, 151936),
    "mixtral-8x7b": Shape(32, 4096, 32, 8, 128, 14336, 32000, experts=8, top_k=2),
    "mixtral-8x22b": Shape(56, 6144, 48, 8, 128, 16384, 32768, experts=8, top_k=2),
    "qwen3-235b-a22b": Shape(94, 4096, 64, 4, 128, 1536, 151936, experts=128, top_k=8),
    "llama-4-scout": Shape(48, 5120, 40, 8, 128, 8192, 202048, experts=16, top_k=1, shared_ffn=8192),
    "llama-4-maverick": Shape(48, 5120, 40, 8, 128, 8192, 202048, experts=128, top_k=1, shared_ffn=8192, dense_layers=24,
                              dense_ffn=16384),
    # Its latent attention as multi-query: projections a quarter too large, a cache of 256 instead of 576 elements a token.
    "deepseek-v3": Shape(61, 7168, 128, 1, 128, 2048, 129280, experts=256, top_k=8, shared_ffn=2048, dense_layers=3,
                         dense_ffn=18432),
    "gpt2-large": Shape(36, 1280, 20, 20, 64, 5120, 50257, gated=False),
    "bert-large": Shape(24, 1024, 16, 16, 64, 4096, 30522, gated=False),
    "gpt3-xl": Shape(24, 2048, 24, 24, 128, 8192, 50257, gated=False),
    "gpt3-175b": Shape(96, 12288, 96, 96, 128, 49152, 50257, gated=False),
    "gpt3-2.7b": Shape(32, 2560, 32, 32, 80, 10240, 50257, gated=False),
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A framework: its formats and its one host constant."""

    host_us_per_layer: float                # launching one layer's kernels and collectives
    mode: Literal["eager", "queued", "graph"]   # eager: host beside device; queued: prefill waits for it, decode does not
    dtype: str = "fp16"
    kv_dtype: str = "fp16"
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
    seconds = with_host(device_s, host_s, engine, is_decode=q_len == 1)
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
