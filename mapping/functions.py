"""What each compute function means, on plain arrays: the one definition that the functional interpreter executes.

A function takes the arrays of its reads, what its writes held before, and its parameters, and gives the arrays of its writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..sim.patches import Patches

Array = npt.NDArray[np.float64]
Function = Callable[[Sequence[Array], Sequence[Array], Mapping[str, Any]], tuple[Array, ...]]

#: ε of the norms: Llama's rms_norm_eps and GPT-2's layer_norm_epsilon (their config.json). No cost depends on it.
NORM_EPSILON = 1e-5
#: Base of the rotary angles (Su et al., 2021, arXiv:2104.09864, §3.2.2). No cost depends on it.
ROPE_BASE = 10000.0


def _matmul(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    product = reads[0] @ reads[1]
    return (before[0] + product,) if params.get("accumulate") else (product,)


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _rmsnorm(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + NORM_EPSILON) * weight + bias)


def _layernorm(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + NORM_EPSILON) * weight + bias)


def _rope(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """x [rows, heads, head_dim]: rotate the pairs (i, i + head_dim/2) by position · base^(−2i/head_dim)."""
    x = reads[0]
    half = x.shape[-1] // 2
    positions = params["position"] + (params["row"] + np.arange(x.shape[0])) % params["tokens"]
    angle = positions[:, None, None] * ROPE_BASE ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return (np.concatenate((first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)),
                           axis=-1),)


def _hidden(queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], window: int | None) -> npt.NDArray[np.bool_]:
    """[query, key]: whether the causal (sliding window) mask hides the key from the query."""
    hidden = keys[None, :] > queries[:, None]
    return hidden if window is None else hidden | (keys[None, :] <= queries[:, None] - window)


def _softmax(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Rows of scores; with ``row`` … they are rows (token · group + head) of causal attention, masked by position."""
    scores = reads[0]
    if "q_position" in params:
        rows = params["row"] + np.arange(scores.shape[0])
        queries = params["q_position"] + rows // params["group"] % params["q_tokens"]
        scores = np.where(_hidden(queries, np.arange(scores.shape[-1]), params["window"]), -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True),)


def _online_softmax(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Scores [..., q, t] (then the running maximum and sum [..., q] and output [..., q, d]) → probabilities against the new
    maximum, the new maximum and sum (and the output rescaled). With ``q_position`` the causal mask hides keys."""
    scores = reads[0] * params["scale"]
    if "q_position" in params:
        queries = params["q_position"] + np.arange(scores.shape[-2])
        keys = params["kv_position"] + np.arange(scores.shape[-1])
        scores = np.where(_hidden(queries, keys, params["window"]), -np.inf, scores)
    is_first = len(reads) == 1
    maximum = scores.max(axis=-1) if is_first else np.maximum(reads[1], scores.max(axis=-1))
    finite = np.where(np.isneginf(maximum), 0.0, maximum)          # a row that has seen no key yet
    probabilities = np.exp(scores - finite[..., None])
    total = probabilities.sum(axis=-1)
    if is_first:
        return probabilities, maximum, total
    rescale = np.exp(reads[1] - finite)
    return probabilities, maximum, reads[2] * rescale + total, reads[3] * rescale[..., None]


def _softmax_statistics(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """A piece [rows, n] (then the maximum and sum [rows] of the pieces before) → maximum and sum with it."""
    maximum = reads[0].max(axis=-1) if len(reads) == 1 else np.maximum(reads[1], reads[0].max(axis=-1))
    total = np.exp(reads[0] - maximum[..., None]).sum(axis=-1)
    return maximum, total if len(reads) == 1 else reads[2] * np.exp(reads[1] - maximum) + total


def _softmax_normalize(x: Array, maximum: Array, total: Array) -> Array:
    return np.asarray(np.exp(x - maximum[..., None]) / total[..., None])


def _rmsnorm_statistics(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    return ((reads[0] ** 2).sum(axis=-1) + (reads[1] if len(reads) > 1 else 0.0),)


def _rmsnorm_normalize(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """x [rows, n], the sum of squares [rows] of rows of ``cols`` elements, weight [n], perhaps bias [n]."""
    x, squares, weight, *bias = reads
    return (x / np.sqrt(squares / params["cols"] + NORM_EPSILON)[..., None] * weight + (bias[0] if bias else 0.0),)


def _layernorm_statistics(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """A piece [rows, n] (then mean and centred sum of squares [rows] of the ``seen`` elements before) → both with it."""
    x, seen = reads[0], params["seen"]
    mean = x.mean(axis=-1)
    squares = ((x - mean[..., None]) ** 2).sum(axis=-1)
    if len(reads) == 1:
        return mean, squares
    count, apart = x.shape[-1], mean - reads[1]
    return reads[1] + apart * count / (seen + count), reads[2] + squares + apart**2 * seen * count / (seen + count)


def _layernorm_normalize(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    x, mean, squares, weight, *bias = reads
    scaled = (x - mean[..., None]) / np.sqrt(squares / params["cols"] + NORM_EPSILON)[..., None]
    return (scaled * weight + (bias[0] if bias else 0.0),)


def _windows(x: Array, p: Patches, outside: float = 0.0) -> Array:
    """The windows of *x* [images, rows, cols, channels]: [images, out_rows, out_cols, filter_rows, filter_cols, channels]."""
    height = (p.out_rows - 1) * p.stride_rows + p.filter_rows
    width = (p.out_cols - 1) * p.stride_cols + p.filter_cols
    rows, cols = min(x.shape[1], height - p.top), min(x.shape[2], width - p.left)
    padded = np.full((x.shape[0], height, width, x.shape[3]), outside)
    padded[:, p.top:p.top + rows, p.left:p.left + cols] = x[:, :rows, :cols]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (p.filter_rows, p.filter_cols), axis=(1, 2))
    return np.asarray(windows[:, ::p.stride_rows, ::p.stride_cols].transpose(0, 1, 2, 4, 5, 3))


def _conv(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    p: Patches = params["patches"]
    windows = _windows(reads[0], p)
    matrix = windows.reshape(windows.shape[0] * p.positions, -1)[:, p.first:p.first + p.elements(reads[0].shape[3])]
    return _matmul((matrix, reads[1]), before, params)


def _depthwise(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Filters [filter_rows, filter_cols, channels]: each channel by itself."""
    windows = _windows(reads[0], params["patches"])
    return (np.einsum("bxyijc,ijc->bxyc", windows, reads[1]).reshape(-1, reads[0].shape[3]),)


def _max_pool(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    return (_windows(reads[0], params["patches"], -np.inf).max(axis=(3, 4)).reshape(-1, reads[0].shape[3]),)


def _average_pool(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Over what lies inside the image."""
    x, p = reads[0], params["patches"]
    found = _windows(x, p).sum(axis=(3, 4)) / _windows(np.ones_like(x), p).sum(axis=(3, 4))
    return (found.reshape(-1, x.shape[3]),)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _lstm_cell(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Gates' sums of x and of h [rows, 4 · hidden] (i, f, g, o) and c [rows, hidden] → h', c'."""
    i, f, g, o = np.split(reads[0] + reads[1], 4, axis=-1)
    cell = _sigmoid(f) * reads[2] + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(cell), cell


def _route(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Scores [rows, experts] → softmax over the chosen ones [rows, top_k]; the rows are dealt round to the *active* experts."""
    rows = params["row"] + np.arange(reads[0].shape[0])
    chosen = (rows[:, None] * params["top_k"] + np.arange(params["top_k"])) % params["active"]
    return _softmax((np.take_along_axis(reads[0], chosen, axis=1),), (), {})


def _combine(reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
    """Shares [rows, top_k] and a result [rows, cols] for each choice → their sum."""
    return (np.sum([reads[0][:, [choice]] * result for choice, result in enumerate(reads[1:])], axis=0),)


def _plain(function: Callable[..., Array]) -> Function:
    return lambda reads, before, params: (function(*reads),)


def _same(x: Array) -> Array:
    return x


FUNCTIONS: dict[str, Function] = {
    "matmul": _matmul,
    "copy": _plain(_same),
    "dequantize": _plain(_same),                   # arrays hold values, not codes: packing does not change them
    "quantize": _plain(_same),
    "scale": lambda reads, before, params: (reads[0] * params["factor"],),
    "add": _plain(lambda a, b: a + b),
    "mul": _plain(lambda a, b: a * b),
    "add_relu": _plain(lambda a, b: _relu(a + b)),
    "relu": _plain(_relu),
    "sigmoid": _plain(_sigmoid),
    "tanh": _plain(np.tanh),
    "silu": _plain(_silu),
    "gelu": _plain(_gelu),
    "gelu_tanh": _plain(_gelu_tanh),
    "relu_mul": _plain(lambda a, b: _relu(a) * b),
    "silu_mul": _plain(lambda a, b: _silu(a) * b),
    "gelu_mul": _plain(lambda a, b: _gelu(a) * b),
    "gelu_tanh_mul": _plain(lambda a, b: _gelu_tanh(a) * b),
    "rmsnorm": _plain(_rmsnorm),
    "layernorm": _plain(_layernorm),
    "softmax_statistics": _softmax_statistics,
    "softmax_normalize": _plain(_softmax_normalize),
    "rmsnorm_statistics": _rmsnorm_statistics,
    "rmsnorm_normalize": _rmsnorm_normalize,
    "layernorm_statistics": _layernorm_statistics,
    "layernorm_normalize": _layernorm_normalize,
    "rope": _rope,
    "softmax": _softmax,
    "online_softmax": _online_softmax,
    "conv": _conv,
    "depthwise": _depthwise,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "lstm_cell": _lstm_cell,
    "route": _route,
    "combine": _combine,
    "online_softmax_end": _plain(lambda output, total: output / total[..., None]),
}

#: Functions that read packed or group-scaled elements as they are stored.
READS_PACKED = frozenset({"dequantize", "quantize"})
