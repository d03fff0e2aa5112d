"""A machine is a graph of named parts: links join parts that exist, and transfers take the shortest way between them."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import tilesim
from tilesim.arch.machine import chip_folder, load_machine
from tilesim.memory.dram import DramConfig
from tilesim.sim.errors import ConfigError

CHIP = (chip_folder() / "hbm-npu.yaml").read_text()


def written(folder: Path, old: str, new: str) -> str:
    assert old in CHIP
    path = folder / "chip.yaml"
    path.write_text(CHIP.replace(old, new))
    return str(path)


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
    via = ("  - {source: hbm, target: dma, bandwidth: 2 TB/s, latency: 1 us}\n"
           "  - {source: dma, target: scratchpad, bandwidth: 2 TB/s, latency: 0 s}\n")
    line = next(line for line in CHIP.splitlines(keepends=True) if "source: hbm, target: scratchpad" in line)
    detour = tilesim.simulate(load_machine(written(tmp_path, line, via)), tilesim.decode("gpt2", context=8))
    assert detour.links_bytes["hbm→dma"] == detour.links_bytes["dma→scratchpad"] == direct.links_bytes["hbm→scratchpad"]
    assert detour.seconds >= direct.seconds + 1e-6


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
