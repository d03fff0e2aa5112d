"""An ONNX model as a graph of operators.

Images are kept channels last, whatever the file says: only shapes matter here, not the order of values. Operators that change
no value (reshape, transpose, cast, dropout at inference) are free: who reads next reads in its own order. A batch
normalisation behind a convolution is in its filters, an addition of a vector behind a matrix product is its bias. Number formats
are those that are asked for, not those of the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from .graph import GraphBuilder, OperatorGraph
from .images import Convolution, Pool
from .onnx_reader import OnnxConfig, OnnxNode
from .operators import Gemm
from .tensors import Role, Tensor
from .vector import Elementwise, Norm, Softmax

FREE = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout")
_POINTWISE = {"Add": "add", "Mul": "mul", "Relu": "relu", "Gelu": "gelu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def lower_onnx(model: OnnxConfig, weights: DType, activations: DType) -> OperatorGraph:
    """The operators of *model*; a ConfigError names a node that is not supported."""
    return _Lowering(model, weights, activations).lower()


class _Lowering:
    def __init__(self, model: OnnxConfig, weights: DType, activations: DType) -> None:
        self.model, self.weights, self.activations = model, weights, activations
        self.builder = GraphBuilder(model.name)
        self.readers = Counter(name for node in model.nodes for name in node.inputs)
        self.reader = {name: node for node in model.nodes for name in node.inputs}
        self.stored = frozenset(model.weights)
        self._same: dict[str, str] = {}                          # name → the tensor whose values it has
        self._done: set[str] = set()                             # nodes that another one has taken in
        self._results = {self._last_of(name) for name in model.outputs}
        self._tensors: dict[str, Tensor] = {}

    def lower(self) -> OperatorGraph:
        for node in self.model.nodes:
            if node.name in self._done:
                continue
            if node.op in FREE:
                self._same[node.outputs[0]] = self._source(node.inputs[0])
                continue
            handler = _HANDLERS.get(node.op)
            if handler is None:
                self._refuse(node, f"operator {node.op} is not supported")
            handler(self, node)
        return self.builder.graph

    # -- tensors

    def _last_of(self, name: str) -> str:
        """The tensor that an operator writes for the output *name*, behind free nodes."""
        makers = {node.outputs[0]: node for node in self.model.nodes}
        while name in makers and makers[name].op in FREE:
            name = makers[name].inputs[0]
        return name

    def _source(self, name: str) -> str:
        return self._same.get(name, name)

    def shape(self, node: OnnxNode, name: str) -> tuple[int, ...]:
        """The shape of the tensor *name*, as the file has it."""
        if name not in self.model.shapes:
            self._refuse(node, f"the shape of {name!r} cannot be inferred", mend="simplify the model first")
        return self.model.shapes[name]

    def read(self, node: OnnxNode, name: str) -> Tensor:
        """What *node* reads as *name*: a weight, an input of the model, or what another operator wrote."""
        source = self._source(name)
        if source not in self._tensors:
            role: Role = "weight" if source in self.stored else "input"
            self._tensors[source] = Tensor(source, self._extents(node, source), self.weights if role == "weight"
                                           else self.activations, role)
        return self._tensors[source]

    def vector(self, node: OnnxNode, name: str) -> Tensor:
        """A bias or a gain: a weight in the activations' format."""
        if name not in self._tensors:
            self._tensors[name] = Tensor(name, self._extents(node, name), self.activations, "weight")
        return self._tensors[name]

    def write(self, node: OnnxNode, name: str) -> Tensor:
        """What *node* writes, by the name that the rest of the model knows it by."""
        role: Role = "output" if name in self._results or name in self.model.outputs else "activation"
        self._tensors[name] = Tensor(name, self._extents(node, name), self.activations, role)
        return self._tensors[name]

    def _extents(self, node: OnnxNode, name: str) -> tuple[int, ...]:
        return self.shape(node, name) or (1,)

    # -- nodes that belong together

    def only_reader(self, name: str) -> OnnxNode | None:
        """The one node that reads *name*, when nothing else does."""
        return self.reader[name] if self.readers[name] == 1 and name not in self.model.outputs else None

    def take(self, node: OnnxNode, into: str) -> str:
        """Mark *node* as done with what writes *into*; gives the name of its result."""
        self._done.add(node.name)
        return node.outputs[0]

    def added_vector(self, output: str, width: int) -> tuple[OnnxNode, str] | None:
        """The addition of a weight of *width* elements that alone reads *output*, and the name of that weight."""
        node = self.only_reader(output)
        if node is None or node.op != "Add":
            return None
        other = node.inputs[1] if node.inputs[0] == output else node.inputs[0]
        if other in self.stored and self.model.shapes[other][-1:] == (width,) and math.prod(self.model.shapes[other]) == width:
            return node, other
        return None

    def _refuse(self, node: OnnxNode, why: str, mend: str | None = None) -> NoReturn:
        raise ConfigError(f"{self.model.name}: node {node.name!r}: {why}", key=node.op, value=node.op,
                          allowed=tuple(sorted((*_HANDLERS, *FREE))), mend=mend)

    def wants(self, node: OnnxNode, holds: bool, why: str) -> None:
        """Refuse *node* unless *holds*."""
        if not holds:
            self._refuse(node, why)


def _matmul(lowering: _Lowering, node: OnnxNode) -> None:
    a, b = lowering.shape(node, node.inputs[0]), lowering.shape(node, node.inputs[1])
    lowering.wants(node, len(a) >= 2 and len(b) >= 2, f"a product of {list(a)} and {list(b)}; two dimensions or more are wanted")
    m, k, n = a[-2], a[-1], b[-1]
    if len(b) == 2 or math.prod(b[:-2]) == 1:
        m, batch = m * math.prod(a[:-2]), 1
    else:
        batch = math.prod(b[:-2])
        lowering.wants(node, math.prod(a[:-2]) == batch, f"a product of {list(a)} and {list(b)}, one broadcast over the other")
    _product(lowering, node, m, k, n, batch, transposed=False, bias=None)


def _gemm(lowering: _Lowering, node: OnnxNode) -> None:
    a, b = lowering.shape(node, node.inputs[0]), lowering.shape(node, node.inputs[1])
    attributes = node.attributes
    is_plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
    lowering.wants(node, is_plain,
                   "only alpha = beta = 1 and a first operand as it lies are supported")
    transposed = bool(attributes.get("transB"))
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else None
    n = b[0] if transposed else b[1]
    if bias is not None:
        lowering.wants(node, math.prod(lowering.shape(node, bias)) == n, f"the bias has not {n} elements")
    _product(lowering, node, a[0], a[1], n, 1, transposed=transposed, bias=bias)


def _product(
    lowering: _Lowering, node: OnnxNode, m: int, k: int, n: int, batch: int, *, transposed: bool, bias: str | None,
) -> None:
    output = node.outputs[0]
    inputs = [lowering.read(node, node.inputs[0]), lowering.read(node, node.inputs[1])]
    added = lowering.added_vector(output, n) if bias is None else None
    if added is not None:
        output, bias = lowering.take(added[0], output), added[1]
    if bias is not None:
        inputs.append(lowering.vector(node, bias))
    lowering.builder.add(Gemm(name=node.name, inputs=tuple(inputs), outputs=(lowering.write(node, output),), m=m, k=k, n=n,
                              batch=batch, weight_transposed=transposed, group="dense"))


def _windows(lowering: _Lowering, node: OnnxNode) -> dict[str, int]:
    """The sizes of a convolution or a pooling; a ConfigError for what is not modelled."""
    image, out = lowering.shape(node, node.inputs[0]), lowering.shape(node, node.outputs[0])
    lowering.wants(node, len(image) == 4, f"an image [batch, channels, height, width] is wanted; it reads {list(image)}")
    attributes = node.attributes
    default = lowering.shape(node, node.inputs[1])[2:] if node.op == "Conv" else image[2:]
    window = [int(extent) for extent in attributes.get("kernel_shape", default)]
    strides = attributes.get("strides", [1, 1])
    lowering.wants(node, len(set(strides)) == 1, f"strides are {strides}; equal ones are supported")
    lowering.wants(node, set(attributes.get("dilations", [1])) == {1}, "dilated windows are not supported")
    stride, pads = int(strides[0]), attributes.get("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        total = [max(0, (out[axis + 2] - 1) * stride + window[axis] - image[axis + 2]) for axis in range(2)]
        up = attributes["auto_pad"] == "SAME_LOWER"
        pads = [-(-t // 2) if up else t // 2 for t in total]
    return {"batch": image[0], "height": image[2], "width": image[3], "channels": image[1], "filter_height": window[0],
            "filter_width": window[1], "out_height": out[2], "out_width": out[3], "stride": stride, "pad_top": int(pads[0]),
            "pad_left": int(pads[1])}


def _conv(lowering: _Lowering, node: OnnxNode) -> None:
    sizes, output = _windows(lowering, node), node.outputs[0]
    filters, groups = lowering.shape(node, node.inputs[1])[0], int(node.attributes.get("group", 1))
    inputs = [lowering.read(node, node.inputs[0]), lowering.read(node, node.inputs[1])]
    if len(node.inputs) > 2 and node.inputs[2]:
        inputs.append(lowering.vector(node, node.inputs[2]))
    following = lowering.only_reader(output)
    if following is not None and following.op == "BatchNormalization":
        if len(inputs) == 2:
            inputs.append(lowering.vector(following, following.inputs[2]))      # what is left of it: a bias
        output = lowering.take(following, output)
        following = lowering.only_reader(output)
    activation = ""
    if following is not None and following.op in ("Relu", "Gelu", "Clip"):
        activation, output = _activation(lowering, following), lowering.take(following, output)
    lowering.builder.add(Convolution(
        name=node.name, inputs=tuple(inputs), outputs=(lowering.write(node, output),), filters=filters, groups=groups,
        activation=activation, group="conv", **sizes))


def _pool(function: str, whole: bool) -> Callable[[_Lowering, OnnxNode], None]:
    def lower(lowering: _Lowering, node: OnnxNode) -> None:
        sizes = _windows(lowering, node)
        if whole:
            sizes |= {"filter_height": sizes["height"], "filter_width": sizes["width"], "pad_top": 0, "pad_left": 0}
        lowering.builder.add(Pool(name=node.name, inputs=(lowering.read(node, node.inputs[0]),),
                                  outputs=(lowering.write(node, node.outputs[0]),), function=function, group="pool",
                                  **sizes))
    return lower


def _activation(lowering: _Lowering, node: OnnxNode) -> str:
    if node.op == "Clip":
        low = node.attributes.get("min", lowering.model.scalars.get(node.inputs[1]) if len(node.inputs) > 1 else None)
        lowering.wants(node, low == 0, "only a clip from 0 on (ReLU6) is supported; it counts as a ReLU")
        return "relu"
    if node.op == "Gelu":
        return "gelu_tanh" if node.attributes.get("approximate") == "tanh" else "gelu"
    return _POINTWISE[node.op]


def _elementwise(lowering: _Lowering, node: OnnxNode) -> None:
    """A function of one tensor, or of two of one shape."""
    output = lowering.shape(node, node.outputs[0])
    operands = node.inputs[:2] if node.op in ("Add", "Mul") else node.inputs[:1]
    for name in operands:
        lowering.wants(node, math.prod(lowering.shape(node, name)) == math.prod(output),
                       f"operands of {[list(lowering.shape(node, n)) for n in operands]}: one broadcast over the other")
    cols = (output[1] if len(output) == 4 else output[-1]) if output else 1             # of an image, its channels
    lowering.builder.add(Elementwise(
        name=node.name, inputs=tuple(lowering.read(node, name) for name in operands),
        outputs=(lowering.write(node, node.outputs[0]),), function=_activation(lowering, node), rows=math.prod(output) // cols,
        cols=cols, group="activation"))


def _softmax(lowering: _Lowering, node: OnnxNode) -> None:
    shape = lowering.shape(node, node.inputs[0])
    lowering.wants(node, node.attributes.get("axis", -1) in (-1, len(shape) - 1), "only a softmax over the last axis is supported")
    lowering.builder.add(Softmax(name=node.name, inputs=(lowering.read(node, node.inputs[0]),),
                                 outputs=(lowering.write(node, node.outputs[0]),), rows=math.prod(shape[:-1]), cols=shape[-1],
                                 group="softmax"))


def _norm(lowering: _Lowering, node: OnnxNode) -> None:
    shape = lowering.shape(node, node.inputs[0])
    lowering.wants(node, node.attributes.get("axis", -1) in (-1, len(shape) - 1), "only a norm over the last axis is supported")
    constants = tuple(lowering.vector(node, name) for name in node.inputs[1:3] if name)
    lowering.builder.add(Norm(
        name=node.name, inputs=(lowering.read(node, node.inputs[0]), *constants), outputs=(lowering.write(node, node.outputs[0]),),
        function="layernorm" if node.op == "LayerNormalization" else "rmsnorm", rows=math.prod(shape[:-1]), cols=shape[-1],
        group="norm"))


#: Operator type → what lowers it. To add one, add one.
_HANDLERS: dict[str, Callable[[_Lowering, OnnxNode], None]] = {
    "MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "MaxPool": _pool("max", False), "AveragePool": _pool("average", False),
    "GlobalAveragePool": _pool("average", True), "GlobalMaxPool": _pool("max", True), "Softmax": _softmax,
    "LayerNormalization": _norm, "RMSNormalization": _norm, "Clip": _elementwise, **dict.fromkeys(_POINTWISE, _elementwise),
}
