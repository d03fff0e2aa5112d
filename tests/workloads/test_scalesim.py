"""SCALE-Sim files: layers of a topology, the array of a config, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilesim.arch.scalesim import load_scalesim
from tilesim.arch.systolic import gemm_cycles
from tilesim.sim.errors import ConfigError
from tilesim.workloads.scalesim import GemmLayer, read_topology

CONV_HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
CONFIG = """[general]
run_name = scale_example_run_32x32_ws
[architecture_presets]
ArrayHeight:    32
ArrayWidth:     32
IfmapSramSzkB:   64
FilterSramSzkB:  64
OfmapSramSzkB:   64
Dataflow : ws
Bandwidth : 10
[run_presets]
InterfaceBandwidth: CALC
"""


def written(folder: Path, text: str, name: str = "net.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.published
def test_alexnet_conv1_takes_scalesims_golden_cycles(tmp_path: Path) -> None:
    layers = read_topology(written(tmp_path, CONV_HEADER + "Conv1,227,227,11,11,3,96,4,\n"))
    assert layers == (GemmLayer("Conv1", m=3025, k=363, n=96),)
    run = load_scalesim(written(tmp_path, CONFIG, "scale.cfg"))
    assert gemm_cycles(layers[0].m, layers[0].k, layers[0].n, run.array).total - 1 == 112283
    assert (run.ifmap_sram_bytes, run.interface_bandwidth, run.name) == (64 * 1024, "calc", "scale_example_run_32x32_ws")


def test_gemm_columns_are_found_by_name(tmp_path: Path) -> None:
    layers = read_topology(written(tmp_path, "Layer,M,N,K,\nqkv_1,128,1536,512,\nheads,64,128,32,4,\n"))
    assert layers == (GemmLayer("qkv_1", 128, 512, 1536), GemmLayer("heads", 64, 32, 128, batch=4))


def test_depthwise_layers_are_one_product_for_each_channel(tmp_path: Path) -> None:
    (layer,) = read_topology(written(tmp_path, CONV_HEADER + "Conv2_DP,114,114,3,3,32,1,1,\n"))
    assert (layer.m, layer.k, layer.n, layer.batch) == (112 * 112, 9, 1, 32)


@pytest.mark.parametrize(("line", "complaint"), [
    ("Conv1,227,227,11,11,3,96,\n", "stride"),
    ("Conv1,227,x,11,11,3,96,4,\n", "'x'"),
    ("Conv1,7,7,11,11,3,96,4,\n", "larger than its ifmap"),
    ("Conv1,227,227,11,11,3,96,4,2:4,\n", "2:4"),
])
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = written(tmp_path, CONV_HEADER + line)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_topology(path)
    assert f"{path}:2" in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("Dataflow : ws", "Dataflow : rs"), ("ArrayWidth:     32", ""),
                                          ("Bandwidth : 10", "Bandwidth : ten")])
def test_a_wrong_config_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = CONFIG.replace("CALC", "USER").replace(old, new)
    with pytest.raises(ConfigError):
        load_scalesim(written(tmp_path, text, "scale.cfg"))


def test_files_that_are_no_utf8_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.csv").write_bytes((CONV_HEADER + "Größe,227,227,11,11,3,96,4,\n").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"net\.csv: is not UTF-8 text"):
        read_topology(tmp_path / "net.csv")
    (tmp_path / "scale.cfg").write_bytes(CONFIG.replace("scale_example", "Größe").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"scale\.cfg: is not UTF-8 text"):
        load_scalesim(tmp_path / "scale.cfg")


@pytest.mark.parametrize("size", ["²", "9" * 5000, "-3", "1.5"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=r"net\.csv:2: column 8 \(stride\)"):
        read_topology(written(tmp_path, CONV_HEADER + f"Conv1,227,227,11,11,3,96,{size},\n"))
    with pytest.raises(ConfigError, match=r"scale\.cfg:5: ArrayWidth is"):
        load_scalesim(written(tmp_path, CONFIG.replace("ArrayWidth:     32", f"ArrayWidth: {size}"), "scale.cfg"))


@pytest.mark.parametrize("lines", ["Conv1,227,227,11,11,3,96,4,\nConv2,31,31,5,5,96,256,1,\n", "g,256,128,256,\n"])
def test_a_first_layer_in_the_headers_place_is_refused_not_lost(tmp_path: Path, lines: str) -> None:
    with pytest.raises(ConfigError, match=r"net\.csv:1: the first line is the layer '(Conv1|g)', not a header"):
        read_topology(written(tmp_path, lines))
