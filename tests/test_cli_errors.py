"""Bad input gives one clear error with its place and its mend, exit code 2, and no output at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tilesim.arch.machine import chip_folder
from tilesim.cli import main

CHIP = (chip_folder() / "hbm-npu.yaml").read_text()
GPT2 = json.loads((chip_folder().parent / "models" / "gpt2.json").read_text())


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


class Case:
    """Builds the bad input in a folder and gives the arguments, then the words that the message must hold."""

    def __init__(self, name: str, build: Callable[[Path], list[str]], *words: str) -> None:
        self.name, self.build, self.words = name, build, words


def changed_chip(old: str, new: str) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        assert old in CHIP
        (folder / "chip.yaml").write_text(CHIP.replace(old, new, 1))
        return ["--arch", str(folder / "chip.yaml"), "--model", "gpt2"]
    return build


def changed_model(change: Callable[[dict[str, object]], object]) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        config = dict(GPT2)
        change(config)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        return ["--arch", "hbm-npu", "--model", str(folder / "config.json")]
    return build


def truncated_model(folder: Path) -> list[str]:
    text = json.dumps(GPT2, indent=1)
    (folder / "config.json").write_text(text[: len(text) // 2])
    return ["--arch", "hbm-npu", "--model", str(folder / "config.json")]


def on(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: [argument.replace("FOLDER", str(folder)) for argument in arguments]


CASES = [
    Case("wrong unit", changed_chip("clock: 1050 MHz", "clock: 1050 MHs"),
         f"chip.yaml:{line_of(CHIP, 'clock: 1050 MHz')}", "clock", "MHs", "MHz"),
    Case("misspelt key", changed_chip("    arrays: 4", "    arays: 4"),
         f"chip.yaml:{line_of(CHIP, '    arrays: 4')}", "parts.mxu.arays", "Did you mean 'arrays'"),
    Case("duplicate key", changed_chip("    rows: 128", "    rows: 128\n    rows: 64"),
         f"chip.yaml:{line_of(CHIP, '    rows: 128') + 1}", "parts.mxu.rows", "twice"),
    Case("missing key", changed_chip("    rows: 128\n", ""), f"chip.yaml:{line_of(CHIP, '  mxu:')}", "parts.mxu", "rows"),
    Case("negative size", changed_chip("    rows: 128", "    rows: -128"),
         f"chip.yaml:{line_of(CHIP, '    rows: 128')}", "parts.mxu.rows", "-128"),
    Case("tile that cannot fit", on("--arch", "hbm-npu", "--set", "parts.scratchpad.capacity=8 KiB", "--model", "gpt2"),
         "--set parts.scratchpad.capacity=8 KiB", "8192", "bytes", "at least"),
    Case("model larger than memory", on("--arch", "hbm-npu", "--model", "llama-3.1-405b"),
         f"hbm-npu.yaml:{line_of(CHIP, '  hbm:')}", "bytes", "smaller model"),
    Case("unknown model type", changed_model(lambda c: c.update(model_type="lama")),
         "config.json:", "model_type", "lama", "Did you mean 'llama'"),
    Case("truncated JSON", truncated_model, "config.json:", "JSON"),
    Case("directory instead of file", on("--arch", "hbm-npu", "--model", "FOLDER/"), "directory"),
    Case("directory as chip", on("--arch", "FOLDER/", "--model", "gpt2"), "directory"),
    Case("unwritable output", on("--arch", "hbm-npu", "--model", "gpt2", "--csv", "FOLDER/none/out.csv"), "none", "mkdir"),
    Case("unknown chip", on("--arch", "hbm-mpu", "--model", "gpt2"), "hbm-mpu", "Did you mean 'hbm-npu'"),
    Case("unknown model", on("--arch", "hbm-npu", "--model", "gpt3"), "gpt3", "gpt2"),
    Case("unknown format", on("--arch", "hbm-npu", "--model", "gpt2", "--dtype", "bf61"), "bf61", "Did you mean 'bf16'"),
    Case("format without a MAC", on("--arch", "hbm-npu", "--model", "gpt2", "--dtype", "fp32"), "fp32", "bf16"),
    Case("more context than positions", on("--arch", "hbm-npu", "--model", "gpt2", "--context", "4096"), "4096", "1024"),
    Case("no batch", on("--arch", "hbm-npu", "--model", "gpt2", "--batch", "0"), "batch", "0"),
    Case("bad set", on("--arch", "hbm-npu", "--set", "parts.mxu.row=3", "--model", "gpt2"), "--set", "Did you mean 'rows'"),
    Case("negative model size", changed_model(lambda c: c.update(n_layer=-2)), "config.json:", "n_layer", "-2"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_clear_error(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    arguments = ["run", "--phase", "decode", "--json", str(out), *case.build(tmp_path)]
    if "--context" not in arguments:
        arguments += ["--context", "64"]
    before = sorted(os.listdir(tmp_path))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tilesim: ")
    assert "Traceback" not in printed.err
    for word in case.words:
        assert word in printed.err, printed.err
    assert sorted(os.listdir(tmp_path)) == before


def test_two_outputs_to_stdout_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "8"]
    assert main([*run, "--json", "-", "--csv", "-"]) == 2
    assert "stdout" in capsys.readouterr().err


def test_two_outputs_to_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "8"]
    assert main([*run, "--json", str(tmp_path / "a"), "--csv", f"{tmp_path}/./a"]) == 2
    assert "same file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_plots_below_a_file_are_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    run = ["run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "8"]
    assert main([*run, "--json", str(tmp_path / "r.json"), "--plots", str(tmp_path / "file" / "plots")]) == 2
    assert "plots" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("change", [
    "static_power=-300 W", "parts.mxu.mac_energy.bf16=-1 pJ", "parts.hbm.stacks=true", "links=[]", "parts.mxu.clock=5000 GHz",
    "parts.scratchpad.bank_width=1 B",
])
def test_impossible_machines_are_refused(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "8"]
    assert main([*run, "--set", change]) == 2
    assert "--set" in capsys.readouterr().err


def test_an_alias_that_holds_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chip.yaml").write_text("name: &x [*x]\n")
    assert main(["show", str(tmp_path / "chip.yaml")]) == 2
    assert "nested" in capsys.readouterr().err


def test_a_name_that_is_no_model_is_not_asked_for_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", "hbm-npu", "--model", "resnet-5", "--batch", "2"]) == 2
    complaint = capsys.readouterr().err
    assert "Did you mean 'resnet-50'" in complaint
    assert "phase" not in complaint


def test_a_head_wider_than_the_arrays_multiply_says_which_option_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--arch", "tpu-v1", "--model", "gpt2", "--phase", "decode", "--context", "8", "--layers", "1", "--dtype", "int8",
           "--quiet"]
    assert main(run) == 2
    complaint = capsys.readouterr().err
    assert "head: embedding.weight is bf16; the systolic array 'mxu' of tpu-v1 cannot multiply that" in complaint
    assert "add --embedding int8" in complaint
    assert main([*run, "--embedding", "int8"]) == 0


def test_lanes_that_do_not_multiply_are_the_reason_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lanes.yaml").write_text("gemm: {unit: lanes}\n")
    run = ["op", "gemm", "8", "8", "8", "--arch", "tpu-v1", "--dtype", "int8"]
    assert main([*run, "--mapping", str(tmp_path / "lanes.yaml")]) == 2
    complaint = capsys.readouterr().err
    assert "lanes.yaml:1: gemm: unit is lanes, but the lanes of tpu-v1, 'vpu', do not multiply" in complaint


def test_sizes_of_attention_are_called_as_the_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["op", "attention", "--heads", "4", "--head-dim", "64", "--arch", "hbm-npu"]
    assert main([*run, "--q", "1", "--context", "0"]) == 2
    assert "context is 0" in capsys.readouterr().err
    assert main([*run, "--q", "0", "--context", "8"]) == 2
    assert "q is 0" in capsys.readouterr().err


def test_a_part_that_is_no_mapping_is_refused_in_words_of_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", "gemm", "8", "8", "8", "--arch", "hbm-npu", "--set", "parts.vpu=null"]) == 2
    assert "parts.vpu is None: a mapping of keys to values is wanted" in capsys.readouterr().err
