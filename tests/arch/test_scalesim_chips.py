"""SCALE-Sim's configs as machines and its topologies as workloads: its own cycle counts, stalls included."""

from __future__ import annotations

from pathlib import Path

import pytest
import tilesim
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.families import find_machine
from tilesim.arch.scalesim import ScaleSimConfig
from tilesim.arch.scalesim_stalls import Scratchpads, stalled_run
from tilesim.arch.systolic import gemm_cycles
from tilesim.cli import main
from tilesim.explore import compare
from tilesim.sim.errors import ConfigError

HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
CONFIG = """[general]
run_name = "an example: 32x32"
[architecture_presets]
ArrayHeight:    32
ArrayWidth:     32
IfmapSramSzkB:   64
FilterSramSzkB:  64
OfmapSramSzkB:   64
Dataflow : {dataflow}
Bandwidth : 10
[run_presets]
InterfaceBandwidth: {bandwidth}
"""
#: Convolutions run by SCALE-Sim 3.0.0 (PyPI) with InterfaceBandwidth USER: R, C, dataflow, KiB of ifmap, filter and ofmap, words a
#: cycle of each, the topology's line, and the printed "Total Cycles", "Stall Cycles", DRAM reads of ifmap and of filter.
CONVOLUTIONS = (
    (4, 8, "ws", (2, 2, 1), (10, 16, 16), "12,11,2,4,10,3,2", (879, 0, 3090, 640)),
    (16, 32, "os", (1, 1, 1), (2, 5, 3), "22,17,5,3,15,14,3", (4228, 3416, 8704, 9785)),
    (12, 14, "is", (1, 1, 1), (5, 3, 2), "10,24,2,4,4,22,2", (2204, 1509, 10815, 6669)),
    (4, 14, "ws", (2, 4, 2), (16, 16, 3), "16,11,5,1,16,33,2", (8651, 4932, 20480, 4096)),
    (32, 14, "is", (4, 2, 4), (2, 2, 10), "18,24,4,2,5,12,2", (6259, 5028, 14336, 768)),
    (32, 16, "ws", (1, 4, 1), (5, 10, 10), "14,13,4,1,8,63,2", (1131, 652, 5665, 2050)),
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "alexnet1.csv").write_text(HEADER + "Conv1,227,227,11,11,3,96,4,\n")
    (tmp_path / "gemm.csv").write_text("Layer,M,N,K,\ng,256,128,256,\n")
    for dataflow in ("ws", "os", "is"):
        for bandwidth in ("CALC", "USER"):
            (tmp_path / f"{dataflow}-{bandwidth}.cfg").write_text(CONFIG.format(dataflow=dataflow, bandwidth=bandwidth))
    return tmp_path


def printed(arch: Path | ScaleSimConfig, topology: Path) -> tuple[int, int]:
    """SCALE-Sim's "Total Cycles" and "Stall Cycles" of a one-layer topology."""
    report = tilesim.simulate(arch, tilesim.inference(topology, dtype="int8"))
    assert report.seconds >= report.bounds.roofline_s
    assert report.cycles["array"] == report.cycles["as SCALE-Sim prints"] + 1
    (layer,) = report.operators
    assert layer.seconds == pytest.approx(report.seconds)
    return report.cycles["as SCALE-Sim prints"], layer.mapping["stall_cycles"]


@pytest.mark.published
@pytest.mark.parametrize(("config", "topology", "golden"), [
    ("ws-CALC.cfg", "alexnet1.csv", (112283, 0)), ("os-CALC.cfg", "gemm.csv", (10175, 0)), ("ws-CALC.cfg", "gemm.csv", (11199, 0)),
    ("is-CALC.cfg", "gemm.csv", (14207, 0)), ("os-USER.cfg", "gemm.csv", (52447, 42272)),
    ("ws-USER.cfg", "gemm.csv", (52447, 41248)), ("is-USER.cfg", "gemm.csv", (19984, 5777)),
])
def test_golden_totals_and_stalls_come_out_of_the_files(files: Path, config: str, topology: str, golden: tuple[int, int]) -> None:
    """The golden reports of SCALE-Sim's own tests (test/general/golden_trace_*)."""
    assert printed(files / config, files / topology) == golden


@pytest.mark.published
@pytest.mark.parametrize(("rows", "cols", "dataflow", "kib", "rates", "layer", "expected"), CONVOLUTIONS)
def test_convolutions_stall_as_upstream(
    tmp_path: Path, rows: int, cols: int, dataflow: str, kib: tuple[int, int, int], rates: tuple[int, int, int], layer: str,
    expected: tuple[int, int, int, int],
) -> None:
    """Words that windows share are fetched once as long as they stay, and again after they left."""
    text = CONFIG.format(dataflow=dataflow, bandwidth="USER")
    for key, old, new in (("ArrayHeight", 32, rows), ("ArrayWidth", 32, cols), ("IfmapSramSzkB", 64, kib[0]),
                          ("FilterSramSzkB", 64, kib[1]), ("OfmapSramSzkB", 64, kib[2]), ("Bandwidth ", 10, rates[2])):
        text = "\n".join(f"{key}: {new}" if line.startswith(key) and str(old) in line else line for line in text.split("\n"))
    (tmp_path / "a.cfg").write_text(f"{text}[layout]\nIfmapSRAMBankBandwidth: {rates[0]}\nFilterSRAMBankBandwidth: {rates[1]}\n")
    (tmp_path / "a.csv").write_text(f"{HEADER}l,{layer},\n")
    assert printed(tmp_path / "a.cfg", tmp_path / "a.csv") == expected[:2]
    report = tilesim.simulate(tmp_path / "a.cfg", tilesim.inference(tmp_path / "a.csv", dtype="int8"))
    assert report.memory["memory"].read_bytes == sum(expected[2:])


@given(m=st.integers(1, 90), k=st.integers(1, 90), n=st.integers(1, 90), side=st.integers(1, 24),
       dataflow=st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"]), kib=st.integers(1, 8),
       rate=st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_stalls_add_to_the_stall_free_run_and_vanish_where_all_fits(
    m: int, k: int, n: int, side: int, dataflow: str, kib: int, rate: int,
) -> None:
    machine = find_machine("scalesim-default", (f"rows={side}", f"cols={side}", f"dataflow={dataflow}"))
    assert isinstance(machine, ScaleSimConfig)
    free = gemm_cycles(m, k, n, machine.array).total - 1
    words = kib * 1024
    tight = Scratchpads(words, words, words, rate, rate, rate)
    found = stalled_run(m, k, n, rows=side, cols=side, dataflow=machine.dataflow, pads=tight)
    assert found.stalls >= 0
    assert free <= found.total <= free + found.stalls
    roomy = Scratchpads(2 * m * k + 200, 2 * k * n + 200, 2 * m * n * -(-k // side) + 200, rate, rate, rate)
    held = stalled_run(m, k, n, rows=side, cols=side, dataflow=machine.dataflow, pads=roomy)
    assert (held.total, held.stalls) == (free, 0)


@pytest.mark.parametrize(("name", "rows", "cols"), [("scalesim-default", 32, 32), ("scalesim-google", 256, 256),
                                                    ("scalesim-eyeriss", 12, 14)])
def test_shipped_configs_are_in_scalesims_timing(name: str, rows: int, cols: int) -> None:
    machine = find_machine(name)
    assert isinstance(machine, ScaleSimConfig)
    assert (machine.rows, machine.cols, machine.array.timing, machine.interface_bandwidth) == (rows, cols, "scalesim", "calc")


def test_a_cfg_is_a_machine_that_can_be_changed_and_shown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = find_machine(str(files / "ws-USER.cfg"), ("rows=16",))
    assert isinstance(machine, ScaleSimConfig)
    assert (machine.name, machine.rows, machine.cols, machine.interface_bandwidth) == ("an example: 32x32", 16, 32, "user")
    assert main(["show", str(files / "ws-USER.cfg")]) == 0
    shown = files / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert find_machine(str(shown)) == find_machine(str(files / "ws-USER.cfg"))


def test_a_missing_cfg_and_a_wrong_set_get_one_error(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no such SCALE-Sim config"):
        find_machine(str(files / "none.cfg"))
    assert main(["run", "--arch", str(files / "ws-USER.cfg"), "--set", "rws=3", "--model", "alexnet"]) == 2
    assert "rws" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "complaint"), [
    ("Bandwidth : 10,20,10", "several rates"), ("[sparsity]\nSparsitySupport : true", "sparse weights"),
    ("[layout]\nIfmapCustomLayout: True", "bank conflicts"), ("UseRamulatorTrace: True", "Ramulator"),
])
def test_what_would_be_another_run_is_refused(files: Path, line: str, complaint: str) -> None:
    text = CONFIG.format(dataflow="ws", bandwidth="USER")
    path = files / "other.cfg"
    path.write_text(text.replace("Bandwidth : 10", line) if line.startswith("Bandwidth") else f"{text}{line}\n")
    with pytest.raises(ConfigError, match=complaint) as caught:
        find_machine(str(path))
    assert str(path) in str(caught.value)


def test_a_word_is_a_byte_and_other_operators_are_refused(files: Path) -> None:
    with pytest.raises(ConfigError, match="--dtype int8"):
        tilesim.simulate("scalesim-default", tilesim.inference(files / "gemm.csv"))
    with pytest.raises(ConfigError, match="no pool"):
        tilesim.simulate("scalesim-default", tilesim.inference("alexnet", dtype="int8"))


def test_a_machine_without_energies_can_be_compared_with_one_that_has_them(files: Path) -> None:
    rows = compare(["scalesim-google", "tpu-v1"], tilesim.inference(files / "gemm.csv", dtype="int8")).rows
    assert [row.energy_ratio for row in rows] == [None, None]
    assert rows[1].energy_j > 0


def test_lanes_that_do_not_multiply_never_get_a_product() -> None:
    """One row of activations would suit lanes; an activation unit leaves even that to the array."""
    report = tilesim.simulate("tpu-v1", tilesim.inference("tpu-v1-mlp1", batch=1, dtype="int8"))
    assert report.units["vpu"].macs == 0
    assert report.units["mxu"].macs == sum(op.macs for op in report.operators)


def test_every_layer_of_a_topology_runs_by_itself(files: Path) -> None:
    path = files / "two.csv"
    path.write_text(HEADER + "Conv1,9,9,3,3,4,8,2,\nConv2_DP,8,8,3,3,6,1,1,\n")
    graph = tilesim.inference(path, batch=2).lower()
    assert list(graph) == ["0.Conv1", "1.Conv2_DP"]
    assert not graph.edges
    first, second = (graph.nodes[name]["op"] for name in graph)
    assert (first.macs, second.macs) == (2 * 4 * 4 * 36 * 8, 2 * 6 * 6 * 9 * 6)


def test_sizes_out_of_bounds_are_named_by_upstreams_key_and_line(files: Path) -> None:
    path = files / "big.cfg"
    path.write_text(CONFIG.format(dataflow="ws", bandwidth="CALC").replace("ArrayHeight:    32", "ArrayHeight:  2048"))
    with pytest.raises(ConfigError, match=r"big\.cfg:4: ArrayHeight is 2048: must be from 1 to 1024$"):
        find_machine(str(path))
    with pytest.raises(ConfigError, match="--set rows=4096: rows is 4096"):
        find_machine(str(path), ("rows=4096",))


def test_a_transformer_is_refused_for_its_operators_not_its_format(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", str(files / "ws-CALC.cfg"), "--model", "gpt2", "--phase", "decode", "--context", "8", "--layers", "1"]
    for dtype in ("bf16", "int8"):
        assert main([*run, "--dtype", dtype]) == 2
        complaint = capsys.readouterr().err
        assert "SCALE-Sim has matrix products and convolutions, no embedding" in complaint
        assert "add --dtype" not in complaint
    assert main(["run", "--arch", str(files / "ws-CALC.cfg"), "--model", "alexnet"]) == 2
    assert "add --dtype int8" in capsys.readouterr().err
