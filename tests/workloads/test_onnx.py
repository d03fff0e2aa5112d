"""ONNX models as workloads: the lowering on hand-written nodes, the reader on files where the onnx package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tilesim
from tilesim.cli import main
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.errors import ConfigError
from tilesim.workloads.graph import OperatorGraph, program_order, tensors_of, totals
from tilesim.workloads.images import Convolution, Pool
from tilesim.workloads.network import inference
from tilesim.workloads.onnx_graph import lower_onnx
from tilesim.workloads.onnx_reader import OnnxConfig, OnnxNode
from tilesim.workloads.operators import Gemm

BF16 = parse_dtype("bf16")
HAS_ONNX = importlib.util.find_spec("onnx") is not None
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the onnx package is not installed (tilesim[onnx])")


def node(op: str, inputs: str, output: str, **attributes: Any) -> OnnxNode:
    return OnnxNode(name=f"{op}-{output}", op=op, inputs=tuple(inputs.split()), outputs=(output,), attributes=attributes)


def model(nodes: list[OnnxNode], shapes: dict[str, tuple[int, ...]], weights: str = "", outputs: str = "y",
          scalars: dict[str, float] | None = None) -> OnnxConfig:
    return OnnxConfig(name="net", batch=2, nodes=tuple(nodes), shapes=shapes, weights=tuple(weights.split()), inputs=("x",),
                      outputs=tuple(outputs.split()), scalars=scalars or {})


def lowered(*args: Any, **kwargs: Any) -> OperatorGraph:
    return lower_onnx(model(*args, **kwargs), BF16, BF16)


def test_convolution_takes_in_norm_and_activation_and_flatten_is_free() -> None:
    graph = lowered(
        [node("Conv", "x w", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
         node("BatchNormalization", "a s b m v", "n"), node("Relu", "n", "r"), node("Flatten", "r", "f"),
         node("Gemm", "f w2 b2", "y", transB=1)],
        {"x": (2, 3, 8, 8), "w": (16, 3, 3, 3), "a": (2, 16, 4, 4), "n": (2, 16, 4, 4), "r": (2, 16, 4, 4), "f": (2, 256),
         "w2": (10, 256), "b2": (10,), "y": (2, 10), "s": (16,), "b": (16,), "m": (16,), "v": (16,)}, "w s b m v w2 b2")
    conv, dense = program_order(graph)
    assert isinstance(conv, Convolution)
    assert (conv.activation, conv.has_bias, conv.out_height, conv.pad_top, conv.channels) == ("relu", True, 4, 1, 3)
    assert dense.inputs[0] == conv.outputs[0]
    assert isinstance(dense, Gemm)
    assert dense.weight_transposed
    assert totals(graph).macs == 2 * (16 * 16 * 27 + 2560)
    assert [t.role for t in tensors_of(graph).values()] == ["input", "weight", "weight", "activation", "weight", "weight", "output"]


def test_an_encoder_block_of_matrix_products_is_counted_by_hand() -> None:
    """q·kᵀ of four heads, softmax, a residual and a norm; the vector behind a product is its bias."""
    shapes = {"x": (2, 5, 8), "wq": (8, 8), "bq": (8,), "q0": (2, 5, 8), "q": (2, 5, 8), "qh": (2, 4, 5, 2), "kt": (2, 4, 2, 5),
              "s": (2, 4, 5, 5), "p": (2, 4, 5, 5), "o": (2, 4, 5, 2), "oo": (2, 5, 8), "sum": (2, 5, 8), "g": (8,), "y": (2, 5, 8)}
    graph = lowered(
        [node("MatMul", "x wq", "q0"), node("Add", "q0 bq", "q"), node("Reshape", "q shape", "qh"), node("Transpose", "q", "kt"),
         node("MatMul", "qh kt", "s"), node("Softmax", "s", "p", axis=-1), node("MatMul", "p qh", "o"),
         node("Reshape", "o shape", "oo"), node("Add", "oo x", "sum"), node("LayerNormalization", "sum g", "y")],
        shapes | {"shape": (4,)}, "wq bq g shape")
    kinds = [op.kind for op in program_order(graph)]
    assert kinds == ["gemm", "gemm", "softmax", "gemm", "elementwise", "norm"]
    assert totals(graph).macs == 2 * (5 * 64 + 2 * 4 * 25 * 2)
    assert graph.nodes["MatMul-q0"]["op"].has_bias


def test_a_bias_that_others_read_too_is_not_taken_in() -> None:
    shapes = {"x": (2, 4), "w": (4, 4), "a": (2, 4), "b": (4,), "y": (2, 4), "z": (2, 4)}
    with pytest.raises(ConfigError, match="broadcast"):
        lowered([node("MatMul", "x w", "a"), node("Add", "a b", "y"), node("Relu", "a", "z")], shapes, "w b", outputs="y z")


@pytest.mark.parametrize(("nodes", "shapes", "complaint"), [
    ([node("Resize", "x", "y")], {"x": (2, 4), "y": (2, 4)}, "operator Resize is not supported"),
    ([node("Softmax", "x", "y", axis=0)], {"x": (2, 4), "y": (2, 4)}, "last axis"),
    ([node("Conv", "x w", "y", dilations=[2, 2])], {"x": (1, 2, 9, 9), "w": (4, 2, 3, 3), "y": (1, 4, 5, 5)}, "dilated"),
    ([node("Conv", "x w", "y", strides=[1, 2])], {"x": (1, 2, 9, 9), "w": (4, 2, 3, 3), "y": (1, 4, 7, 4)}, "strides"),
    ([node("Gemm", "x w", "y", alpha=0.5)], {"x": (2, 4), "w": (4, 4), "y": (2, 4)}, "alpha"),
    ([node("Clip", "x low", "y")], {"x": (2, 4), "low": (), "y": (2, 4)}, "ReLU6"),
    ([node("Relu", "x", "y")], {"x": (2, 4)}, "cannot be inferred"),
])
def test_what_is_not_modelled_is_refused_by_node(nodes: list[OnnxNode], shapes: dict[str, tuple[int, ...]], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        lowered(nodes, shapes, "w low")
    assert "MatMul" in caught.value.allowed


def test_same_padding_is_that_of_the_output() -> None:
    """Nine rows, stride two, windows of three: five outputs want one row of zeros on each side."""
    graph = lowered([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
                    {"x": (1, 4, 9, 9), "y": (1, 4, 5, 5)})
    (pool,) = program_order(graph)
    assert isinstance(pool, Pool)
    assert (pool.pad_top, pool.out_height) == (1, 5)


@pytest.mark.skipif(HAS_ONNX, reason="the onnx package is installed")
def test_without_the_package_the_extra_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    assert main(["run", "--arch", "hbm-npu", "--model", str(tmp_path / "net.onnx")]) == 2
    assert "pip install 'tilesim[onnx]'" in capsys.readouterr().err


def small_file(path: Path, batch: str | int = "N", op: str = "Relu") -> Path:
    """Convolution, activation, global pooling and a dense head, as an exporter writes it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    stored = {"w": np.zeros((8, 3, 3, 3)), "b": np.zeros(8), "w2": np.zeros((10, 8)), "b2": np.zeros(10)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             helper.make_node(op, ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"]),
             helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1)]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


@needs_onnx
def test_a_file_runs_with_its_open_batch(tmp_path: Path) -> None:
    path = small_file(tmp_path / "net.onnx")
    workload = inference(path, batch=4)
    assert totals(workload.lower()).macs == 4 * (120 * 8 * 27 + 80)
    assert totals(workload.lower()).parameters == 8 * 27 + 8 + 80 + 10
    report = tilesim.simulate("hbm-npu", workload)
    assert report.seconds >= report.bounds.roofline_s
    assert [op.kind for op in report.operators] == ["conv", "pool", "gemm"]


@needs_onnx
def test_a_fixed_batch_is_not_another(tmp_path: Path) -> None:
    path = small_file(tmp_path / "net.onnx", batch=3)
    assert totals(inference(path).lower()).macs == 3 * (120 * 8 * 27 + 80)
    assert (inference(path).batch, inference(path, batch=3).batch, inference(small_file(tmp_path / "open.onnx")).batch) == (3, 3, 1)
    for batch in (1, 2):
        with pytest.raises(ConfigError, match="first dimension of 3"):
            inference(path, batch=batch)


@needs_onnx
def test_wrong_files_get_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.onnx").write_bytes(b"\x00\x01 this is no model")
    run = ["run", "--arch", "hbm-npu", "--quiet", "--model"]
    for path, complaint in ((tmp_path / "not.onnx", "is no ONNX model"), (tmp_path / "none.onnx", "no such file"),
                            (small_file(tmp_path / "net.onnx", op="Softplus"), "operator Softplus is not supported")):
        assert main([*run, str(path)]) == 2
        assert complaint in capsys.readouterr().err
