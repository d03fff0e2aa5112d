"""Energy of commands: the formulas against hand-worked figures, sums that add up, power over time that keeps the energy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.memory.energy import BitEnergy, CommandTimes, CurrentEnergy, Rail
from tilesim.memory.patterns import make_requests
from tilesim.memory.power import Tally, command_energy, command_times, energy_actions, power_over_time, total_pj
from tilesim.memory.replay import DramRun, serve
from tilesim.memory.standard import load_memory
from tilesim.sim.errors import ConfigError


def small_run(name: str, pattern: str = "random", count: int = 1500, reads: float = 0.7, seed: int = 1, log: int = 0) -> DramRun:
    memory = load_memory(name)
    requests = make_requests(pattern, count, burst_bytes=memory.organisation.bytes_per_burst, read_share=reads, seed=seed,
                             capacity_bytes=memory.organisation.channel_bytes)
    return serve(memory, requests, channels=1, log_commands=log)


def test_ddr4_commands_by_the_micron_method() -> None:
    """Micron TN-40-07 by hand: 1.2 V, IDD0 48, IDD2N 34, IDD3N 43, IDD4R 135, IDD4W 123, IDD5B 250 mA, eight devices."""
    energy = command_energy(load_memory("ddr4-2400"))
    assert energy is not None
    clock_ns = 1 / 1.2
    assert energy.activate_pj == pytest.approx(8 * 1.2 * (48 * 55 - 43 * 39 - 34 * 16) * clock_ns)
    assert energy.read_pj == pytest.approx(8 * 1.2 * (135 - 43) * 4 * clock_ns)
    assert energy.write_pj == pytest.approx(8 * 1.2 * (123 - 43) * 4 * clock_ns)
    assert energy.refresh_pj == pytest.approx(8 * 1.2 * (250 - 43) * 420 * clock_ns)
    assert energy.active_standby_w == pytest.approx(8 * 1.2 * 0.043)


def test_lpddr5_read_burst_is_the_data_sheets() -> None:
    """(372 - 39) mA × 1.05 V / 102.4 Gb/s core, 0.52 pJ/bit I/O."""
    energy = command_energy(load_memory("lpddr5-6400"))
    assert energy is not None
    assert energy.read_pj / 256 == pytest.approx(333 * 1.05 / 102.4 + 0.52, rel=1e-6)


def test_currents_by_hand() -> None:
    """Two devices at 1 V over 1, 2 and 3 ns: power above standby times time, I/O besides, nothing else."""
    rail = Rail(voltage_v=1.0, idd0_a=0.050, idd2n_a=0.020, idd3n_a=0.030, idd4r_a=0.130, idd4w_a=0.090, idd5b_a=0.230,
                idd5pb_a=0.080)
    table = CurrentEnergy(type="currents", boundary="device", devices=2, rails={"vdd": rail}, read_io_pj_per_bit=0.5,
                          write_io_pj_per_bit=0.25, source="by hand")
    times = CommandTimes(activate_ps=30_000, precharge_ps=10_000, burst_ps=1000, refresh_ps=3000, refresh_bank_ps=2000,
                         burst_bits=256, refresh_banks=16)
    energy = table.per_command(times)
    assert energy.activate_pj == pytest.approx(2 * (0.020 * 30_000 + 0.030 * 10_000))
    assert energy.read_pj == pytest.approx(2 * 0.100 * 1000 + 256 * 0.5)
    assert energy.write_pj == pytest.approx(2 * 0.060 * 1000 + 256 * 0.25)
    assert energy.refresh_pj == pytest.approx(2 * 0.200 * 3000)
    assert energy.refresh_bank_pj == pytest.approx(2 * 0.050 * 2000)
    assert (energy.active_standby_w, energy.precharge_standby_w) == pytest.approx((0.060, 0.040))


def test_an_unpriced_refresh_is_one_row_in_every_bank_of_its_scope() -> None:
    """HBM3 8 high: a pseudo-channel has 2 stack ids of 4 groups of 4 banks."""
    memory, banks = load_memory("hbm3-6400"), 2 * 4 * 4
    assert isinstance(memory.energy, BitEnergy)
    assert memory.energy.refresh_pj is None
    assert command_times(memory).refresh_banks == banks
    energy = command_energy(memory)
    assert energy is not None
    assert energy.refresh_pj == pytest.approx(banks * memory.energy.activate_pj)
    assert energy.refresh_bank_pj == pytest.approx(memory.energy.activate_pj)


def test_refresh_by_bank_without_its_current_is_refused() -> None:
    """The datasheet table of this part states no idd5pb: such a refresh would be free."""
    memory = load_memory("lpddr5-6400")
    name = memory.standard.by_role("refresh_bank")
    assert name is not None
    assert energy_actions(memory, Tally({name: 0}, 0, 0))
    with pytest.raises(ConfigError, match="idd5pb"):
        energy_actions(memory, Tally({name: 1}, 0, 0))


def test_hbm_path_adds_up_to_attaccs_levels() -> None:
    energy = load_memory("hbm3-6400").energy
    assert isinstance(energy, BitEnergy)
    assert [energy.read_pj_per_bit(place) for place in ("bank", "bank_group", "buffer_die", "host")] == pytest.approx(
        [0.44, 1.45, 3.18, 3.48])


@pytest.mark.parametrize("name", ["ddr4-2400", "hbm3-6400", "lpddr5-6400", "hbm2e-3200"])
def test_energy_is_counts_times_energy_plus_background(name: str) -> None:
    run = small_run(name)
    energy, tally = command_energy(run.memory), run.tally()
    assert energy is not None
    standard, commands = run.memory.standard, run.commands
    refresh_bank = commands.get(standard.by_role("refresh_bank") or "", 0)
    expected = (commands[standard.by_role("activate") or ""] * energy.activate_pj + commands["RD"] * energy.read_pj
                + commands["WR"] * energy.write_pj + commands[standard.by_role("refresh_all") or ""] * energy.refresh_pj
                + refresh_bank * (energy.refresh_bank_pj or 0.0) + tally.open_ps * energy.active_standby_w
                + tally.closed_ps * energy.precharge_standby_w)
    assert total_pj(energy_actions(run.memory, tally)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 400), reads=st.floats(0, 1), seed=st.integers(0, 100))
def test_standby_time_is_the_run_of_every_rank(count: int, reads: float, seed: int) -> None:
    run = small_run("hbm2-2000", count=count, reads=reads, seed=seed)
    tally = run.tally()
    assert tally.open_ps >= 0
    assert tally.closed_ps >= 0
    assert tally.open_ps + tally.closed_ps == round(run.cycles * 2 * 1000)          # two pseudo-channels, 1 ns a tick


@pytest.mark.parametrize("bins", [1, 7, 100])
def test_power_over_time_keeps_the_energy(bins: int) -> None:
    run = small_run("ddr4-2400", log=100_000)
    seconds, watts = power_over_time(run.memory, run.channels[0].log, run.cycles, bins)
    width_s = run.seconds / bins
    assert float(np.sum(watts) * width_s) == pytest.approx(total_pj(run.energy()) * 1e-12, rel=1e-6)
    assert seconds[0] == 0


def test_a_stream_costs_less_a_bit_than_random_reads() -> None:
    stream, scattered = small_run("ddr4-2400", "sequential", reads=1.0), small_run("ddr4-2400", "random", reads=1.0)
    assert total_pj(stream.energy()) * 2 < total_pj(scattered.energy())
