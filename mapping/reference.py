"""What each operator of a workload computes, in plain numpy on whole tensors, without tiles: what a mapping must equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..workloads.graph import OperatorGraph, program_order
from ..workloads.images import Convolution, Pool
from ..workloads.operators import Attention, Embedding, Gemm, KvAppend, Operator, SelectLast
from ..workloads.recurrent import LstmCell
from ..workloads.routing import Combine, Dispatch
from ..workloads.vector import Elementwise, Norm, Rope, Softmax
from .functions import NORM_EPSILON, ROPE_BASE, Array

#: (operator, its inputs, what its outputs held before) → its outputs.
Reference = Callable[[Operator, Sequence[Array], Sequence[Array]], tuple[Array, ...]]


def run_reference(graph: OperatorGraph, values: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Every tensor of *graph* after all operators have run, by name; *values* gives weights, caches and inputs."""
    known = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    for op in program_order(graph):
        before = [known.get(tensor.name, np.empty(tensor.shape)) for tensor in op.outputs]
        results = REFERENCES[op.kind](op, [known[tensor.name] for tensor in op.inputs], before)
        for tensor, result in zip(op.outputs, results, strict=True):
            known[tensor.name] = result.reshape(tensor.shape)
    return known


def _gemm(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Gemm)
    a = inputs[0].reshape(op.batch, op.m, op.k)
    b = (inputs[1].reshape(op.batch, op.n, op.k).transpose(0, 2, 1) if op.weight_transposed
         else inputs[1].reshape(op.batch, op.k, op.n))
    product = np.einsum("bmk,bkn->bmn", a, b)
    return (product + inputs[2] if op.has_bias else product,)


def _attention(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Attention)
    group = op.heads // op.kv_heads
    q = inputs[0].reshape(op.batch, op.q_tokens, op.heads, op.head_dim)
    k, v = (np.repeat(x.reshape(op.batch, op.kv_heads, op.kv_tokens, op.head_dim), group, axis=1) for x in inputs[1:3])
    scores = np.einsum("bqhd,bhtd->bhqt", q, k) * op.scale
    if op.causal:
        for query in range(op.q_tokens):
            position = op.kv_tokens - op.q_tokens + query
            first = 0 if op.window is None else max(0, position - op.window + 1)
            scores[:, :, query, :first] = -np.inf
            scores[:, :, query, position + 1:] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (np.einsum("bhqt,bhtd->bqhd", weights, v),)


def _kv_append(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, KvAppend)
    results = []
    for rows, cache in zip(inputs, before, strict=True):
        after = cache.reshape(op.batch, op.kv_heads, op.kv_tokens, op.head_dim).copy()
        new = rows.reshape(op.batch, op.tokens, op.kv_heads, op.head_dim)
        for token in range(op.tokens):
            after[:, :, op.slot + token] = new[:, token]
        results.append(after)
    return tuple(results)


def _norm(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Norm)
    x = inputs[0].reshape(op.rows, op.cols)
    if op.function == "layernorm":
        x = x - x.mean(1)[:, None]
    scaled = x / np.sqrt((x**2).sum(1)[:, None] / op.cols + NORM_EPSILON) * inputs[1]
    return (scaled + inputs[2] if op.has_bias else scaled,)


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "sigmoid": lambda x: np.asarray(0.5 * (1 + np.tanh(x / 2))),
    "tanh": lambda x: np.asarray((np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)),
    "silu": lambda x: np.asarray(x * (1 / (1 + np.exp(-x)))),
    "gelu": lambda x: np.asarray(x * (1 + _erf(x / math.sqrt(2))) / 2),
    "gelu_tanh": lambda x: np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2),
}


def _elementwise(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Elementwise)
    if op.function in ("add", "mul"):
        return (inputs[0] + inputs[1] if op.function == "add" else inputs[0] * inputs[1],)
    if op.function == "add_relu":
        total = inputs[0] + inputs[1]
        return (np.where(total > 0, total, 0.0),)
    gate = ACTIVATIONS[op.function.removesuffix("_mul")](inputs[0])
    return (gate * inputs[1] if op.arity == 2 else gate,)


def _rope(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Rope)
    x = inputs[0].reshape(op.rows, op.heads, op.head_dim)
    half = op.head_dim // 2
    as_complex = x[..., :half] + 1j * x[..., half:]
    positions = np.array([op.position_start + row % op.tokens for row in range(op.rows)])
    turn = np.exp(1j * positions[:, None] / ROPE_BASE ** (np.arange(half) / half)[None, :])
    turned = as_complex * turn[:, None, :]
    return (np.concatenate([turned.real, turned.imag], axis=-1),)


def _softmax(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Softmax)
    weights = np.exp(inputs[0].reshape(op.rows, op.cols) - inputs[0].max())
    return (weights / weights.sum(1, keepdims=True),)


def _embedding(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Embedding)
    rows = inputs[1].reshape(op.vocab, op.cols)[inputs[0].astype(int)]
    if op.has_positions:
        places = [op.position_start + row % op.tokens for row in range(op.rows)]
        rows = rows + inputs[2].reshape(-1, op.cols)[places]
    return (rows,)


def _select_last(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, SelectLast)
    return (inputs[0].reshape(op.batch, op.tokens, op.cols)[:, -1],)


def _taps(op: Convolution | Pool, y: int, x: int) -> list[tuple[int, int, int, int]]:
    """(row of the window, its column, row of the image, its column) of what window (y, x) sees inside the image."""
    top, left = y * op.stride - op.pad_top, x * op.stride - op.pad_left
    return [(i, j, top + i, left + j) for i in range(op.filter_height) for j in range(op.filter_width)
            if 0 <= top + i < op.height and 0 <= left + j < op.width]


def _conv(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    """The definition, tap by tap."""
    assert isinstance(op, Convolution)
    image = inputs[0].reshape(op.batch, op.height, op.width, op.groups, -1)
    filters = inputs[1].reshape(op.groups, op.filter_height, op.filter_width, op.channels // op.groups, op.group_filters)
    out = np.zeros((op.batch, op.out_height, op.out_width, op.groups, op.group_filters))
    for y in range(op.out_height):
        for x in range(op.out_width):
            for i, j, row, col in _taps(op, y, x):
                out[:, y, x] += np.einsum("bgc,gcn->bgn", image[:, row, col], filters[:, i, j])
    flat = out.reshape(-1, op.filters) + (inputs[2] if op.has_bias else 0.0)
    return (ACTIVATIONS[op.activation](flat) if op.activation else flat,)


def _pool(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Pool)
    image = inputs[0].reshape(op.batch, op.height, op.width, op.channels)
    out = np.empty((op.batch, op.out_height, op.out_width, op.channels))
    for y in range(op.out_height):
        for x in range(op.out_width):
            seen = np.stack([image[:, row, col] for _, _, row, col in _taps(op, y, x)])
            out[:, y, x] = seen.max(axis=0) if op.function == "max" else seen.mean(axis=0)
    return (out,)


def _lstm_cell(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, LstmCell)
    gates = (inputs[0] + inputs[1]).reshape(op.batch, 4, op.hidden)
    opened = 0.5 * (1 + np.tanh(gates / 2))                        # σ, written another way
    cell = opened[:, 1] * inputs[2].reshape(op.batch, op.hidden) + opened[:, 0] * np.tanh(gates[:, 2])
    return opened[:, 3] * np.tanh(cell), cell


def _dispatch(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    """Row by row: deal its choices to the experts in turn, and append it to each one's list."""
    assert isinstance(op, Dispatch)
    x, scores = inputs[0].reshape(op.rows, op.hidden), inputs[1].reshape(op.rows, op.experts)
    lists: list[list[Array]] = [[] for _ in range(op.active)]
    shares, turn = [], 0
    for row in range(op.rows):
        chosen = [(turn + choice) % op.active for choice in range(op.top_k)]
        turn += op.top_k
        for expert in chosen:
            lists[expert].append(x[row])
        weights = np.exp(scores[row, chosen])
        shares.append(weights / weights.sum())
    most = len(lists[0])
    full, short = [rows for rows in lists if len(rows) == most], [rows for rows in lists if len(rows) < most]
    return (np.array(shares), *(np.array(group) for group in (full, short) if group))


def _combine(op: Operator, inputs: Sequence[Array], before: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(op, Combine)
    results = [rows for group in inputs[1:] for rows in group.reshape(group.shape[0], -1, op.hidden)]
    served, out, turn = [0] * op.active, np.zeros((op.rows, op.hidden)), 0
    for row in range(op.rows):
        for choice in range(op.top_k):
            expert = turn % op.active
            out[row] += inputs[0].reshape(op.rows, op.top_k)[row, choice] * results[expert][served[expert]]
            served[expert] += 1
            turn += 1
    return (out,)


REFERENCES: dict[str, Reference] = {
    "gemm": _gemm,
    "attention": _attention,
    "kv_append": _kv_append,
    "norm": _norm,
    "elementwise": _elementwise,
    "rope": _rope,
    "softmax": _softmax,
    "embedding": _embedding,
    "select_last": _select_last,
    "conv": _conv,
    "pool": _pool,
    "lstm_cell": _lstm_cell,
    "dispatch": _dispatch,
    "combine": _combine,
}
