"""The suites `mess`, `energy` and the shipped part of `dram`: published points, every anchor, bad tables refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tilesim.memory.standard import load_memory
from tilesim.sim.errors import ConfigError
from tilesim.validation import dram, energy, mess, mess_tables
from tilesim.validation.mess_traffic import mess_point

SHARED = Path(__file__).parents[3] / "shared" / "reference"


@pytest.mark.published
@pytest.mark.parametrize("nop", [4, 10, 1000])
@pytest.mark.parametrize("reads", ["1.0", "0.5"])
def test_points_of_cleaning_up_the_mess(nop: int, reads: str) -> None:
    """arXiv 2510.15744, figure 3: bandwidth within 5 %, latency within 10 % below the knee and 25 % past it."""
    with mess_tables.SHIPPED.open() as file:
        row = next(r for r in csv.DictReader(file) if r["read_fraction"] == reads and r["nop_counter"] == str(nop))
    point = mess_point(load_memory("ddr5-4800"), 16, float(reads), nop, probes=600)
    assert point.gb_per_s == pytest.approx(float(row["bandwidth_GBps"]), rel=0.05)
    assert point.latency_ns == pytest.approx(float(row["avg_random_read_latency_ns"]), rel=0.25 if nop == 4 else 0.10)


def test_unloaded_latency_is_that_of_a_row_conflict() -> None:
    """tRP + tRCD + CL + burst = 45.8 ns, a clock less for the two-clock activate."""
    assert mess_point(load_memory("ddr5-4800"), 16, 1.0, 10_000, probes=300).latency_ns == pytest.approx(45.8, rel=0.03)


@pytest.mark.slow
@pytest.mark.published
def test_every_point_of_the_mess_suite() -> None:
    result = mess.validate()
    assert [row.case for row in result.rows if not row.within] == []


def test_a_table_is_known_by_its_columns(tmp_path: Path) -> None:
    table = tmp_path / "any-name.csv"
    table.write_text("nop,read_pct,bandwidth_GBs,avg_random_read_latency_ns_ch0,memory,channels\n100,100,5.7,47.8,ddr5-4800,2\n")
    rows = {row.group: row for row in mess.validate(table, probes=1000).rows}
    assert rows["bandwidth"].case == "any-name:1"
    assert rows["bandwidth"].within
    assert rows["latency"].within
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="no bandwidth-latency table"):
        mess.validate(table)


def test_a_measured_system_gets_its_on_chip_latency_from_its_lowest_point(tmp_path: Path) -> None:
    table = tmp_path / "measured.csv"
    table.write_text("system,read_pct,pause,bandwidth_GBs,latency_ns\nskylake_ddr4,100,9,0.1,90\nskylake_ddr4,100,1,40,97\n"
                     "unknown,100,9,1,80\n")
    rows = mess.validate(table).rows
    assert [row.skipped is not None for row in rows] == [True, False, True]
    assert rows[1].got is not None
    assert 90 < rows[1].got < 130
    assert 20 < float(str(rows[1].more["on_chip_latency_ns"])) < 70


@pytest.mark.published
def test_every_declared_anchor_holds() -> None:
    result = energy.validate()
    assert [row.case for row in result.rows if row.skipped is None and not row.within] == []
    held = {row.group for row in result.rows if row.skipped is None}
    assert held >= {"hbm2_device_stream", "lpddr5_stream", "attacc_levels"}


@pytest.mark.published
def test_most_of_tpu_v1s_power_is_there_when_it_waits() -> None:
    """28 of 40 W (Jouppi et al., ISCA 2017, table 2): clocked registers and leakage, not work, are two thirds of it."""
    got = {row.case: row.got for row in energy.validate().rows if row.group == "tpu_v1_busy" and row.got is not None}
    idle_w, busy_w = got["tpu_v1_busy/idle_w"], got["tpu_v1_busy/busy_w"]
    assert busy_w == pytest.approx(40, rel=0.15)
    assert idle_w / busy_w == pytest.approx(0.7, abs=0.05)


@pytest.mark.published
def test_shared_anchors_are_the_shipped_ones() -> None:
    if not (SHARED / "energy").is_dir():
        pytest.skip("the larger reference tables are not here")
    shared, own = energy.validate(SHARED / "energy"), energy.validate()
    assert [(row.case, row.got) for row in shared.rows] == [(row.case, row.got) for row in own.rows]


@pytest.mark.published
def test_the_shipped_dram_table_holds_energies_included() -> None:
    result = dram.validate()
    assert {group.group for group in result.summary} >= {"timing", "random", "scheduler", "counts", "latency", "energy"}
    assert [row.case for row in result.rows if not row.within] == []


@pytest.mark.parametrize("text", [
    "anchors: 3\n", "anchors:\n- {id: x}\n", "anchors:\n- {id: lpddr5_stream, value: many}\n", "- a\n"])
def test_bad_anchor_tables_are_refused(tmp_path: Path, text: str) -> None:
    table = tmp_path / "a.yaml"
    table.write_text(text)
    with pytest.raises(ConfigError):
        energy.validate(table)
