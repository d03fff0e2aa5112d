"""Memory-bound kernels on a GPU: norms, activations, residual adds, rotary embedding, softmax, embedding look-up.

A kernel streams its operands at the DRAM rate, or at the L2 rate when they are warm and fit, after a launch. How often it
passes over them, and in how many launches, is the kernel library's (`GpuLibrary`): an activation as two kernels moves five
tensors where a fused one moves three.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ..sim.errors import ConfigError
from .gpu_config import ELEMENT_BYTES, Gpu
from .gpu_kernel import Array, KernelTime, KernelWork, l2_miss_share, latency_limited_bytes_per_s, run

#: Tensors of m × n elements that a fused kernel moves: read and written.
FUSED_TENSORS = {"rmsnorm": 2.0, "add_rmsnorm": 4.0, "layernorm": 2.0, "softmax": 2.0, "rope": 2.0, "add": 3.0, "embed": 2.0,
                 "activation": 2.0, "gated_activation": 3.0}
#: fp32 operations for each element: exp or tanh approximations and the reduction share. Never the bound on these GPUs
#: but for the energy. Counted from the formulas.
FLOPS_PER_ELEMENT = {"rmsnorm": 4.0, "add_rmsnorm": 5.0, "layernorm": 7.0, "softmax": 8.0, "rope": 3.0, "add": 1.0,
                     "embed": 0.0, "activation": 8.0, "gated_activation": 9.0}
#: Bytes a resident thread has in flight in a streaming kernel (one 16-byte load), and threads resident in an SM
#: (2048 of cc 7–10, half of them in flight on average).
_BYTES_IN_FLIGHT_PER_SM = 16 * 2048
#: Threads of the block that works on one row where the library says nothing. PyTorch's softmax has half as many as the row has
#: 16-byte words, up to a power of two (SoftMax.cu, SoftMax_getBlockSize).
_ROW_THREADS, _MOST_SOFTMAX_THREADS, _WORD_BYTES = 256.0, 1024.0, 16.0
#: Issue-bound rates stand in bytes of elements of 16 bits, in which they were read.
_ISSUE_ELEMENT_BYTES = 2.0
#: Rows in flight hit L2 when they are read again while what is read and written meanwhile fits in it.
_STREAMS = 2.0


def vector(
    gpu: Gpu, op: str, m: ArrayLike, n: ArrayLike, *, dtype: str = "bf16", l2_warm: ArrayLike = False,
) -> KernelTime:
    """Time of the memory-bound *op* (a key of `FUSED_TENSORS`) on m rows of n elements."""
    return run(gpu, vector_work(gpu, op, m, n, dtype=dtype, l2_warm=l2_warm))


def vector_work(
    gpu: Gpu, op: str, m: ArrayLike, n: ArrayLike, *, dtype: str = "bf16", l2_warm: ArrayLike = False,
) -> KernelWork:
    if op not in FUSED_TENSORS:
        raise ConfigError(f"{op!r} is no vector operator", value=op, allowed=tuple(FUSED_TENSORS))
    if dtype not in ELEMENT_BYTES:
        raise ConfigError(f"{op} is not modelled in {dtype}", key="dtype", value=dtype, allowed=tuple(ELEMENT_BYTES))
    m, n, warm = (np.atleast_1d(np.asarray(a, dtype=float)) for a in np.broadcast_arrays(m, n, l2_warm))
    library, elements = gpu.library, m * n
    least_bytes = elements * FUSED_TENSORS[op] * ELEMENT_BYTES[dtype]
    row_bytes = n * ELEMENT_BYTES[dtype]
    in_registers = np.where(n <= library.register_row_columns.get(op, 0), 1.0, 0.0)
    rereads = (library.passes.get(op, 1.0) - 1.0) * _reread_misses(gpu, op, row_bytes) * (1.0 - in_registers)
    work = stream_work(gpu, least_bytes, elements * FLOPS_PER_ELEMENT[op], l2_warm=warm, moved_bytes=least_bytes * (1.0 + rereads),
                       kernels=library.kernels.get(op, 1.0))
    if op in library.bytes_per_cycle_per_sm:
        issue_s = _issue_seconds(gpu, m, elements * FUSED_TENSORS[op] * _ISSUE_ELEMENT_BYTES, library.bytes_per_cycle_per_sm[op])
        issue_s = issue_s * (1.0 - in_registers)
        work = replace(work, core_s=np.maximum(work.core_s, issue_s))
    return work


def stream_work(
    gpu: Gpu, least_bytes: ArrayLike, flops: ArrayLike, *, l2_warm: ArrayLike = False, moved_bytes: ArrayLike | None = None,
    kernels: float = 1.0,
) -> KernelWork:
    """The work of any streaming kernel: *flops* fp32 operations on operands of *least_bytes*, read and written once, or in passes
    that move *moved_bytes*."""
    least, operations, warm, moved = (np.atleast_1d(np.asarray(a, dtype=float)) for a in np.broadcast_arrays(
        least_bytes, flops, l2_warm, least_bytes if moved_bytes is None else moved_bytes))
    architecture, device = gpu.architecture, gpu.device
    dram_bytes = moved * l2_miss_share(gpu, least, warm)
    rate = np.minimum(gpu.dram_stream_bytes_per_s * architecture.vector_stream,
                      latency_limited_bytes_per_s(gpu, np.full_like(least, _BYTES_IN_FLIGHT_PER_SM * device.sms)))
    lanes_s = operations / (device.fp32_flops_per_cycle_per_sm / 2.0 * device.sms * device.clock_hz)
    core_s = np.maximum(moved / (gpu.l2_bytes_per_s * architecture.vector_l2_share), lanes_s)
    launch_s = np.full_like(least, (kernels * architecture.vector_launch_us + gpu.library.host_gap_us) * 1e-6)
    return KernelWork(launch_s, core_s, dram_bytes / rate, operations, operations, dram_bytes, moved, "fp32")


def _reread_misses(gpu: Gpu, op: str, row_bytes: Array) -> Array:
    """Share of a row's second reading that goes to DRAM: the rows in flight on all SMs may be more than L2 keeps."""
    threads = np.full_like(row_bytes, gpu.library.row_threads.get(op, _ROW_THREADS))
    if op == "softmax":
        threads = np.clip(2.0 ** np.ceil(np.log2(row_bytes / _WORD_BYTES / 2.0)), 32.0, _MOST_SOFTMAX_THREADS)
    in_flight = gpu.device.sms * np.floor(gpu.architecture.threads_per_sm / threads) * row_bytes
    return l2_miss_share(gpu, _STREAMS * in_flight, np.ones_like(in_flight))


def _issue_seconds(gpu: Gpu, rows: Array, least_bytes: Array, bytes_per_cycle_per_sm: float) -> Array:
    """Kernels with one narrow load per thread and index arithmetic around it are bound by their instructions: as many for an
    element of any format, so that *least_bytes* are those of 16-bit ones, for which the rates stand."""
    active = np.minimum(gpu.device.sms, rows)
    result: Array = least_bytes / (active * bytes_per_cycle_per_sm * gpu.device.clock_hz)
    return result
