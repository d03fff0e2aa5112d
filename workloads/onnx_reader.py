"""Reader of ONNX files (the extra ``tilesim[onnx]``): nodes, shapes and which tensors are weights, as plain values.

The onnx package is imported when a file is read, and only then. Shapes come from its shape inference; a first dimension that
the file leaves open is the batch.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..sim.config import Config
from ..sim.errors import ConfigError

MISSING = "reading ONNX files needs the onnx package, which is not installed"


class OnnxNode(Config):
    """One node: its operator type, the names of what it reads and writes ("" for an input left out), its attributes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class OnnxConfig(Config):
    """A model: its nodes in order, the shape of every tensor, and which are weights, inputs and outputs.

    ``scalars``: weights of one element by value, for the few operators whose meaning hangs on one.
    """

    name: str
    batch: int
    nodes: tuple[OnnxNode, ...]
    shapes: dict[str, tuple[int, ...]]
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scalars: dict[str, float]


def read_onnx(path: Path, batch: int | None) -> OnnxConfig:
    """The model in the file *path* for *batch* items (None: what the file fixes, else 1); a ConfigError when it cannot be read,
    leaves sizes open, or fixes another batch."""
    try:
        import onnx
        from onnx import helper, numpy_helper, shape_inference
    except ImportError:
        raise ConfigError(MISSING, file=str(path), mend="pip install 'tilesim[onnx]'") from None
    if not path.is_file():
        raise ConfigError("no such file", file=str(path))
    try:
        model = onnx.load(str(path), load_external_data=False)
        batch = _set_batch(model.graph.input, {tensor.name for tensor in model.graph.initializer}, batch, path)
        graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except ConfigError:
        raise
    except Exception as error:                       # protobuf and onnx raise many kinds for a damaged file
        raise ConfigError(f"is no ONNX model that can be read: {str(error).strip().splitlines()[0]}", file=str(path)) from None
    if not graph.node:
        raise ConfigError("is no ONNX model: it has no nodes", file=str(path))
    constants = {node.output[0]: attribute.t for node in graph.node if node.op_type == "Constant"
                 for attribute in node.attribute if attribute.name == "value"}
    stored = {tensor.name: tensor for tensor in graph.initializer} | constants
    shapes = {name: tuple(tensor.dims) for name, tensor in stored.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name not in stored:
            shapes[value.name] = tuple(_size(dim, value.name, path) for dim in value.type.tensor_type.shape.dim)
    scalars = {name: float(numpy_helper.to_array(tensor).ravel()[0]) for name, tensor in stored.items()
               if _elements(shapes[name]) == 1 and not tensor.external_data}
    taken = Counter(node.name for node in graph.node)
    nodes = tuple(
        OnnxNode(name=node.name if node.name and taken[node.name] == 1 else f"{node.op_type.lower()}.{number}", op=node.op_type,
                 inputs=tuple(node.input), outputs=tuple(node.output),
                 attributes={a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute if a.name != "value"})
        for number, node in enumerate(graph.node) if node.op_type != "Constant")
    return OnnxConfig(name=path.stem, batch=batch, nodes=nodes, shapes=shapes, weights=tuple(stored),
                      inputs=tuple(value.name for value in graph.input if value.name not in stored),
                      outputs=tuple(value.name for value in graph.output), scalars=scalars)


def _set_batch(inputs: Any, stored: set[str], batch: int | None, path: Path) -> int:
    """Write the batch into the first dimension of every input that leaves it open, and return it; refuse a fixed one that is
    another."""
    first = {value.name: value.type.tensor_type.shape.dim[0] for value in inputs
             if value.name not in stored and value.type.tensor_type.shape.dim}
    fixed = {name: int(dim.dim_value) for name, dim in first.items() if dim.HasField("dim_value")}
    if batch is not None and fixed and batch not in fixed.values():
        name, size = next(iter(fixed.items()))
        raise ConfigError(f"input {name!r} has a first dimension of {size}; a batch of {batch} is wanted", file=str(path),
                          key="--batch", value=batch, mend="leave --batch out, or export with an open batch")
    items = batch if batch is not None else next(iter(fixed.values()), 1)
    for dim in first.values():
        if not dim.HasField("dim_value"):
            dim.dim_value = items
    return items


def _size(dim: Any, name: str, path: Path) -> int:
    if not dim.HasField("dim_value") or dim.dim_value < 1:
        raise ConfigError(f"tensor {name!r} has an open dimension {dim.dim_param!r}; only the batch may be open", file=str(path),
                          mend="export the model with fixed sizes, or simplify it first")
    return int(dim.dim_value)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _plain(value: Any) -> Any:
    """An attribute as JSON can hold it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float | str):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
