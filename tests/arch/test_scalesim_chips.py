"""SCALE-Sim's configs as machines and its topologies as workloads: its own cycle counts, run event by event."""

from __future__ import annotations

from pathlib import Path

import pytest
import tilesim
from tilesim.arch.families import find_machine
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.arch.systolic import SystolicConfig
from tilesim.cli import main
from tilesim.memory.ideal import IdealMemoryConfig
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


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "alexnet1.csv").write_text(HEADER + "Conv1,227,227,11,11,3,96,4,\n")
    (tmp_path / "gemm.csv").write_text("Layer,M,N,K,\ng,256,128,256,\n")
    for dataflow in ("ws", "os", "is"):
        for bandwidth in ("CALC", "USER"):
            (tmp_path / f"{dataflow}-{bandwidth}.cfg").write_text(CONFIG.format(dataflow=dataflow, bandwidth=bandwidth))
    return tmp_path


def cycles(arch: Path, topology: Path) -> int:
    report = tilesim.simulate(arch, tilesim.inference(topology, dtype="int8"))
    assert report.seconds >= report.bounds.roofline_s
    return report.cycles["mxu"]


@pytest.mark.published
@pytest.mark.parametrize(("config", "topology", "golden"), [
    ("ws-CALC.cfg", "alexnet1.csv", 112283), ("os-CALC.cfg", "gemm.csv", 10175), ("ws-CALC.cfg", "gemm.csv", 11199),
])
def test_stall_free_golden_totals_come_out_of_the_event_driven_run(files: Path, config: str, topology: str, golden: int) -> None:
    """SCALE-Sim prints the index of the last cycle; a run also loads its first operands and stores its last results: 10 cycles."""
    assert golden + 1 <= cycles(files / config, files / topology) <= golden + 11


def test_ten_words_a_cycle_bind(files: Path) -> None:
    """The operands and results, once each over the memory's rate, bound the run; without stalls the array does."""
    moved = 256 * 256 + 256 * 128 + 256 * 128
    slow = cycles(files / "ws-USER.cfg", files / "gemm.csv")
    assert slow >= moved / 10
    assert slow > 1.5 * cycles(files / "ws-CALC.cfg", files / "gemm.csv")


@pytest.mark.parametrize(("name", "rows", "cols"), [("scalesim-default", 32, 32), ("scalesim-google", 256, 256),
                                                    ("scalesim-eyeriss", 12, 14)])
def test_shipped_configs_are_in_scalesims_timing_on_an_ideal_memory(name: str, rows: int, cols: int) -> None:
    machine = load_machine(name)
    _, array = machine.only(SystolicConfig, "systolic")
    assert (array.rows, array.cols, array.timing, array.double_buffered_weights) == (rows, cols, "scalesim", False)
    memory = machine.main_memory()[1]
    assert isinstance(memory, IdealMemoryConfig)
    assert memory.bandwidth_bytes_per_s == 10 * array.clock_hz


def test_a_cfg_is_a_machine_that_can_be_changed_and_shown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = find_machine(str(files / "ws-USER.cfg"), ("parts.mxu.rows=16",))
    assert isinstance(machine, MachineConfig)
    assert machine.name == "an example: 32x32"
    assert machine.only(SystolicConfig, "systolic")[1].rows == 16
    assert machine.parts == load_machine("scalesim-default", ("parts.mxu.rows=16",)).parts | {
        "memory": machine.parts["memory"]}
    assert main(["show", str(files / "ws-USER.cfg")]) == 0
    assert "type: ideal" in capsys.readouterr().out


def test_a_missing_cfg_and_a_wrong_set_get_one_error(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no such SCALE-Sim config"):
        find_machine(str(files / "none.cfg"))
    assert main(["run", "--arch", str(files / "ws-USER.cfg"), "--set", "parts.mxu.rws=3", "--model", "alexnet"]) == 2
    assert "rws" in capsys.readouterr().err


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
