"""The ideal memory: its rule by hand, the finite rate, conservation, and a machine that names one."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import pytest
import simpy
import tilesim
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.machine import chip_folder, load_machine
from tilesim.memory.dram import DramConfig
from tilesim.memory.ideal import IdealMemory, IdealMemoryConfig
from tilesim.memory.kinds import MEMORY_KINDS
from tilesim.sim.errors import ConfigError
from tilesim.sim.show import show_config

PART = ("  hbm:\n    type: ideal\n    capacity: 16 GiB\n    bandwidth: {rate}\n    latency: {latency}\n"
        "    read_energy: 4 pJ/bit\n    write_energy: 5 pJ/bit\n    source: a test\n")


def memory(bytes_per_s: float = 3e9, latency_ps: int = 1000) -> tuple[simpy.Environment, IdealMemory]:
    env = simpy.Environment()
    return env, IdealMemory(env, IdealMemoryConfig(
        type="ideal", capacity_bytes=1 << 30, bandwidth_bytes_per_s=bytes_per_s, latency_ps=latency_ps,
        read_energy_pj_per_bit=4.0, write_energy_pj_per_bit=5.0, source="a test"))


def machine_file(folder: Path, rate: str = "400 GB/s", latency: str = "100 ns", part: str = PART) -> str:
    path = folder / "chip.yaml"
    path.write_text("extends: hbm-npu\nname: ideal-npu\nparts:\n" + part.format(rate=rate, latency=latency))
    return str(path)


def ends_ps(env: simpy.Environment, ideal: IdealMemory, asked: list[tuple[int, int, bool]]) -> list[int]:
    """When transfers of (start in ps, bytes, write) end."""
    ended = [0] * len(asked)

    def ask(number: int, start_ps: int, nbytes: int, write: bool) -> Generator[simpy.Event, None, None]:
        yield env.timeout(start_ps)
        yield ideal.transfer([(0, nbytes)], write)
        ended[number] = int(env.now)

    for number, (start_ps, nbytes, write) in enumerate(asked):
        env.process(ask(number, start_ps, nbytes, write))
    env.run()
    return ended


def test_a_lone_transfer_takes_its_bytes_over_the_rate_and_the_latency() -> None:
    """30 bytes at 3 GB/s are 10 ns; 1 ns of latency."""
    assert ends_ps(*memory(), [(500, 30, False)]) == [500 + 10_000 + 1000]


def test_transfers_at_once_are_served_in_order_and_their_latencies_overlap() -> None:
    """Read, write and read of 10, 20 and 10 ns asked for together: the rate is shared, the latency is paid once each, together."""
    assert ends_ps(*memory(), [(0, 30, False), (0, 60, True), (5000, 30, False)]) == [11_000, 31_000, 41_000]


def test_an_idle_memory_starts_at_once() -> None:
    assert ends_ps(*memory(), [(0, 30, False), (50_000, 30, True)]) == [11_000, 61_000]


def test_rounded_times_do_not_add_up_to_another_rate() -> None:
    """1 byte at 3 GB/s is 333.33 ps; three thousand of them are 1 µs, not three thousand times 334 ps."""
    assert ends_ps(*memory(latency_ps=0), [(0, 1, False)] * 3000)[-1] == 1_000_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 5000), st.booleans()), min_size=1, max_size=20),
       st.floats(1e6, 1e13))
def test_no_window_beats_the_rate_and_every_byte_is_counted(asked: list[tuple[int, int, bool]], bytes_per_s: float) -> None:
    env, ideal = memory(bytes_per_s, latency_ps=0)
    ended = ends_ps(env, ideal, asked)
    assert ideal.read_bytes == sum(n for _, n, write in asked if not write)
    assert ideal.written_bytes == sum(n for _, n, write in asked if write)
    # From any moment on, what was asked for later has not ended before its bytes at the full rate.
    for start_ps in {start for start, _, _ in asked}:
        later = [i for i, one in enumerate(asked) if one[0] >= start_ps]
        wanted_ps = sum(asked[i][1] for i in later) * 1e12 / bytes_per_s
        assert max(ended[i] for i in later) >= start_ps + math.floor(wanted_ps * (1 - 1e-12))


def test_energy_is_bits_times_their_price() -> None:
    env, ideal = memory()
    ends_ps(env, ideal, [(0, 30, False), (0, 60, True)])
    assert ideal.energy_actions(0) == {"read bit": (240, 4.0), "write bit": (480, 5.0)}


def test_a_machine_on_ideal_memory_says_so_and_obeys_the_laws(tmp_path: Path) -> None:
    workload = tilesim.decode("gpt2", context=64)
    report = tilesim.simulate(machine_file(tmp_path), workload)
    level = report.memory["hbm"]
    assert level.kind == "ideal"
    assert "ideal memory" in level.details["summary"]
    assert any("hbm is an ideal memory" in text and "a test" in text for text in report.assumptions)
    assert not any(reduction["name"] == "channel symmetry" for reduction in report.reductions)
    assert level.read_bytes == report.links_bytes["hbm→scratchpad"] == sum(op.read_bytes for op in report.operators)
    assert level.written_bytes == sum(op.write_bytes for op in report.operators)
    # Memory-bound: the bytes at the rate, plus the latency of the few transfers that nothing hides.
    bound_s = (level.read_bytes + level.written_bytes) / 400e9
    assert bound_s <= report.seconds <= 1.1 * bound_s
    assert report.seconds >= report.bounds.roofline_s
    assert report.energy_by_component["hbm"] == pytest.approx(8e-12 * (4 * level.read_bytes + 5 * level.written_bytes))


def test_half_the_rate_is_at_most_twice_the_time(tmp_path: Path) -> None:
    workload = tilesim.decode("gpt2", context=64)
    fast = tilesim.simulate(machine_file(tmp_path, "400 GB/s"), workload).seconds
    slow = tilesim.simulate(machine_file(tmp_path, "200 GB/s"), workload).seconds
    assert 1.9 * fast <= slow <= 2 * fast


def test_values_can_be_set_and_shown(tmp_path: Path) -> None:
    machine = load_machine(machine_file(tmp_path), ("parts.hbm.bandwidth=1 TB/s",))
    assert machine.main_memory()[1].peak_bytes_per_s == 1e12
    again = tmp_path / "again.yaml"
    again.write_text(show_config(machine))
    assert load_machine(str(again)).parts == machine.parts


@pytest.mark.parametrize("missing", ["bandwidth", "latency", "read_energy", "write_energy", "source", "capacity"])
def test_nothing_has_a_default(tmp_path: Path, missing: str) -> None:
    part = "".join(line + "\n" for line in PART.splitlines() if not line.strip().startswith(missing + ":"))
    with pytest.raises(ConfigError, match=missing):
        load_machine(machine_file(tmp_path, part=part))


def test_a_slip_in_a_key_gets_its_line_and_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bandwith") as caught:
        load_machine(machine_file(tmp_path, part=PART.replace("bandwidth", "bandwith")))
    assert caught.value.line == 7
    assert "bandwidth" in str(caught.value)


def test_two_main_memories_are_refused(tmp_path: Path) -> None:
    machine = load_machine(machine_file(tmp_path, part=PART.replace("hbm:", "second:")))
    with pytest.raises(ConfigError, match="2 main memories"):
        tilesim.simulate(machine, tilesim.decode("gpt2", context=8))


def test_the_table_of_kinds_has_both() -> None:
    assert set(MEMORY_KINDS) == {DramConfig, IdealMemoryConfig}


def test_a_chip_with_an_ideal_memory_says_so_in_its_description() -> None:
    """It is never what a chip gets without asking, and never hidden."""
    for path in chip_folder().glob("*.yaml"):
        machine = load_machine(path.stem)
        if isinstance(machine.main_memory()[1], IdealMemoryConfig):
            assert "ideal memory" in machine.description
