"""The suite `fusemax`: every latency, energy, traffic and utilisation within 1 %, and the paper's headline means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tilesim.arch.einsum_arrays import FUSEMAX
from tilesim.cli import main
from tilesim.mapping.cascade import run
from tilesim.mapping.cascade_energy import cascade_actions
from tilesim.mapping.flat import AttentionShape
from tilesim.sim.errors import ConfigError
from tilesim.validation.fusemax import COLUMNS, flat_search, headline, point, validate
from tilesim.validation.timeloop_elision import excess_reads

SHARED = Path(__file__).parents[3] / "shared" / "systems" / "fusemax_points.csv"


@pytest.mark.published
@pytest.mark.parametrize("reference", [None, SHARED], ids=["shipped", "shared"])
def test_every_quantity_is_within_one_percent(reference: Path | None) -> None:
    if reference is not None and not reference.is_file():
        pytest.skip("the larger reference table is not here")
    rows = validate(reference).rows
    assert len(rows) >= 5 * 6 * 7
    assert [row.case for row in rows if not row.within] == []


@pytest.mark.published
def test_headline_means() -> None:
    """Nayak et al., abstract: 6.7 and 5.3 times as fast as FLAT, 0.79 and 0.83 of its energy; arithmetic means of 24 points."""
    ours = headline()
    assert ours["attention speed-up"].arithmetic == pytest.approx(6.723, rel=0.01)
    assert ours["end-to-end speed-up"].arithmetic == pytest.approx(5.302, rel=0.01)
    assert ours["attention energy"].arithmetic == pytest.approx(0.787, rel=0.002)
    assert ours["end-to-end energy"].arithmetic == pytest.approx(0.833, rel=0.002)
    assert ours["attention speed-up"].geometric == pytest.approx(6.462, rel=0.01)
    assert ours["end-to-end speed-up"].geometric == pytest.approx(4.605, rel=0.01)


@pytest.mark.published
def test_our_flat_search_never_moves_more_than_the_published_choice() -> None:
    assert all(found <= published * (1 + 1e-9) for published, found in flat_search().values())


@pytest.mark.parametrize(("line", "reason"), [
    ("BERT,1K,FLATT,0.1", "design is 'FLATT'"),
    ("GPT,1K,FLAT,0.1", "model is 'GPT'"),
    ("BERT,long,FLAT,0.1", "seq_len is 'long'"),
    ("BERT,0,FLAT,0.1", "seq_len is '0'"),
    ("BERT,1000,+binding(FuseMax),0.1", "do not tile by 256"),
    ("BERT,1K,FLAT,slow", "'slow', no number"),
])
def test_a_line_that_makes_no_sense_is_skipped_alone(tmp_path: Path, line: str, reason: str) -> None:
    table = tmp_path / "points.csv"
    good = "BERT,1K,FLAT,0.0133861\n"
    table.write_text(f"{','.join(COLUMNS)}\n{good}{line}\n{good}", encoding="utf-8")
    before, bad, after = validate(table).rows
    assert before.within
    assert after.within
    assert reason in (bad.skipped or "")


def test_lengths_and_batches_beyond_the_artifact_are_predicted(tmp_path: Path) -> None:
    """Twice the tokens are four times the scores; half the batch is half of everything."""
    table = tmp_path / "points.csv"
    lines = [f"T5,{seq_len},{design},1,{batch}" for design in ("FLAT", "unfused", "+BINDING(FuseMax)", "+cascade")
             for seq_len, batch in (("1M", ""), ("1048576", "64"), ("2M", "64"), ("2097152", "32"), ("2k", ""))]
    table.write_text(f"{','.join(COLUMNS)},batch\n" + "\n".join(lines) + "\n", encoding="utf-8")
    rows = validate(table).rows
    assert [row.skipped for row in rows] == [None] * len(lines)
    got = [row.got or 0.0 for row in rows]
    for first in range(0, len(lines), 5):
        named, spelled, double, half, _ = got[first:first + 5]
        assert named == spelled
        assert double == pytest.approx(4 * named, rel=0.01)
        assert half == pytest.approx(double / 2, rel=0.01)
    assert {row.case for row in rows if "our search's" in str(row.more.get("mapping"))} == {
        f"T5/{case}/attn_latency_s" for case in ("2M/FLAT", "2097152/FLAT/batch 32", "2K/FLAT")}


def test_a_file_that_is_no_utf8_text_does_not_stop_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_bytes(b"\xff\xfe\x00a,b\n")
    (tmp_path / "points.csv").write_text(",".join(COLUMNS) + "\nBERT,1K,FLAT,0.0133861\n", encoding="utf-8")
    assert [row.within for row in validate(tmp_path).rows] == [True]
    assert "other.csv: is not UTF-8 text" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"other\.csv"):
        validate(tmp_path / "other.csv")


@pytest.mark.published
def test_command_level_hbm_keeps_every_latency_within_ten_percent() -> None:
    """What a flat memory lacks, refresh and turnarounds, costs up to 10 % where FLAT is bound by it (256K tokens on)."""
    rows = [row for row in validate(memory="hbm").rows if row.group.startswith("latency:") and "linear" not in row.group]
    assert [row.case for row in rows if not row.within] == []
    assert all(row.got is not None and row.expected is not None and row.got >= 0.99 * row.expected for row in rows)


def test_each_row_says_which_memory_it_is_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the loop where tiles are short enough; unfused attention always goes by the measured rate."""
    table, out = tmp_path / "points.csv", tmp_path / "rows.json"
    table.write_text(",".join(COLUMNS) + "\nBERT,1K,unfused,0.1\nBERT,1K,FLAT,0.1\n", encoding="utf-8")
    assert main(["validate", "fusemax", "--memory", "loop", "--reference", str(table), "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["memory"] for row in rows] == ["HBM by command, as the rate of its stream", "HBM by command, in the loop"]
    assert {row.more["memory"] for row in validate(table).rows} == {"flat: a rate"}
    capsys.readouterr()
    assert main(["validate", "systolic", "--memory", "hbm"]) == 2
    assert "--memory makes no sense for systolic" in capsys.readouterr().err


def test_excess_reads_begin_where_the_product_leaves_64_bits() -> None:
    """BERT at 256K tokens: 12·2⁴⁰ outputs in tiles of 2²¹ words, 12·2⁶¹ = 2⁶⁴ + 2⁶³: 4·2⁴⁰ reads are left out instead of 12·2⁴⁰."""
    assert excess_reads(12 * 2**40, 2**21) == 2**43
    assert excess_reads(8 * 2**40, 2**21) == 2**43                 # T5: the product wraps to 0, nothing is left out
    assert excess_reads(12 * 2**36, 2**21) == 0


def test_no_buffer_reads_what_it_was_never_given() -> None:
    """Every word that is read was written, and the cascade's running outputs are read once more than they are written."""
    shape = AttentionShape(8, 2048, 2048, 64, 64)
    found = run(shape, FUSEMAX, "binding")
    actions = cascade_actions(shape, found.tiling, FUSEMAX, "binding", found.dram_bytes)
    operands = 3 * shape.heads * 2048 * 64                         # q, K and V, once each: one block of queries
    tiles, rows = shape.scores // 256, shape.heads * 2048
    assert actions["buffer_written_words"] == operands + tiles * (64 + 2)
    assert actions["buffer_read_words"] == tiles * (64 + 64 + 64) + tiles * (64 + 2) + rows * (64 + 1)


@pytest.mark.published
@pytest.mark.parametrize("design", ["unfused", "FLAT", "+cascade", "+architecture", "+binding(FuseMax)"])
def test_hbm_in_the_loop_agrees_with_its_measured_rate_and_the_artifact(design: str) -> None:
    """BERT at 1K and 4K tokens, whose arrays are the bound: within 1 % of the flat memory either way."""
    for seq_len in ("1K", "4K"):
        flat, rate, loop = (point("BERT", seq_len, design, memory).attn_latency_s for memory in ("ideal", "hbm", "loop"))
        assert loop == pytest.approx(rate, rel=0.01)
        assert loop == pytest.approx(flat, rel=0.01 if design != "unfused" else 0.1)
