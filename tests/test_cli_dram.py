"""``tilesim dram``, ``validate`` and ``show`` of memories on the command line: right input, right output; bad input, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tilesim.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_pattern_gives_strict_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "dram", "--memory", "ddr4-2400", "--pattern", "random", "-n", "2000", "--reads", "0.7",
                       "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert data["schema"] == "tilesim.dram/1"
    assert data["commands"]["RD"] + data["commands"]["WR"] == 2000
    assert data["bytes_per_s"] < data["peak_bytes_per_s"]
    assert sum(line["joules"] for line in data["energy"]) == pytest.approx(data["energy_j"])
    assert sum(data["verdict"]["shares"].values()) == pytest.approx(1)


def test_a_trace_prints_what_bound_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    trace.write_text("".join(f"LD {64 * i}\n" for i in range(500)))
    code, out, _ = run(capsys, "dram", "--memory", "ddr4-2400", "--trace", str(trace), "--set", "read_queue=64",
                       "--plots", str(tmp_path))
    assert code == 0
    assert "500 requests" in out
    assert "data bus-bound" in out
    assert (tmp_path / "ddr4-2400-power.png").stat().st_size > 1000


def test_a_curve_is_drawn_beside_measured_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text("system,read_pct,bandwidth_GBs,latency_ns\nmine,100,1,90\nmine,100,10,120\n")
    code, out, _ = run(capsys, "dram", "--memory", "ddr4-2400", "--pattern", "random", "--curve", "-n", "300", "--reads", "0.9",
                       "--plots", str(tmp_path), "--reference", str(table), "--on-chip-latency", "50 ns")
    assert code == 0
    assert "of pin rate" in out
    assert (tmp_path / "ddr4-2400-random-curve.png").stat().st_size > 1000


@pytest.mark.parametrize("words", [
    ["dram", "--memory", "ddr9", "--pattern", "random"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "zigzag"],
    ["dram", "--memory", "ddr4-2400", "--trace", "nowhere.trace"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "random", "--set", "read_queue=0"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "random", "--set", "depth=3"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "random", "--controller", "best"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "random", "--channels", "0"],
    ["dram", "--memory", "ddr4-2400", "--pattern", "random", "--mapping", "XyZ"],
    ["dram", "--memory", "ddr4-2400", "--trace", "x", "--curve"],
    ["validate", "energy", "--reference", "nowhere"],
    ["show", "ddr4-2400", "--set", "a=1"],
])
def test_bad_input_gives_one_error_and_exit_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("tilesim: ")


def test_show_prints_units_and_sources(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "show", "ddr4-3200")
    assert code == 0
    for words in ("350.000  350 ns; tRFC1 of 8 Gb", "25.6 GB/s", "JESD79-4B", "idd4r: 168 mA", "bank_group: RD -> RD: tCCD_L"):
        assert words in out
    own = tmp_path / "mine.yaml"
    own.write_text("extends: ddr4-3200\nname: mine\n")
    assert run(capsys, "show", str(own))[1].startswith("mine:")


def test_validate_writes_the_contracts_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate", "systolic", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert data["schema"] == "tilesim.validation/1"
    assert {"case", "group", "expected", "got", "error_pct", "within", "skipped"} <= set(data["rows"][0])
    assert "systolic" in err


def test_validate_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "validate", "systolic")
    assert code == 0
    assert "ws" in out
