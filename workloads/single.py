"""One operator as a graph of its own, for studies of a single GEMM or attention without a model around it.

The first operand comes from the host (``input``), weights and KV cache lie in memory, the result goes out (``output``).
"""

from __future__ import annotations

import math

from ..sim.dtypes import parse_dtype
from .graph import GraphBuilder, OperatorGraph
from .operators import Attention, Gemm, Operator
from .tensors import Tensor


def gemm(
    m: int, n: int, k: int, *, batch: int = 1, bias: bool = False, weights: str = "bf16", activations: str = "bf16",
) -> OperatorGraph:
    """C [batch, m, n] = A [batch, m, k] · B [batch, k, n] (+ bias [n])."""
    weight_format, format_ = parse_dtype(weights), parse_dtype(activations)
    operands = [Tensor("a", (batch, m, k), format_, "input"), Tensor("b", (batch, k, n), weight_format, "weight")]
    if bias:
        operands.append(Tensor("bias", (n,), format_, "weight"))
    result = Tensor("c", (batch, m, n), format_, "output")
    return _alone(Gemm(name="gemm", inputs=tuple(operands), outputs=(result,), m=m, n=n, k=k, batch=batch))


def attention(
    heads: int, head_dim: int, q_tokens: int, kv_tokens: int, *, batch: int = 1, kv_heads: int | None = None,
    causal: bool = True, window: int | None = None, activations: str = "bf16", kv: str = "bf16",
) -> OperatorGraph:
    """Attention of the last *q_tokens* of *kv_tokens* tokens; multi-head unless *kv_heads* says otherwise."""
    kv_heads = heads if kv_heads is None else kv_heads
    format_, shape = parse_dtype(activations), (batch * q_tokens, heads * head_dim)
    cache = (batch, kv_heads, kv_tokens, head_dim)
    operands = (Tensor("q", shape, format_, "input"), *(Tensor(name, cache, parse_dtype(kv), "kv") for name in ("k", "v")))
    return _alone(Attention(
        name="attention", inputs=operands, outputs=(Tensor("out", shape, format_, "output"),), group="attention",
        batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, q_tokens=q_tokens, kv_tokens=kv_tokens, causal=causal,
        window=window, scale=1 / math.sqrt(head_dim),
    ))


def _alone(op: Operator) -> OperatorGraph:
    builder = GraphBuilder(op.name)
    builder.add(op)
    return builder.graph
