"""The command line with right input: what it prints, what it writes, and how little it costs to start."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tilesim import cli
from tilesim.cli import main

RUN = ["run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "32"]


def test_json_to_stdout_is_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    for key in ("schema", "tilesim_version", "config_hash", "config", "seconds", "cycles", "energy_j", "memory", "units",
                "operators", "bounds", "reductions"):
        assert key in report


def test_table_names_every_operator_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    text = capsys.readouterr().out
    for word in ("layers.*.mlp.up", "head", "mxu", "vpu", "hbm", "scratchpad", "roofline", "channel symmetry"):
        assert word in text


def test_every_file_output_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*RUN, "--quiet", "--json", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv"),
                 "--trace", str(tmp_path / "t.json"), "--plots", str(tmp_path / "plots")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plots", "r.csv", "r.json", "t.json"]
    assert sorted(p.suffix for p in (tmp_path / "plots").iterdir()) == [".png"] * 3
    json.loads((tmp_path / "r.json").read_text())


def test_slices_of_a_trace_track_never_overlap(tmp_path: Path) -> None:
    assert main([*RUN, "--quiet", "--trace", str(tmp_path / "t.json")]) == 0
    tracks: dict[int, list[tuple[float, float]]] = {}
    for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert tracks
    for slices in tracks.values():
        slices.sort()
        assert all(later[0] >= earlier[1] - 1e-9 for earlier, later in itertools.pairwise(slices))


def test_an_old_report_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    out.write_text("old")
    out.chmod(0o640)
    assert main([*RUN, "--quiet", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["machine"] == "hbm-npu"
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_directly() -> None:
    assert main([*RUN, "--quiet", "--json", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("operator", [
    ["gemm", "8", "64", "32"], ["attention", "--heads", "4", "--kv-heads", "2", "--head-dim", "16", "--q", "3", "--context", "40"],
    ["norm", "8", "64"], ["softmax", "8", "64"], ["elementwise", "silu_mul", "8", "64"],
])
def test_single_operators_run(operator: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", *operator, "--arch", "hbm-npu", "--quiet", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["operators"]) == 1
    assert report["tokens_per_s"] is None
    assert report["bounds"]["ratio"] >= 1


def test_a_mapping_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mapping.yaml").write_text("gemm: {k_tile: 64}\n")
    assert main(["op", "gemm", "128", "256", "512", "--arch", "hbm-npu", "--mapping", str(tmp_path / "mapping.yaml"),
                 "--objective", "edp", "--explain", "--quiet"]) == 0
    text = capsys.readouterr().out
    for line in (r"for k in 0..512 step 64", "bytes   DRAM: A 131.1 kB, B ", "C 65.54 kB written; scratchpad:",
                 "predicted ", "mappings fit", "runner-up "):
        assert line in text


def test_the_first_layers_of_a_model_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--layers", "2", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {op["layer"] for op in report["operators"]} == {None, 0, 1}
    assert main([*RUN, "--layers", "13"]) == 2
    assert "gpt2 has 12" in capsys.readouterr().err


def test_options_may_stand_before_the_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", "--quiet", "--arch", "hbm-npu", "gemm", "8", "64", "32", "--json", "-"]) == 0
    before = capsys.readouterr().out
    assert main(["op", "gemm", "8", "64", "32", "--arch", "hbm-npu", "--quiet", "--json", "-"]) == 0
    assert capsys.readouterr().out == before


def test_trace_to_stdout_is_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--trace", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["traceEvents"]


@pytest.mark.parametrize(("what", "known"), [("chips", "hbm-npu"), ("models", "llama-3.2-1b"), ("memories", "hbm3-6400")])
def test_list_names_what_is_shipped(what: str, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert known in capsys.readouterr().out.split()


def test_shown_chip_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "hbm-npu", "--set", "parts.mxu.arrays=8"]) == 0
    text = capsys.readouterr().out
    assert "arrays: 8" in text
    (tmp_path / "again.yaml").write_text(text)
    assert main(["show", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == text


def test_a_variant_that_extends_a_shipped_chip_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wide.yaml").write_text("extends: hbm-npu\nname: wide\nparts: {mxu: {arrays: 8}}\n")
    assert main(["run", "--arch", str(tmp_path / "wide.yaml"), *RUN[3:], "--quiet", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"] == "wide"


def test_help_needs_no_heavy_import() -> None:
    """What costs at start-up is imports: --help must not load numpy, numba, pydantic or networkx."""
    code = ("import sys; from tilesim.cli import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "heavy = {'numpy', 'numba', 'pydantic', 'networkx', 'simpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m tilesim run --arch hbm-npu --model gpt2 --phase decode --context 8 | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert "gpt2" in done.stdout


def test_exact_run_says_what_it_will_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """A product of 64 × 512 × 256 in bf16 reads 294,912 bytes and writes 65,536: 11,264 bursts of 32 bytes."""
    command = ["op", "--arch", "hbm-npu", "gemm", "64", "512", "256", "--exact", "--json", "-"]
    assert main(command) == 0
    assert "exact: at least 11,264 DRAM bursts" in capsys.readouterr().err
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def _every_option(kind: str) -> list[list[str]]:
    """Each option of an operator with a value that it takes."""
    parser: Any = cli._parser()
    commands = parser._subparsers._group_actions[0].choices
    operators = next(action for action in commands["op"]._actions if action.choices and kind in action.choices)
    found = []
    for action in operators.choices[kind]._actions:
        if action.option_strings and action.dest != "help":
            value = next(iter(action.choices or ["2" if action.type is int else "gemm"]))
            found.append([action.option_strings[-1], *([value] * {None: 1, 0: 0, "+": 2}[action.nargs])])
    return found


@pytest.mark.parametrize(("kind", "sizes"), [
    ("gemm", "8 8 8"), ("attention", ""), ("conv", "8 8 4 4"), ("lstm", "1 8 8"), ("norm", "8 8"), ("softmax", "8 8"),
    ("elementwise", "gelu 8 8"),
])
def test_every_option_may_stand_before_the_operator_or_after_it(kind: str, sizes: str) -> None:
    """In any order; a value may be spelled like an operator."""
    options = _every_option(kind)
    assert {"--arch", "--explain", "--exact", "--quiet", "--json"} <= {option[0] for option in options}
    after = cli._parser().parse_args(["op", kind, *sizes.split(), *itertools.chain(*options)])
    for first in range(len(options)):
        turned = [*options[first:], *options[:first]]
        for split in (len(options), len(options) // 2):
            words = ["op", *itertools.chain(*turned[:split]), kind, *sizes.split(), *itertools.chain(*turned[split:])]
            assert cli._parser().parse_args(cli._operator_first(words)) == after


def test_switches_may_be_shortened_before_the_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", "--arch", "hbm-npu", "--quiet", "--explain", "gemm", "64", "64", "64"]) == 0
    said = capsys.readouterr().out
    assert main(["op", "--arch=hbm-npu", "--qui", "--expl", "gemm", "64", "64", "64"]) == 0
    assert capsys.readouterr().out == said != ""
