"""``tilesim dram``, ``validate`` and ``show`` of memories on the command line: right input, right output; bad input, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tilesim.cli import main
from tilesim.memory.standard import shipped


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


@pytest.mark.parametrize(("words", "said"), [
    (["--set", "read_queue=0"], "read_queue is 0: must be from 1 to 4096"),
    (["--set", "write_high_watermark=2"], "write_high_watermark is 2: must be greater than 0 and 1 or less"),
    (["--mapping", "RoBaCo"], "--mapping: 'RoBaCo' has no place for the bank group (Bg), which takes 2 address bits"),
    (["--mapping", "RoBaBgCo/^Bo"], "--mapping: 'RoBaBgCo/^Bo' permutes 'Bo', which is no field of banks; after ^ write one of Pc"),
    (["--reads", "nan"], "--reads is nan: the share of reads is a number from 0 to 1"),
    (["--reads", "1.5"], "--reads is 1.5: the share of reads is a number from 0 to 1"),
    (["--stride", "0"], "--stride is 0: the distance of two requests is 1 byte or more"),
    (["-n", "0"], "-n is 0: a run has 1 request or more"),
    (["--interval", "nan"], "--interval is nan: clocks between two requests are from 0 to 1e+09"),
    (["--interval", "inf"], "--interval is inf: clocks"),
    (["--interval", "1e30"], "--interval is 1e+30: clocks"),
    (["--interval", "-1"], "--interval is -1: clocks"),
    (["--seed", "-1"], "--seed is -1: a seed is 0 or more"),
    (["--on-chip-latency", "5 ns"], "--on-chip-latency would have no effect: it is for --curve"),
    (["--system", "x"], "--system would have no effect: it is for --curve"),
    (["--reference", "x"], "--reference would have no effect: it is for --curve"),
    (["--curve", "--on-chip-latency", "5 parsec"], "--on-chip-latency: unit 'parsec' of '5 parsec' is no unit of time"),
])
def test_an_error_names_the_option_and_what_is_allowed(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, out, err = run(capsys, "dram", "--memory", "ddr4-2400", "--pattern", "random", *words)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(("timing", "line", "said"), [
    ("  tRP: 16\n  tRCD: 16 parsec\n", 5, "timing.tRCD is '16 parsec': unit 'parsec' of '16 parsec' is no unit of time"),
    ("  tRP: 16\n  tFOO: 16\n", 5, "timing.tFOO: timing tFOO is none of DDR4"),
])
def test_a_wrong_timing_is_found_in_the_file_that_states_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, timing: str, line: int, said: str,
) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(f"extends: ddr4-2400\nname: mine\ntiming:\n{timing}")
    code, _, err = run(capsys, "dram", "--memory", str(own), "--pattern", "random")
    assert code == 2
    assert f"{own}:{line}: {said}" in err


def test_a_missing_timing_is_said_where_the_timings_stand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (shipped("memories") / "ddr4-2400.yaml").read_text().replace("  tRCD: 16\n", "")
    own = tmp_path / "mine.yaml"
    own.write_text(text)
    code, _, err = run(capsys, "dram", "--memory", str(own), "--pattern", "random")
    assert code == 2
    line = text.splitlines().index(next(each for each in text.splitlines() if each.startswith("timing:"))) + 1
    assert f"{own}:{line}: timing: timing lacks tRCD, which DDR4 needs" in err


def test_one_channel_is_not_plural(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "dram", "--memory", "ddr4-2400", "--pattern", "random", "-n", "100")
    assert "ddr4-2400, 1 channel:" in out


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
