"""Networks of layers: convolutional, fully connected and recurrent ones, from a YAML list of layers, lowered to operators.

A layer reads the one before it; an ``add`` also reads the one that it names. Batch normalisation at inference is a scale and a
shift that filters and bias have taken in; it is no layer here. A network of LSTM layers runs *steps* steps on as many inputs,
and what follows them reads the last step.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.dtypes import DType, parse_dtype
from ..sim.errors import ConfigError
from ..sim.yaml_reader import find_named
from .graph import GraphBuilder, OperatorGraph
from .images import Convolution, Pool, output_extent
from .model import MODELS_FOLDER
from .onnx_graph import lower_onnx
from .onnx_reader import OnnxConfig, read_onnx
from .operators import Gemm
from .recurrent import LstmFormats, add_lstm_layer
from .scalesim import ConvLayer, GemmLayer, read_layers
from .tensors import Tensor, positive_count
from .vector import Elementwise

Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Activation = Literal["relu", "silu", "gelu", "gelu_tanh"]
#: What an image of size n becomes: windows of *size* with *padding* zeros before and after.
Padding = Annotated[int, Field(ge=0, strict=True)]


class ConvConfig(Config):
    """A convolution of square windows; depth-wise with as many groups as channels."""

    type: Literal["conv"]
    name: str
    filters: Count
    size: Count
    stride: Count = 1
    padding: Padding = 0
    groups: Count = 1
    bias: bool = True
    activation: Activation | None = None


class PoolConfig(Config):
    """A pooling of square windows; *size* 0 is the whole image."""

    type: Literal["pool"]
    name: str
    function: Literal["max", "average"]
    size: Annotated[int, Field(ge=0, strict=True)]
    stride: Count = 1
    padding: Padding = 0


class DenseConfig(Config):
    """A fully connected layer over everything that the layer before it gives for one item of the batch."""

    type: Literal["dense"]
    name: str
    units: Count
    bias: bool = True
    activation: Activation | None = None


class AddConfig(Config):
    """The sum of the layer before and the layer *plus*: a residual connection."""

    type: Literal["add"]
    name: str
    plus: str
    activation: Activation | None = None


class LstmConfig(Config):
    """An LSTM layer over all steps; only before layers of other types."""

    type: Literal["lstm"]
    name: str
    hidden: Count


Layer = Annotated[ConvConfig | PoolConfig | DenseConfig | AddConfig | LstmConfig, Field(discriminator="type")]


class NetworkConfig(Config):
    """A network: the shape of one item of its input (height, width, channels; or the width of a vector), and its layers.

    ``reads``: layer → the layer that it reads, where that is not the one before it (``input`` is the network's input).
    """

    name: str
    source: str
    input: tuple[Count, ...]
    steps: Count = 1
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    reads: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_known(self) -> NetworkConfig:
        if len(self.input) not in (1, 3):
            raise ValueError(f"input is {list(self.input)}; [height, width, channels] or [width] is wanted")
        for layer, following in itertools.pairwise(self.layers):
            if isinstance(following, LstmConfig) and not isinstance(layer, LstmConfig):
                raise ValueError(f"layer {following.name!r} is an LSTM behind layers of other types; LSTM layers come first")
        if self.steps > 1 and not isinstance(self.layers[0], LstmConfig):
            raise ValueError(f"steps is {self.steps}, but no layer is recurrent: only LSTM layers run in steps")
        before: list[str] = ["input"]
        for layer in self.layers:
            if layer.name in before:
                raise ValueError(f"two layers are called {layer.name!r}")
            for wanted in (self.reads.get(layer.name), layer.plus if isinstance(layer, AddConfig) else None):
                if wanted is not None and wanted not in before:
                    raise ValueError(f"layer {layer.name!r} reads {wanted!r}, which is no layer before it: {', '.join(before)}")
            before.append(layer.name)
        for name in self.reads:
            if name not in before:
                raise ValueError(f"reads: there is no layer {name!r}; layers: {', '.join(before[1:])}")
        return self


class TopologyConfig(Config):
    """A SCALE-Sim topology: layers that know nothing of each other; each reads an input of its own from memory."""

    name: str
    layers: tuple[ConvLayer | GemmLayer, ...]


class Inference(Config):
    """One pass of *batch* items through a network."""

    model: NetworkConfig | TopologyConfig | OnnxConfig
    batch: int
    weights: DType
    activations: DType
    phase: Literal["inference"] = "inference"

    @property
    def name(self) -> str:
        return f"{self.model.name}, batch {self.batch}"

    @property
    def new_tokens(self) -> int:
        """A network has no tokens."""
        return 0

    def lower(self) -> OperatorGraph:
        """The operator graph of the pass."""
        if isinstance(self.model, TopologyConfig):
            return _lower_topology(self.model, self.batch, self.weights, self.activations)
        if isinstance(self.model, OnnxConfig):
            return lower_onnx(self.model, self.weights, self.activations)
        return _Lowering(self.model, self.batch, self.weights, self.activations).lower()


def is_network(model: str) -> bool:
    """Whether *model* names a network of layers: a shipped YAML, a YAML file, a topology CSV or an ONNX file."""
    path = Path(model)
    return path.suffix in (".yaml", ".yml", ".csv", ".onnx") or (MODELS_FOLDER / f"{model}.yaml").is_file()


def load_network(
    model: str | Path | NetworkConfig | TopologyConfig | OnnxConfig, batch: int | None = None,
) -> NetworkConfig | TopologyConfig | OnnxConfig:
    """The network that *model* means: a value as it is, a shipped name, a YAML file, a SCALE-Sim topology CSV, or an ONNX file,
    whose open batch is *batch* (None: 1)."""
    if isinstance(model, NetworkConfig | TopologyConfig | OnnxConfig):
        return model
    if str(model).endswith(".onnx"):
        return read_onnx(Path(model), batch)
    if str(model).endswith(".csv"):
        path = Path(model)
        return TopologyConfig(name=path.stem, layers=read_layers(path))
    path = find_named(str(model), [MODELS_FOLDER], "model")
    if path.suffix == ".json":
        raise ConfigError("is a transformer, which runs in a phase", file=str(path), key="model", value=str(model),
                          mend="add --phase prefill or --phase decode (in Python: tilesim.prefill, tilesim.decode)")
    return config_reader.load(NetworkConfig, path, folders=[MODELS_FOLDER], kind="model")


def inference(
    model: str | Path | NetworkConfig | TopologyConfig | OnnxConfig, batch: int | None = None, *, dtype: str = "bf16",
    weights: str | None = None, activations: str | None = None,
) -> Inference:
    """One pass of *batch* items through a network (a shipped name, a YAML file, a SCALE-Sim topology CSV, an ONNX file); without
    *batch* one, or as many as an ONNX file fixes."""
    batch = None if batch is None else positive_count("batch", batch)
    acts = parse_dtype(activations or dtype)
    if acts.group:
        raise ConfigError(f"activations are {acts.name!r}; group scales are for weights", key="activations", value=acts.name,
                          mend="state --activations, for instance bf16")
    network = load_network(model, batch)
    items = network.batch if isinstance(network, OnnxConfig) else (batch or 1)
    return Inference(model=network, batch=items, weights=parse_dtype(weights or dtype),
                     activations=acts)


class _Lowering:
    """Layer by layer; ``_made`` holds what each layer gives: one tensor, or after LSTM layers one for each step."""

    def __init__(self, network: NetworkConfig, batch: int, weights: DType, activations: DType) -> None:
        self.network, self.batch, self.weights, self.activations = network, batch, weights, activations
        self.builder = GraphBuilder(network.name)
        names = ("input",) if network.steps == 1 else tuple(f"input{step}" for step in range(network.steps))
        self._made = {"input": tuple(Tensor(name, (batch, *network.input), activations, "input") for name in names)}

    def lower(self) -> OperatorGraph:
        before = "input"
        for index, layer in enumerate(self.network.layers):
            source = self._made[self.network.reads.get(layer.name, before)]
            is_last = index == len(self.network.layers) - 1
            if isinstance(layer, LstmConfig):
                if len(source[0].shape) != 2:
                    raise ConfigError(f"layer {layer.name!r}: an LSTM reads a vector, not {list(source[0].shape[1:])}",
                                      key="layers")
                self._made[layer.name] = add_lstm_layer(
                    self.builder, layer.name, source, self.batch, source[0].shape[-1], layer.hidden,
                    LstmFormats(self.weights, self.activations), is_last=is_last)
            else:
                role: Literal["output", "activation"] = "output" if is_last else "activation"
                self._made[layer.name] = (self._layer(layer, source[-1], role),)
            before = layer.name
        return self.builder.graph

    def _layer(self, layer: ConvConfig | PoolConfig | DenseConfig | AddConfig, x: Tensor,
               role: Literal["output", "activation"]) -> Tensor:
        if isinstance(layer, ConvConfig):
            return self._conv(layer, x, role)
        if isinstance(layer, PoolConfig):
            return self._pool(layer, x, role)
        if isinstance(layer, DenseConfig):
            return self._dense(layer, x, role)
        return self._add(layer, x, role)

    def _image(self, name: str, x: Tensor) -> tuple[int, int, int]:
        if len(x.shape) != 4:
            raise ConfigError(f"layer {name!r} wants an image; it reads {list(x.shape[1:])}", key="layers")
        return x.shape[1], x.shape[2], x.shape[3]

    def _extents(self, name: str, height: int, width: int, size: int, stride: int, padding: int) -> tuple[int, int]:
        found = tuple(output_extent(extent, size, stride, padding) for extent in (height, width))
        if min(found) < 1 or padding >= size:
            raise ConfigError(f"layer {name!r}: windows of {size} with {padding} of padding do not fit on {height}×{width}",
                              key="layers")
        return found[0], found[1]

    def _weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return Tensor(name, shape, self.weights, "weight")

    def _bias(self, name: str, width: int) -> Tensor:
        return Tensor(f"{name}.bias", (width,), self.activations, "weight")

    def _conv(self, layer: ConvConfig, x: Tensor, role: Literal["output", "activation"]) -> Tensor:
        height, width, channels = self._image(layer.name, x)
        if channels % layer.groups or layer.filters % layer.groups:
            raise ConfigError(f"layer {layer.name!r}: groups ({layer.groups}) must divide {channels} channels and {layer.filters} "
                              "filters", key="layers")
        rows, cols = self._extents(layer.name, height, width, layer.size, layer.stride, layer.padding)
        kernel = (layer.groups, layer.size, layer.size, channels // layer.groups, layer.filters // layer.groups)
        operands = [x, self._weight(f"{layer.name}.filters", kernel)]
        operands += [self._bias(layer.name, layer.filters)] if layer.bias else []
        out = Tensor(f"{layer.name}.out", (self.batch, rows, cols, layer.filters), self.activations, role)
        self.builder.add(Convolution(
            name=layer.name, inputs=tuple(operands), outputs=(out,), batch=self.batch, height=height, width=width,
            channels=channels, filters=layer.filters, filter_height=layer.size, filter_width=layer.size, out_height=rows,
            out_width=cols, stride=layer.stride, pad_top=layer.padding, pad_left=layer.padding, groups=layer.groups,
            activation=layer.activation or "", group="conv"))
        return out

    def _pool(self, layer: PoolConfig, x: Tensor, role: Literal["output", "activation"]) -> Tensor:
        height, width, channels = self._image(layer.name, x)
        if layer.size:
            window, (rows, cols) = (layer.size, layer.size), self._extents(layer.name, height, width, layer.size, layer.stride,
                                                                           layer.padding)
        else:
            window, (rows, cols) = (height, width), (1, 1)
        out = Tensor(f"{layer.name}.out", (self.batch, rows, cols, channels), self.activations, role)
        self.builder.add(Pool(
            name=layer.name, inputs=(x,), outputs=(out,), function=layer.function, batch=self.batch, height=height, width=width,
            channels=channels, filter_height=window[0], filter_width=window[1], out_height=rows, out_width=cols,
            stride=layer.stride, pad_top=layer.padding, pad_left=layer.padding, group="pool"))
        return out

    def _dense(self, layer: DenseConfig, x: Tensor, role: Literal["output", "activation"]) -> Tensor:
        width = x.elements // self.batch
        operands = [x, self._weight(f"{layer.name}.weight", (width, layer.units))]
        operands += [self._bias(layer.name, layer.units)] if layer.bias else []
        out = Tensor(f"{layer.name}.{'sums' if layer.activation else 'out'}", (self.batch, layer.units), self.activations,
                     "activation" if layer.activation else role)
        self.builder.add(Gemm(name=layer.name, inputs=tuple(operands), outputs=(out,), m=self.batch, k=width, n=layer.units,
                              group="dense"))
        return self._activated(layer.name, layer.activation, out, role)

    def _add(self, layer: AddConfig, x: Tensor, role: Literal["output", "activation"]) -> Tensor:
        other = self._made[layer.plus][-1]
        if other.shape != x.shape:
            raise ConfigError(f"layer {layer.name!r} adds {list(x.shape[1:])} and {list(other.shape[1:])}", key="layers")
        one_pass = layer.activation in (None, "relu")                     # the lanes add and clip on the way
        out = Tensor(f"{layer.name}.{'out' if one_pass else 'sums'}", x.shape, self.activations,
                     role if one_pass else "activation")
        cols = x.shape[-1]
        self.builder.add(Elementwise(name=layer.name, inputs=(x, other), outputs=(out,), function="add_relu" if layer.activation ==
                                     "relu" else "add", rows=x.elements // cols, cols=cols, group="add"))
        return self._activated(layer.name, None if one_pass else layer.activation, out, role)

    def _activated(self, name: str, activation: Activation | None, x: Tensor, role: Literal["output", "activation"]) -> Tensor:
        if activation is None:
            return x
        out = Tensor(f"{name}.out", x.shape, self.activations, role)
        cols = x.shape[-1]
        self.builder.add(Elementwise(name=f"{name}.{activation}", inputs=(x,), outputs=(out,), function=activation,
                                     rows=x.elements // cols, cols=cols, group="activation"))
        return out


def _lower_topology(topology: TopologyConfig, batch: int, weights: DType, activations: DType) -> OperatorGraph:
    """Each layer by itself. A last partial window counts, as upstream rounds up: it hangs over the bottom and the right edge."""
    builder = GraphBuilder(topology.name)
    for number, layer in enumerate(topology.layers):
        name = f"{number}.{layer.name}"
        if isinstance(layer, GemmLayer):
            items = batch * layer.batch
            builder.add(Gemm(
                name=name, inputs=(Tensor(f"{name}.input", (items, layer.m, layer.k), activations, "input"),
                                   Tensor(f"{name}.weight", (items, layer.k, layer.n), weights, "weight")),
                outputs=(Tensor(f"{name}.out", (items, layer.m, layer.n), activations, "output"),),
                m=layer.m, k=layer.k, n=layer.n, batch=items, group="gemm"))
            continue
        image = Tensor(f"{name}.input", (batch, layer.height, layer.width, layer.channels), activations, "input")
        groups = layer.channels if layer.is_depthwise else 1
        kernel = (groups, layer.filter_height, layer.filter_width, layer.channels // groups, layer.filters)
        total = layer.filters * groups
        builder.add(Convolution(
            name=name, inputs=(image, Tensor(f"{name}.filters", kernel, weights, "weight")),
            outputs=(Tensor(f"{name}.out", (batch, layer.out_height, layer.out_width, total), activations, "output"),),
            batch=batch, height=layer.height, width=layer.width, channels=layer.channels, filters=total,
            filter_height=layer.filter_height, filter_width=layer.filter_width, out_height=layer.out_height,
            out_width=layer.out_width, stride=layer.stride, groups=groups, group="conv"))
    return builder.graph
