"""Networks of layers: their shapes and counts are those of their papers, and wrong files get one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
import tilesim
from tilesim.cli import main
from tilesim.sim.errors import ConfigError
from tilesim.workloads.graph import program_order, tensors_of, totals
from tilesim.workloads.model import MODELS_FOLDER
from tilesim.workloads.network import inference, is_network, load_network
from tilesim.workloads.shipped import load_model

HEAD = "name: net\nsource: a test\ninput: [8, 8, 3]\nlayers:\n"


def written(folder: Path, text: str) -> str:
    path = folder / "net.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("name", "macs", "parameters"), [
    ("alexnet", 724_406_816, 60_965_224),           # the two-GPU net: 60.97 M, as counted in its Caffe model
    ("resnet-50", 4_089_184_256, 25_557_032 - 53_120 + 26_560),     # torchvision's 25 557 032, norms folded into a bias a filter
])
def test_counts_of_shipped_networks(name: str, macs: int, parameters: int) -> None:
    counts = totals(inference(name).lower())
    assert counts.macs == macs
    assert counts.parameters == parameters


def test_work_grows_with_the_batch_and_weights_do_not() -> None:
    one, four = (totals(inference("alexnet", batch=batch).lower()) for batch in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.weight_bytes == one.weight_bytes


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS_FOLDER.glob("*.yaml")))
def test_every_shipped_network_lowers(name: str) -> None:
    assert is_network(name)
    graph = inference(name, batch=2, dtype="int8").lower()
    roles = {tensor.role for tensor in tensors_of(graph).values()}
    assert {"input", "output", "weight"} <= roles
    assert load_network(name).name == name


def test_a_residual_connection_reads_the_layer_that_it_names() -> None:
    graph = inference("resnet-50").lower()
    assert set(graph.predecessors("conv2-1")) == {"conv2-1-c", "conv2-1-shortcut"}
    assert set(graph.predecessors("conv2-1-a")) == set(graph.predecessors("conv2-1-shortcut")) == {"pool1"}


def test_a_recurrent_network_is_a_chain_of_steps(tmp_path: Path) -> None:
    """Two layers of two steps and a dense head on the last step; step 1 waits for step 0 of its own layer and the layer below."""
    path = written(tmp_path, "name: net\nsource: a test\ninput: [6]\nsteps: 2\nlayers:\n  - {type: lstm, name: low, hidden: 5}\n"
                             "  - {type: lstm, name: high, hidden: 4}\n  - {type: dense, name: head, units: 3}\n")
    graph = inference(path, batch=7).lower()
    assert set(graph.predecessors("step1.high.h")) == {"step0.high.cell"}
    assert set(graph.predecessors("step1.high.x")) == {"step1.low.cell"}
    assert set(graph.predecessors("head")) == {"step1.high.cell"}
    assert totals(graph).macs == 7 * (2 * (6 * 20 + 5 * 20 + 5 * 16 + 4 * 16) + 4 * 3)


@pytest.mark.parametrize(("layer", "complaint"), [
    ("  - {type: conv, name: a, filters: 4, size: 9}\n", "do not fit"),
    ("  - {type: conv, name: a, filters: 4, size: 3, groups: 2}\n", "groups"),
    ("  - {type: conv, name: a, filters: 4, sise: 3}\n", "sise"),
    ("  - {type: conv, name: a, filters: 4, size: 3}\n  - {type: add, name: b, plus: c}\n", "no layer before it"),
    ("  - {type: conv, name: a, filters: 4, size: 3}\n  - {type: add, name: b, plus: input}\n", "adds"),
    ("  - {type: conv, name: a, filters: 4, size: 3}\n  - {type: pool, name: a, function: max, size: 2}\n", "two layers"),
    ("  - {type: lstm, name: a, hidden: 4}\n", "reads a vector"),
    ("  - {type: dense, name: a, units: 4}\n  - {type: pool, name: b, function: max, size: 2}\n", "wants an image"),
])
def test_a_wrong_layer_is_refused(tmp_path: Path, layer: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        inference(written(tmp_path, HEAD + layer)).lower()


def test_networks_have_no_phase_and_transformers_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", "hbm-npu", "--quiet", "--model"]
    assert main([*run, "alexnet", "--phase", "decode"]) == 2
    assert "--phase makes no sense for alexnet" in capsys.readouterr().err
    assert main([*run, "gpt2"]) == 2
    assert "add --phase" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"tilesim\.inference"):
        load_model("alexnet")
    with pytest.raises(ConfigError, match="add --phase"):
        inference("gpt2")


def test_a_network_runs_on_a_gpu() -> None:
    report = tilesim.simulate("h100-sxm", tilesim.inference("alexnet", batch=2))
    assert report.seconds >= report.bounds.roofline_s
    assert sum(op.macs for op in report.operators) == 2 * 724_406_816


def test_a_network_runs_and_obeys_its_bounds() -> None:
    report = tilesim.simulate("hbm-npu", tilesim.inference("alexnet", batch=2))
    assert report.seconds >= report.bounds.roofline_s
    assert sum(op.macs for op in report.operators) == sum(op.executed_macs for op in report.operators) == 2 * 724_406_816
    read = report.memory["hbm"].read_bytes
    assert report.bounds.compulsory_bytes <= read + report.memory["hbm"].written_bytes <= 1.05 * report.bounds.compulsory_bytes


def test_single_operators_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["conv", "14", "14", "32", "64", "--padding", "1", "--filter", "3", "5"],
                  ["conv", "14", "14", "6", "6", "--groups", "6"], ["lstm", "8", "32", "32", "--steps", "2"]):
        assert main(["op", *words, "--arch", "hbm-npu"]) == 0
        assert "roofline" in capsys.readouterr().out
    assert main(["op", "conv", "4", "4", "32", "64", "--arch", "hbm-npu", "--filter", "7"]) == 2
    assert "larger than the padded image" in capsys.readouterr().err
    assert main(["op", "conv", "4", "4", "32", "64", "--arch", "hbm-npu", "--filter", "1", "2", "3"]) == 2
    assert "a height and a width" in capsys.readouterr().err


def test_operators_keep_the_program_order_of_layers() -> None:
    names = [op.name for op in program_order(inference("alexnet").lower())]
    assert names[:4] == ["conv1", "pool1", "conv2", "pool2"]


@pytest.mark.parametrize(("layers", "complaint"), [
    ("steps: 3\nlayers:\n  - {type: dense, name: a, units: 4}\n", "only LSTM layers run in steps"),
    ("steps: 3\nlayers:\n  - {type: dense, name: a, units: 4}\n  - {type: lstm, name: b, hidden: 4}\n", "LSTM layers come first"),
])
def test_steps_that_no_layer_takes_are_refused(tmp_path: Path, layers: str, complaint: str) -> None:
    path = written(tmp_path, f"name: net\nsource: a test\ninput: [6]\n{layers}")
    with pytest.raises(ConfigError, match=complaint):
        inference(path).lower()
