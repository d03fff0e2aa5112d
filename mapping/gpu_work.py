"""What one kernel of `gpu_kernels` must do on one GPU: the operators' sizes handed to the kernel models of `arch/gpu_*`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from ..arch import gpu_attention, gpu_gemm, gpu_moe, gpu_vector
from ..arch.gpu_config import Gpu
from ..arch.gpu_kernel import KernelWork, choose, run
from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..sim.units import FLOPS_PER_MAC, ceil_div
from ..workloads.experts import Experts
from ..workloads.images import Convolution, Pool
from ..workloads.operators import Attention, Embedding, Gemm, KvAppend, Operator, SelectLast
from ..workloads.recurrent import LstmCell
from ..workloads.vector import Elementwise, Norm, Rope, Softmax
from .gpu_kernels import Kernel

#: Formats of (weights, activations) that differ, and the kernel that libraries have for the pair. Weights of 4 bits are
#: widened to 16 before they multiply; a 16-bit weight matrix is multiplied in 16 bits whatever the activations were.
_MIXED = {("int4", "bf16"): "int4", ("int4", "fp16"): "int4", ("fp4", "bf16"): "mxfp4", ("fp4", "fp16"): "mxfp4",
          ("bf16", "fp16"): "bf16", ("fp16", "bf16"): "fp16", ("bf16", "fp8"): "bf16", ("fp16", "fp8"): "fp16",
          ("bf16", "int8"): "bf16", ("bf16", "fp4"): "bf16", ("fp32", "bf16"): "fp32", ("bf16", "fp32"): "fp32",
          ("fp32", "fp16"): "fp32", ("fp16", "fp32"): "fp32"}
_SAME = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")


def work_of(gpu: Gpu, kernel: Kernel) -> KernelWork:
    """The work of *kernel* on one of the GPUs that share it. What lies outside the chip before or after comes from or goes to
    DRAM, however warm the rest is."""
    known = _WORK.get(type(kernel.first))
    if known is None:
        raise ConfigError(f"{kernel.first.name}: no kernel of a GPU library is modelled for {kernel.first.kind!r}", key="--arch",
                          value=gpu.name, allowed=tuple(kind.kind for kind in _WORK),
                          mend="run it on a machine of parts and links (tilesim list chips)")
    work = known(gpu, kernel)
    external = np.array([(kernel.external_read_bytes + kernel.external_write_bytes) / kernel.parts])
    return replace(work, dram_bytes=np.maximum(work.dram_bytes, external),
                   dram_s=np.maximum(work.dram_s, external / gpu.dram_stream_bytes_per_s))


def signature(kernel: Kernel) -> Hashable:
    """Equal for kernels that take the same work: layers of one shape are timed once."""
    return (kernel.parts, kernel.splits_reduction, kernel.external_read_bytes, kernel.external_write_bytes,
            tuple(op.signature for op in kernel.operators))


def matmul_format(op: Gemm | Experts | Convolution) -> str:
    """The format of the library's kernel for *op*; a ConfigError when there is none for the pair."""
    weights, activations = _plain(op.inputs[2 if isinstance(op, Experts) else 1].dtype), _plain(op.inputs[0].dtype)
    if weights == activations and weights in _SAME:
        return weights
    if (weights, activations) in _MIXED:
        return _MIXED[weights, activations]
    raise ConfigError(f"{op.name}: GPU libraries have no kernel for {weights} weights and {activations} activations",
                      key="--weights", value=weights, allowed=(*_SAME, *(f"{w} × {a}" for w, a in _MIXED)),
                      mend="state --weights and --activations that are one of these pairs")


def compute_format(op: Operator) -> str:
    """The format in which the products of *op* are multiplied."""
    if isinstance(op, Gemm | Experts | Convolution):
        return matmul_format(op)
    name = _plain(op.inputs[0].dtype)
    return name if name in _SAME else "fp32"


def _plain(dtype: DType) -> str:
    return dtype.name.partition("-g")[0]


def _is_warm(op: Operator) -> bool:
    """Whether what *op* streams was written just before, by another operator of the run."""
    return op.inputs[0].role == "activation"


def _gemm(gpu: Gpu, kernel: Kernel) -> KernelWork:
    op = kernel.first
    assert isinstance(op, Gemm)
    n = sum(part.n for part in kernel.operators if isinstance(part, Gemm))
    k = op.k
    if kernel.splits_reduction:
        k = ceil_div(k, kernel.parts)
    else:
        n = ceil_div(n, kernel.parts)
    return gpu_gemm.gemm_work(gpu, op.m, n, k, batch=op.batch, dtype=matmul_format(op))


def _experts(gpu: Gpu, kernel: Kernel) -> KernelWork:
    op = kernel.first
    assert isinstance(op, Experts)
    return gpu_moe.moe_work(gpu, op.rows, op.intermediate // kernel.parts, op.hidden, op.experts, op.top_k,
                            active=op.active_experts, dtype=matmul_format(op))


def _attention(gpu: Gpu, kernel: Kernel) -> KernelWork:
    op = kernel.first
    assert isinstance(op, Attention)
    heads, kv_heads, tokens = op.heads // kernel.parts, op.kv_heads // kernel.parts, op.kv_tokens_read
    dtype, kv_dtype = compute_format(op), _plain(op.inputs[1].dtype)
    if op.q_tokens == 1:
        return gpu_attention.decode_work(gpu, op.batch, heads, kv_heads, op.head_dim, tokens, dtype=dtype, kv_dtype=kv_dtype)
    is_windowed = op.causal and op.window is not None and op.q_tokens > op.window
    if not is_windowed:
        return gpu_attention.prefill_work(gpu, op.batch, heads, kv_heads, op.head_dim, op.q_tokens, tokens, dtype=dtype,
                                          l2_warm=_is_warm(op), causal=op.causal)
    assert op.window is not None
    # A band: the causal triangle of the first window, then a full window of keys for every later query, in the same launch.
    later = (op.q_tokens - op.window) / op.window
    triangle = gpu_attention.prefill_work(gpu, op.batch, heads, kv_heads, op.head_dim, op.window, op.window, dtype=dtype,
                                          l2_warm=_is_warm(op))
    band = gpu_attention.prefill_work(gpu, op.batch * later, heads, kv_heads, op.head_dim, op.window, op.window, dtype=dtype,
                                      l2_warm=_is_warm(op), causal=False)
    fields = ("core_s", "dram_s", "flops", "issued_flops", "dram_bytes", "l2_bytes", "other_core_pj")
    return replace(triangle, **{name: getattr(triangle, name) + getattr(band, name) for name in fields})


def _vector(name: str, rows: Callable[[Any], int], cols: Callable[[Any], int]) -> Callable[[Gpu, Kernel], KernelWork]:
    """The work of a streaming kernel called *name*, over the columns of all its operators together."""

    def work(gpu: Gpu, kernel: Kernel) -> KernelWork:
        op = kernel.first
        width = sum(cols(part) for part in kernel.operators if type(part) is type(op))
        return gpu_vector.vector_work(gpu, name, rows(op), ceil_div(width, kernel.parts), dtype=_plain(op.outputs[0].dtype),
                                      l2_warm=_is_warm(op))

    return work


def _elementwise(gpu: Gpu, kernel: Kernel) -> KernelWork:
    op = kernel.first
    assert isinstance(op, Elementwise)
    name = "activation" if op.arity == 1 else "add" if op.function in ("add", "mul") else "gated_activation"
    if len(kernel.operators) > 1:
        name = "add_rmsnorm"                # and of a layernorm: the same four tensors
    return _vector(name, lambda e: int(e.rows), lambda e: int(e.cols))(gpu, kernel)


def _norm(gpu: Gpu, kernel: Kernel) -> KernelWork:
    op = kernel.first
    assert isinstance(op, Norm)
    rows = sum(part.rows for part in kernel.operators if isinstance(part, Norm))
    return gpu_vector.vector_work(gpu, op.function, ceil_div(rows, kernel.parts), op.cols, dtype=_plain(op.outputs[0].dtype),
                                  l2_warm=_is_warm(op))


def _convolution(gpu: Gpu, kernel: Kernel) -> KernelWork:
    """An implicit GEMM: its rows are output positions, its reduction a window, one problem a group; bias and activation are done in
    its epilogue. A pixel comes from DRAM once for all windows that see it, so traffic shrinks as the image does beside the matrix
    of windows. Where groups have few filters the tiles run mostly empty; libraries have a direct kernel on the lanes, and the
    faster is taken (cuDNN: implicit precomputed GEMM, and its own depth-wise kernels)."""
    op = kernel.first
    assert isinstance(op, Convolution)
    dtype, image = matmul_format(op), op.inputs[0]
    tensors = gpu_gemm.gemm_work(gpu, op.positions, op.group_filters, op.k, batch=op.groups, dtype=dtype)
    others = sum(t.nbytes for t in (*op.inputs[1:], *op.outputs))
    seen = image.dtype.bytes_for(op.touched_elements(image))
    windows = image.dtype.bytes_for(op.positions * op.k * op.groups)
    shrinks = min(1.0, (seen + others) / (windows + others))
    implicit = replace(tensors, dram_bytes=tensors.dram_bytes * shrinks, dram_s=tensors.dram_s * shrinks)
    direct = gpu_vector.stream_work(gpu, seen + others, FLOPS_PER_MAC * op.macs + op.vector_flops)
    return choose(run(gpu, direct).seconds < run(gpu, implicit).seconds, direct, implicit)


def _streamed(gpu: Gpu, kernel: Kernel) -> KernelWork:
    """A kernel that reads and writes its operands once (a pooling's windows overlap in L1)."""
    op = kernel.first
    nbytes = sum(t.dtype.bytes_for(op.touched_elements(t)) for t in (*op.inputs, *op.outputs))
    return gpu_vector.stream_work(gpu, nbytes / kernel.parts, op.vector_flops / kernel.parts, l2_warm=_is_warm(op))


_WORK: dict[type[Operator], Callable[[Gpu, Kernel], KernelWork]] = {
    Gemm: _gemm,
    Attention: _attention,
    Experts: _experts,
    Convolution: _convolution,
    Pool: _streamed,
    LstmCell: _streamed,
    Norm: _norm,
    Elementwise: _elementwise,
    Softmax: _vector("softmax", lambda op: int(op.rows), lambda op: int(op.cols)),
    Rope: _vector("rope", lambda op: int(op.rows), lambda op: int(op.heads * op.head_dim)),
    KvAppend: _vector("embed", lambda op: int(op.batch * op.tokens), lambda op: int(2 * op.kv_heads * op.head_dim)),
    Embedding: _vector("embed", lambda op: int(op.rows), lambda op: int(op.cols)),
    SelectLast: _vector("embed", lambda op: int(op.batch), lambda op: int(op.cols)),
}
