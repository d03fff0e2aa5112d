"""FLAT's and FuseMax's chips in every command: the figures of the suite that compares them, laws, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilesim.arch.einsum_arrays import einsum_folder, load_einsum
from tilesim.arch.families import find_machine, shipped_names, show_machine
from tilesim.cli import main
from tilesim.run import run_graph
from tilesim.sim.report import Report
from tilesim.validation.fusemax import point
from tilesim.workloads.single import attention, gemm

CHIPS = sorted(path.stem for path in einsum_folder().glob("*.yaml"))
SHAPE = ["attention", "--heads", "12", "--head-dim", "64", "--batch", "64"]


def run(chip: str, sets: tuple[str, ...] = (), tokens: int = 1024) -> Report:
    graph = attention(12, 64, tokens, tokens, batch=64, causal=False)
    return run_graph(find_machine(chip, sets), graph, "case", 0, {})


@pytest.mark.parametrize(("chip", "sets", "design"), [
    ("fusemax", (), "+binding(FuseMax)"), ("fusemax", ("design=architecture",), "+architecture"), ("unfused", (), "unfused"),
    ("flat", (), "FLAT"),
])
def test_a_chip_gives_the_time_of_its_design(chip: str, sets: tuple[str, ...], design: str) -> None:
    """BERT at 1K and 4K: what `validate fusemax` holds against the artifact. FLAT's own tool chose another mapping; ours, of
    fewer bytes, takes as long, as the lanes bound both."""
    for tokens, name in ((1024, "1K"), (4096, "4K")):
        ours, expected = run(chip, sets, tokens), point("BERT", name, design, oddities=False)
        assert ours.seconds == pytest.approx(expected.attn_latency_s, rel=1e-4)
        if design != "FLAT":
            assert ours.energy_j == pytest.approx(1e-12 * expected.attn_energy_pJ, rel=1e-6)
        level = ours.memory["memory"]
        assert level.read_bytes + level.written_bytes <= expected.attn_dram_bytes * (1 + 1e-9)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", ["attention", "gemm"])
def test_laws(chip: str, kind: str) -> None:
    graph = attention(4, 128, 512, 2048, batch=2, causal=False) if kind == "attention" else gemm(512, 768, 300)
    report = run_graph(find_machine(chip), graph, "case", 0, {})
    assert report.seconds >= report.bounds.roofline_s
    level = report.memory["memory"]
    assert level.read_bytes + level.written_bytes >= report.bounds.compulsory_bytes
    assert level.bandwidth_bytes_per_s <= level.peak_bytes_per_s * (1 + 1e-9)
    assert sum(op.seconds for op in report.operators) == pytest.approx(report.seconds)
    assert report.energy_j == pytest.approx(sum(line.count * line.pj_each * 1e-12 for line in report.energy_lines))
    assert any("ideal memory" in text for text in report.assumptions)
    assert all(unit.busy_s <= report.seconds * (1 + 1e-9) for unit in report.units.values())


def test_a_product_that_the_buffer_cannot_hold_reads_an_operand_again() -> None:
    """16 MiB: half holds 2048 columns of k = 2048 fp16 words, so 8192 columns are four strips, past each of which A streams."""
    def moved(m: int, n: int, k: int, sets: tuple[str, ...] = ()) -> tuple[int, int]:
        level = run_graph(find_machine("fusemax", sets), gemm(m, n, k), "case", 0, {}).memory["memory"]
        return level.read_bytes, level.written_bytes

    assert moved(65536, 8192, 2048) == (2 * (2048 * 8192 + 4 * 65536 * 2048), 2 * 65536 * 8192)
    assert moved(512, 768, 300) == (2 * (512 * 300 + 300 * 768), 2 * 512 * 768)
    # No strip of 256 rows fits: each tile of 256 x 256 outputs reads both operands again.
    assert moved(1024, 512, 2048, ("buffer=1 MiB",)) == (2 * (1024 * 2048 * 2 + 2048 * 512 * 4), 2 * 1024 * 512)
    assert moved(65536, 8192, 2048, ("buffer=128 MiB",)) < moved(65536, 8192, 2048)


@pytest.mark.parametrize(("chip", "scores"), [("unfused", 2), ("fusemax", 0)])
def test_scores_that_leave_the_chip_are_written_and_read(chip: str, scores: int) -> None:
    """Unfused attention writes scores and weights; a fused one writes its output alone. Energy is told apart the same way."""
    report = run(chip)
    level, pairs, outputs = report.memory["memory"], 64 * 12 * 1024**2, 64 * 12 * 1024 * 64
    assert level.written_bytes == 2 * (scores * pairs + outputs)
    counts = {line.action: line.count for line in report.energy_lines}
    assert counts["dram_written_bytes"] == level.written_bytes
    assert counts["dram_read_bytes"] == level.read_bytes


@pytest.mark.parametrize("chip", CHIPS)
def test_a_chip_is_listed_and_loads_again_as_shown(chip: str, tmp_path: Path) -> None:
    assert chip in shipped_names()
    again = tmp_path / "again.yaml"
    again.write_text(show_machine(find_machine(chip)))
    assert load_einsum(again) == find_machine(chip)


@pytest.mark.parametrize(("words", "complaint"), [
    ([*SHAPE, "--q", "1024", "--context", "1024"], "no mask (--full)"),
    ([*SHAPE, "--q", "100", "--context", "1024", "--full"], "multiples of 256"),
    ([*SHAPE, "--q", "1024", "--context", "1024", "--full", "--exact"], "--exact makes no sense"),
    ([*SHAPE, "--q", "1024", "--context", "1024", "--full", "--dtype", "int8"], "16-bit words"),
    ([*SHAPE, "--q", "1024", "--context", "1024", "--full", "--set", "buffer=1 KiB"], "do not tile"),
    ([*SHAPE, "--q", "1024", "--context", "1024", "--full", "--set", "desing=flat"], "design"),
    (["softmax", "64", "64"], "no softmax"),
])
def test_what_these_arrays_do_not_run_is_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", *words, "--arch", "fusemax"]) == 2
    assert complaint in capsys.readouterr().err


def test_a_rate_at_which_no_tile_settles_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["op", "--arch", "fusemax", *SHAPE, "--batch", "1", "--full", "--q", "4096", "--context", "4096"]
    assert main([*command, "--set", "bandwidth=70 GB/s"]) == 2
    assert "reach no steady state at this rate of memory" in capsys.readouterr().err
