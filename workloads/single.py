"""One operator as a graph of its own, for studies of a single GEMM or attention without a model around it.

Operands that a model would compute come from the host (``input``), weights and KV cache lie in memory, the result goes out
(``output``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ..sim.dtypes import DTYPES, DType, parse_dtype
from ..sim.errors import ConfigError
from .graph import GraphBuilder, OperatorGraph, program_order, tensors_of
from .images import Convolution, output_extent
from .operators import Attention, Gemm, Operator
from .recurrent import LstmFormats, add_lstm_layer
from .tensors import Tensor, positive_count
from .vector import POINTWISE, Elementwise, Norm, Softmax


def gemm(
    m: int, n: int, k: int, *, batch: int = 1, bias: bool = False, weights: str = "bf16", activations: str = "bf16",
) -> OperatorGraph:
    """C [batch, m, n] = A [batch, m, k] · B [batch, k, n] (+ bias [n])."""
    m, n, k, batch = (positive_count(key, value) for key, value in (("m", m), ("n", n), ("k", k), ("batch", batch)))
    stored, moved = parse_dtype(weights), parse_dtype(activations)
    operands = [Tensor("a", (batch, m, k), moved, "input"), Tensor("b", (batch, k, n), stored, "weight")]
    if bias:
        operands.append(Tensor("bias", (n,), moved, "weight"))
    result = Tensor("c", (batch, m, n), moved, "output")
    return _alone(Gemm(name="gemm", inputs=tuple(operands), outputs=(result,), m=m, n=n, k=k, batch=batch))


def attention(
    heads: int, head_dim: int, q_tokens: int, kv_tokens: int, *, batch: int = 1, kv_heads: int | None = None,
    causal: bool = True, window: int | None = None, activations: str = "bf16", kv: str = "bf16",
) -> OperatorGraph:
    """Attention of the last *q_tokens* of *kv_tokens* tokens; multi-head unless *kv_heads* says otherwise."""
    sizes = {"heads": heads, "kv_heads": heads if kv_heads is None else kv_heads, "head_dim": head_dim, "q_tokens": q_tokens,
             "kv_tokens": kv_tokens, "batch": batch}
    heads, kv_heads, head_dim, q_tokens, kv_tokens, batch = (positive_count(key, value) for key, value in sizes.items())
    shape, cache = (batch * q_tokens, heads * head_dim), (batch, kv_heads, kv_tokens, head_dim)
    moved, stored = parse_dtype(activations), parse_dtype(kv)
    operands = (Tensor("q", shape, moved, "input"), Tensor("k", cache, stored, "kv"), Tensor("v", cache, stored, "kv"))
    return _alone(Attention(
        name="attention", inputs=operands, outputs=(Tensor("out", shape, moved, "output"),), batch=batch, heads=heads,
        kv_heads=kv_heads, head_dim=head_dim, q_tokens=q_tokens, kv_tokens=kv_tokens, causal=causal, window=window,
        scale=1 / math.sqrt(head_dim),
    ))


def norm(
    rows: int, cols: int, *, function: Literal["rmsnorm", "layernorm"] = "rmsnorm", activations: str = "bf16",
) -> OperatorGraph:
    """A norm of each row of [rows, cols]; a layernorm with its bias."""
    x, y, format_ = _rows(rows, cols, activations, 1)
    names = ("weight", "bias") if function == "layernorm" else ("weight",)
    weights = tuple(Tensor(name, (cols,), format_, "weight") for name in names)
    return _alone(Norm(name=function, inputs=(*x, *weights), outputs=(y,), function=function, rows=rows, cols=cols))


def softmax(rows: int, cols: int, *, activations: str = "bf16") -> OperatorGraph:
    """Softmax of each row of [rows, cols]."""
    x, y, _ = _rows(rows, cols, activations, 1)
    return _alone(Softmax(name="softmax", inputs=x, outputs=(y,), rows=rows, cols=cols))


def elementwise(function: str, rows: int, cols: int, *, activations: str = "bf16") -> OperatorGraph:
    """A function of ``vector.POINTWISE`` over operands of [rows, cols]."""
    if function not in POINTWISE:
        raise ConfigError(f"{function!r} is no pointwise function", key="function", value=function, allowed=tuple(POINTWISE))
    x, y, _ = _rows(rows, cols, activations, POINTWISE[function].arity)
    return _alone(Elementwise(name=function, inputs=x, outputs=(y,), function=function, rows=rows, cols=cols))


def conv(
    height: int, width: int, channels: int, filters: int, *, filter_height: int = 3, filter_width: int = 3, stride: int = 1,
    padding: int = 0, groups: int = 1, batch: int = 1, weights: str = "bf16", activations: str = "bf16",
) -> OperatorGraph:
    """A convolution of [batch, height, width, channels] with *filters* windows, *padding* zeros on every side."""
    counts = {"height": height, "width": width, "channels": channels, "filters": filters, "filter_height": filter_height,
              "filter_width": filter_width, "stride": stride, "groups": groups, "batch": batch}
    height, width, channels, filters, filter_height, filter_width, stride, groups, batch = (
        positive_count(key, value) for key, value in counts.items())
    if padding < 0 or not isinstance(padding, int):
        raise ConfigError(f"padding is {padding}; a whole number of at least 0 is wanted", key="padding", value=padding)
    for axis, extent, window in (("height", height, filter_height), ("width", width, filter_width)):
        if extent + 2 * padding < window:
            raise ConfigError(f"the filter's {axis} of {window} is larger than the padded image's {extent + 2 * padding}",
                              key=f"filter_{axis}", value=window)
    if channels % groups or filters % groups:
        raise ConfigError(f"groups is {groups}; it must divide channels ({channels}) and filters ({filters})", key="groups",
                          value=groups)
    stored, moved = parse_dtype(weights), parse_dtype(activations)
    out = output_extent(height, filter_height, stride, padding), output_extent(width, filter_width, stride, padding)
    image = Tensor("image", (batch, height, width, channels), moved, "input")
    kernel = Tensor("filters", (groups, filter_height, filter_width, channels // groups, filters // groups), stored, "weight")
    result = Tensor("out", (batch, *out, filters), moved, "output")
    return _alone(Convolution(
        name="conv", inputs=(image, kernel), outputs=(result,), batch=batch, height=height, width=width, channels=channels,
        filters=filters, filter_height=filter_height, filter_width=filter_width, out_height=out[0], out_width=out[1],
        stride=stride, pad_top=padding, pad_left=padding, groups=groups))


def lstm(
    batch: int, width: int, hidden: int, *, steps: int = 1, layers: int = 1, weights: str = "bf16", activations: str = "bf16",
) -> OperatorGraph:
    """*steps* steps of *layers* LSTM layers of *hidden* units over inputs [batch, width]; each step waits for the one before."""
    sizes = {"batch": batch, "input": width, "hidden": hidden, "steps": steps, "layers": layers}
    batch, width, hidden, steps, layers = (positive_count(key, value) for key, value in sizes.items())
    formats = LstmFormats(parse_dtype(weights), parse_dtype(activations))
    builder = GraphBuilder("lstm")
    xs = tuple(Tensor(f"x{step}", (batch, width), formats.activations, "input") for step in range(steps))
    for layer in range(layers):
        xs = add_lstm_layer(builder, f"layer{layer}", xs, batch, width if layer == 0 else hidden, hidden, formats,
                            is_last=layer == layers - 1, layer=layer)
    return builder.graph


#: Kind → how the options of the command line build it: (options, format of what is stored, format of what is computed on).
_BUILDERS: dict[str, Callable[[Mapping[str, Any], str, str], OperatorGraph]] = {
    "gemm": lambda o, stored, moved: gemm(o["m"], o["n"], o["k"], batch=o["batch"], weights=stored, activations=moved),
    "attention": lambda o, stored, moved: attention(
        o["heads"], o["head_dim"], positive_count("q", o["q"]), positive_count("context", o["context"]), batch=o["batch"],
        kv_heads=o["kv_heads"], causal=not o["full"], activations=moved, kv=stored),
    "norm": lambda o, stored, moved: norm(o["rows"], o["cols"], function=o["function"], activations=moved),
    "softmax": lambda o, stored, moved: softmax(o["rows"], o["cols"], activations=moved),
    "elementwise": lambda o, stored, moved: elementwise(o["function"], o["rows"], o["cols"], activations=moved),
    "conv": lambda o, stored, moved: conv(
        o["height"], o["width"], o["channels"], o["filters"], **_window(o["filter"]),
        stride=o["stride"], padding=o["padding"], groups=o["groups"], batch=o["batch"], weights=stored, activations=moved),
    "lstm": lambda o, stored, moved: lstm(o["batch"], o["input"], o["hidden"], steps=o["steps"], layers=o["layers"],
                                          weights=stored, activations=moved),
}


def single_operator(kind: str, options: Mapping[str, Any]) -> tuple[OperatorGraph, dict[str, Any]]:
    """The graph of the operator *kind* with the sizes in *options*, and the same as plain data for the report.

    ``options["dtype"]`` is the format of all operands; one with group scales is that of the weights or KV cache, beside bf16.
    """
    stored = parse_dtype(options["dtype"])
    moved = DTYPES["bf16"] if stored.group else stored
    graph = _BUILDERS[kind](options, stored.name, moved.name)
    ops = list(program_order(graph))
    if len(ops) == 1:
        name, tensors = ops[0].name, (*ops[0].inputs, *ops[0].outputs)
        title = " ".join(f"{t.name}{list(t.shape)}" for t in tensors)
    else:                                                   # a chain: what comes from outside, and what goes there
        name, tensors = kind, tuple(t for t in tensors_of(graph).values() if t.role != "activation")
        title = ", ".join(f"{key} {options[key]}" for key in ("batch", "input", "hidden", "steps", "layers"))
    graph.graph["name"] = f"{name} {title} {stored.name}"
    return graph, {
        "operator": ops[0].kind if len(ops) == 1 else kind, "name": name,
        "operands": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype.name} for t in tensors],
    }


def _window(extents: Sequence[int]) -> dict[str, int]:
    """Height and width of a filter from one or two numbers."""
    if len(extents) > 2:
        raise ConfigError(f"--filter takes a height and a width; these are {len(extents)} numbers", key="--filter",
                          value=list(extents))
    return {"filter_height": extents[0], "filter_width": extents[-1]}


def _rows(rows: int, cols: int, activations: str, operands: int) -> tuple[tuple[Tensor, ...], Tensor, DType]:
    shape, format_ = (positive_count("rows", rows), positive_count("cols", cols)), parse_dtype(activations)
    x = tuple(Tensor(f"x{i}", shape, format_, "input") for i in range(operands))
    return x, Tensor("y", shape, format_, "output"), format_


def _alone(op: Operator) -> OperatorGraph:
    builder = GraphBuilder(op.name)
    builder.add(op)
    return builder.graph
