"""Energies of a DRAM reference's runs, from our counts and the currents that its configuration states.

DRAMsim3 adds volts × milliamperes × clocks and calls the sum picojoules; one of its units is a clock period in nanoseconds of ours.
The figures are compared in its unit: ours in picojoules, over the period.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..memory.controller import Replay
from ..memory.energy import CommandTimes, CurrentEnergy, Rail
from .contract import Row, compare

TOLERANCE_PCT = 5.0
COLUMNS = ("act_energy_pJ", "read_energy_pJ", "write_energy_pJ", "ref_energy_pJ", "act_stb_energy_pJ", "pre_stb_energy_pJ",
           "total_energy_pJ")


def energy_rows(
    entry: Mapping[str, Any], line: Mapping[str, str], case: str, got: Replay, run_on: int,
) -> Iterator[Row]:
    """One row for each energy column of *line*; none where the reference states no currents or no energies."""
    power, timing = entry.get("ini_power"), entry["timing_cycles"]
    if power is None or not line.get("total_energy_pJ"):
        return
    organisation, period_ns = entry["org"], float(entry["tCK_ns"])
    rail = Rail(voltage_v=power["VDD"], idd0_a=power["IDD0"] * 1e-3, idd2n_a=power["IDD2N"] * 1e-3, idd3n_a=power["IDD3N"] * 1e-3,
                idd4r_a=power["IDD4R"] * 1e-3, idd4w_a=power["IDD4W"] * 1e-3, idd5b_a=power["IDD5AB"] * 1e-3)
    table = CurrentEnergy(type="currents", boundary="device", devices=organisation["bus_width"] / organisation["device_width"],
                          rails={"vdd": rail}, source=str(entry.get("source_ini", "reference")))
    period_ps = period_ns * 1e3
    banks = organisation["bank_groups"] * organisation["banks_per_group"]
    energy = table.per_command(CommandTimes(
        activate_ps=timing["tRAS"] * period_ps, precharge_ps=timing["tRP"] * period_ps,
        burst_ps=organisation["burst_cycles"] * period_ps, refresh_ps=timing["tRFC"] * period_ps, refresh_bank_ps=None,
        burst_bits=organisation["bytes_per_burst"] * 8, refresh_banks=banks))
    counts = got.command_counts
    open_cycles = got.open_cycles + _open_tail(got, int(timing["tREFI"]), run_on)
    closed_cycles = int(line["ticks"]) - open_cycles
    ours = dict(zip(COLUMNS, (
        counts.get("ACT", 0) * energy.activate_pj, counts.get("RD", 0) * energy.read_pj, counts.get("WR", 0) * energy.write_pj,
        counts.get("REF", 0) * energy.refresh_pj, open_cycles * period_ps * energy.active_standby_w,
        closed_cycles * period_ps * energy.precharge_standby_w), strict=False))
    ours["total_energy_pJ"] = sum(ours.values())
    for column in COLUMNS:
        expected = float(line[column])
        row = compare(f"{case}/{column}", "energy", expected, ours[column] / period_ns, TOLERANCE_PCT)
        # One refresh more or less, and time closed of less than a percent of the run, are the slack that counts have as well.
        slack = energy.refresh_pj / period_ns if column == "ref_energy_pJ" else 0.01 * float(line["total_energy_pJ"])
        small = column in ("ref_energy_pJ", "pre_stb_energy_pJ") and abs(ours[column] / period_ns - expected) <= slack * 1.001
        yield Row(row.case, row.group, row.expected, row.got, row.error_pct, row.within or small, None)


def _open_tail(got: Replay, interval: int, run_on: int) -> int:
    """Cycles after the last data in which rows stay open: a replay counts them only up to there, unless a refresh closed them."""
    return 0 if (got.last_data_cycle + run_on) // interval > got.last_data_cycle // interval else run_on
