"""``tilesim compare``: machines of several families side by side, on one workload."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tilesim
from tilesim.cli import main
from tilesim.explore import compare
from tilesim.sim.errors import ConfigError

WORKLOAD = ["--model", "gpt2", "--phase", "decode", "--context", "64"]


def test_ratios_are_over_the_first_machine() -> None:
    workload = tilesim.decode("gpt2", context=64)
    found = compare(["a100-sxm-80gb", "h100-sxm", "hbm-npu"], workload)
    first, second, third = found.rows
    assert (first.speed_up, first.energy_ratio) == (1.0, 1.0)
    assert second.speed_up == pytest.approx(first.seconds / second.seconds)
    assert third.energy_ratio == pytest.approx(third.energy_j / first.energy_j)
    assert third.seconds == tilesim.simulate("hbm-npu", workload).seconds
    assert [row.machine for row in found.rows] == ["a100-sxm-80gb", "h100-sxm", "hbm-npu"]


def test_every_output_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--arch", "h100-sxm", "--arch", "hbm-npu", *WORKLOAD, "--json", str(tmp_path / "c.json"), "--csv",
                 str(tmp_path / "c.csv"), "--plots", str(tmp_path / "plots")]) == 0
    text = capsys.readouterr().out
    assert "speed-up" in text
    assert "hbm-npu" in text
    data = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [report["machine"] for report in data["reports"]] == ["h100-sxm", "hbm-npu"]
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row["machine"] for row in rows] == ["h100-sxm", "hbm-npu"]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["compare-gpt2-decode.png"]


def test_tensor_parallel_is_for_every_machine_of_a_comparison() -> None:
    found = compare(["h100-sxm", "hbm-npu"], tilesim.decode("gpt2", context=64), tensor_parallel=2)
    assert [row.machine for row in found.rows] == ["2 × h100-sxm", "2 × hbm-npu"]


@pytest.mark.parametrize("words", [["--arch", "h100-sxm"], ["--arch", "h100-sxm", "--arch", "h100-sxmm"]])
def test_bad_input_gives_one_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words, *WORKLOAD]) == 2
    assert capsys.readouterr().err.startswith("tilesim: ")


def test_one_machine_is_no_comparison() -> None:
    with pytest.raises(ConfigError, match="two machines"):
        compare(["h100-sxm"], tilesim.decode("gpt2", context=64))
