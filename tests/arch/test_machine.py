"""A machine is a graph of named parts: links join parts that exist, and transfers take the shortest way between them."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import tilesim
from tilesim.arch.machine import LinkConfig, chip_folder, load_machine, show_chip
from tilesim.memory.dram import DramConfig
from tilesim.sim.errors import ConfigError

CHIP = (chip_folder() / "hbm-npu.yaml").read_text()


def written(folder: Path, old: str, new: str) -> str:
    assert old in CHIP
    path = folder / "chip.yaml"
    path.write_text(CHIP.replace(old, new))
    return str(path)


def path_line(path: str, text: str) -> int:
    """The first line of the file that holds *text*."""
    return next(number for number, line in enumerate(Path(path).read_text().splitlines(), 1) if text in line)


def test_graph_has_a_node_for_each_part_and_an_edge_for_each_link() -> None:
    machine = load_machine("hbm-npu")
    graph = machine.graph()
    assert set(graph) == set(machine.parts)
    assert nx.has_path(graph, "hbm", "scratchpad")
    assert graph.edges["hbm", "scratchpad"]["link"].bandwidth_bytes_per_s == 2e12


@pytest.mark.parametrize("name", sorted(path.stem for path in chip_folder().glob("*.yaml")))
def test_every_shipped_chip_loads_and_names_itself(name: str) -> None:
    assert load_machine(name).name == name


def test_a_link_to_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no part 'scratchpadd'"):
        load_machine(written(tmp_path, "source: hbm, target: scratchpad,", "source: hbm, target: scratchpadd,"))


def test_parts_without_a_way_between_them_are_refused(tmp_path: Path) -> None:
    machine = load_machine(written(tmp_path, "source: scratchpad, target: hbm,", "source: scratchpad, target: vpu,"))
    with pytest.raises(ConfigError, match="no link leads from 'scratchpad' to 'hbm'"):
        tilesim.simulate(machine, tilesim.decode("gpt2", context=8))


def test_a_slow_link_on_the_way_binds(tmp_path: Path) -> None:
    """At 100 GB/s the link, not the memory, sets the time: bytes over its rate, within the first tile's latency."""
    machine = load_machine(written(tmp_path, "target: scratchpad, bandwidth: 2 TB/s", "target: scratchpad, bandwidth: 100 GB/s"))
    report = tilesim.simulate(machine, tilesim.decode("gpt2", context=8))
    assert report.seconds == pytest.approx(report.memory["hbm"].read_bytes / 100e9, rel=0.02)
    assert report.seconds >= report.memory["hbm"].read_bytes / 100e9


def test_every_hop_of_a_way_takes_its_latency(tmp_path: Path) -> None:
    """hbm → dma → scratchpad: one more hop of 1 µs makes a lone small load at least 1 µs later."""
    direct = tilesim.simulate("hbm-npu", tilesim.decode("gpt2", context=8))
    via = ("  - {source: hbm, target: dma, bandwidth: 2 TB/s, latency: 1 us, length: 4 mm}\n"
           "  - {source: dma, target: scratchpad, bandwidth: 2 TB/s, latency: 0 s, length: 6 mm}\n")
    line = next(line for line in CHIP.splitlines(keepends=True) if "source: hbm, target: scratchpad" in line)
    detour = tilesim.simulate(load_machine(written(tmp_path, line, via)), tilesim.decode("gpt2", context=8))
    assert detour.links_bytes["hbm→dma"] == detour.links_bytes["dma→scratchpad"] == direct.links_bytes["hbm→scratchpad"]
    assert detour.seconds >= direct.seconds + 1e-6
    loads = [sum(line.joules for line in report.energy_lines
                 if line.component == "links" and not line.action.startswith("scratchpad")) for report in (direct, detour)]
    assert loads[1] == pytest.approx(loads[0])                                                  # 4 mm and 6 mm are 10 mm


TWO_NODES = """extends: hbm-npu
technology: 7nm
links:
  - {source: hbm, target: scratchpad, bandwidth: 2 TB/s, length: 5 mm, technology: 45nm}
  - {source: scratchpad, target: hbm, bandwidth: 2 TB/s, length: 2500 um}
"""


def test_a_wire_costs_its_length_at_its_own_node_or_the_chips(tmp_path: Path) -> None:
    """By hand from DSENT's table: 5 mm at 45 nm are 0.1984 pJ/bit; 2.5 mm at 7 nm, below the table's end, 0.033 pJ/bit."""
    path = tmp_path / "chip.yaml"
    path.write_text(TWO_NODES)
    machine = load_machine(str(path))
    assert [link.pj_per_bit for link in machine.links] == pytest.approx([5 * 0.03968, 2.5 * 0.0132])
    report = tilesim.simulate(machine, tilesim.decode("gpt2", context=8))
    lines = {line.action: line for line in report.energy_lines if line.component == "links"}
    for way, pj_per_bit in (("hbm→scratchpad", 0.1984), ("scratchpad→hbm", 0.033)):
        assert lines[f"{way} bit"].count == 8 * report.links_bytes[way] > 0
        assert lines[f"{way} bit"].joules == pytest.approx(8 * report.links_bytes[way] * pj_per_bit * 1e-12)
    assert report.energy_j == pytest.approx(sum(line.joules for line in report.energy_lines))


def test_what_wires_cost_is_shown_and_loads_again(tmp_path: Path) -> None:
    """28 nm lies between 22 and 32: 9 mm × 0.02347 pJ × (0.03215 / 0.02347)^(ln(28/22) / ln(32/22))."""
    shown = tmp_path / "shown.yaml"
    shown.write_text(show_chip(load_machine("tpu-v1")))
    assert "ddr3 → buffers: 9 mm at 28nm, 0.2587 pJ/bit" in shown.read_text()
    assert load_machine(str(shown)).links == load_machine("tpu-v1").links


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("length: 10 mm}", "length: 10 mm, energy: 0.1 pJ/bit}", r"has both: one of energy .* and length"),
    (", length: 10 mm}", "}", r"has neither: one of energy .* and length"),
    ("length: 10 mm}", "length: 10}", "'10 mm'"),
    ("length: 10 mm}", "length: 0 mm}", "must be greater than 0"),
    ("length: 10 mm}", "length: 10 mm, technology: 8nm}", r"(?s)'8nm' is no shipped technology.*Did you mean"),
    ("length: 10 mm}", "energy: 0.1 pJ/bit, technology: 7nm}", "only a length is priced by a technology"),
])
def test_a_link_states_its_energy_or_its_length(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    line = next(line for line in CHIP.splitlines() if "source: hbm, target: scratchpad" in line)
    path = written(tmp_path, line, line.replace(old, new))
    number = path_line(path, new)
    with pytest.raises(ConfigError, match=complaint) as raised:
        load_machine(path)
    assert (raised.value.file, raised.value.line) == (path, number)


def test_a_length_without_a_node_is_refused() -> None:
    wires = {"source": "hbm", "target": "scratchpad", "bandwidth_bytes_per_s": 1e12, "length_mm": 10.0}
    with pytest.raises(ValueError, match="neither the link nor the chip names one"):
        LinkConfig.model_validate(wires)
    assert LinkConfig.model_validate(wires | {"technology": "45nm"}).pj_per_bit == pytest.approx(0.3968)


def test_a_measured_idle_power_holds_the_memorys_own() -> None:
    """A package at rest draws what was measured, once: the rest of the chip and its memory's standby and refresh."""
    machine = load_machine("tpu-v4i")
    memory = machine.main_memory()[1]
    assert isinstance(memory, DramConfig)
    assert 0.5 < memory.idle_w < 5
    assert machine.rest_power_w + memory.idle_w == pytest.approx(55)
    report = tilesim.simulate(machine, tilesim.decode("llama-3.2-1b", context=64))
    standing = [line for line in report.energy_lines if line.action == "static" and line.component == "chip"]
    assert standing[0].joules == pytest.approx(machine.rest_power_w * report.seconds)


@pytest.mark.parametrize(("change", "complaint"), [("static_power=3 W", "one of static_power"),
                                                   ("idle_power=0.1 W", "less than the")])
def test_one_idle_power_is_wanted_and_the_memory_fits_into_it(change: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_machine("tpu-v4i", (change,))
    with pytest.raises(ConfigError, match="one of static_power"):
        load_machine("tpu-v1", ("idle_power=28 W",))
