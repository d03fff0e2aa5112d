"""The suite `systolic`: exact on every row, the known oddity skipped with its reason, bad tables refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilesim.sim.errors import ConfigError
from tilesim.validation.systolic import COLUMNS, PADDED_WRITES, STALL_COLUMNS, validate

SHARED = Path(__file__).parents[3] / "shared" / "reference" / "systolic"


@pytest.mark.published
@pytest.mark.parametrize("reference", [None, SHARED], ids=["shipped", "shared"])
def test_every_count_is_exact(reference: Path | None) -> None:
    if reference is not None and not reference.is_dir():
        pytest.skip("the larger reference tables are not here")
    result = validate(reference)
    assert {group.group for group in result.summary} >= {"ws", "os", "is", "sram:ifmap_reads", "sram:ofmap_writes"}
    assert [row.case for row in result.rows if row.skipped is None and not row.within] == []
    assert all(":os:" in row.case and row.case.endswith("ofmap_writes") for row in result.rows if row.skipped)


def test_golden_totals_are_in_the_shipped_table() -> None:
    expected = {row.expected for row in validate().rows}
    assert {112283, 10175, 11199, 14207} <= expected


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no systolic reference table"):
        validate(tmp_path)


HEADER = ",".join((*COLUMNS, "sram_ifmap_reads", "sram_ofmap_writes")) + "\n"
GOOD = "8,8,ws,1,1,1,22,1,1\n"


@pytest.mark.parametrize(("line", "reason"), [
    ("8,8,rs,1,1,1,22,1,1", "dataflow is 'rs', which is none"),
    ("8,8,ws,0,1,1,22,1,1", "M is '0'"),
    ("8,8,ws,1,-5,1,22,1,1", "N is '-5'"),
    ("0,8,ws,1,1,1,22,1,1", "array_rows is '0'"),
    ("8,8,ws,one,1,1,22,1,1", "M is 'one'"),
    ("8,8", "dataflow is ''"),
])
def test_a_line_that_makes_no_sense_is_skipped_alone(tmp_path: Path, line: str, reason: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}{GOOD}{line}\n{GOOD}", encoding="utf-8")
    rows = validate(table).rows
    skipped = [row for row in rows if row.skipped]
    assert len(skipped) == (1 if line == "8,8" else 3)
    assert all(reason in (row.skipped or "") for row in skipped)
    assert [row.within for row in rows if not row.skipped] == [True] * 6


def test_a_count_that_is_no_number_is_skipped_alone(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(HEADER + "8,8,ws,1,1,1,many,abc,1\n", encoding="utf-8")
    total, reads, writes = validate(table).rows
    assert "'many', no number" in (total.skipped or "")
    assert "'abc', no number" in (reads.skipped or "")
    assert writes.within


@pytest.mark.parametrize(("cell", "reason"), [("0", "ifmap_kib is '0'"), ("x", "ifmap_kib is 'x'")])
def test_scratchpads_that_are_none_are_skipped(tmp_path: Path, cell: str, reason: str) -> None:
    table = tmp_path / "table.csv"
    columns = ",".join((*COLUMNS, *STALL_COLUMNS))
    table.write_text(f"{columns}\n8,8,ws,4,4,4,25,{cell},1,1,8,8,8\n8,8,ws,4,4,4,25,1,1,1,8,8,8\n", encoding="utf-8")
    bad, good = validate(table).rows
    assert reason in (bad.skipped or "")
    assert good.within


def test_an_operand_too_large_for_stalls_is_skipped_with_that_reason(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(",".join((*COLUMNS, *STALL_COLUMNS)) + "\n8,8,ws,65536,65536,65536,25,1,1,1,8,8,8\n", encoding="utf-8")
    [row] = validate(table).rows
    assert "too large for SCALE-Sim's stalls" in (row.skipped or "")


def test_unusual_lines_are_predicted(tmp_path: Path) -> None:
    """Arrays beyond those that we ship, long spellings, numbers with a point. By hand: folds·(2R + C + T − 2) − 1."""
    table = tmp_path / "table.csv"
    table.write_text(f"{','.join(COLUMNS)}\n2048,4096,WS,10,4096,4096,{2 * (2 * 2048 + 4096 + 10 - 2) - 1}\n"
                     f"8.0,8, weight-stationary ,1.0,1,1,22.0\n1,1,Output_Stationary,1,1,1,0\n", encoding="utf-8")
    result = validate(table)
    assert [row.within for row in result.rows] == [True] * 3
    assert [row.group for row in result.rows] == ["ws", "ws", "os"]


def test_padding_words_are_skipped_and_any_other_count_is_an_error(tmp_path: Path) -> None:
    """16×24 on 8×8 is six folds: 16·24 + 6·16 words with padding."""
    table = tmp_path / "table.csv"
    columns = ",".join((*COLUMNS, "sram_ofmap_writes"))
    lines = "".join(f"8,8,os,16,24,5,113,{writes}\n" for writes in (16 * 24 + 6 * 16, 16 * 24, 16 * 24 + 6 * 16 + 1, 999999))
    table.write_text(f"{columns}\n{lines}", encoding="utf-8")
    padded, exact, near, far = (row for row in validate(table).rows if row.group == "sram:ofmap_writes")
    assert padded.skipped == PADDED_WRITES
    assert [row.skipped for row in (exact, near, far)] == [None] * 3
    assert [row.within for row in (exact, near, far)] == [True, False, False]


def test_files_that_are_no_utf8_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Passed over in a folder, refused alone; Latin-1 in a column that nobody needs does no harm."""
    (tmp_path / "a.csv").write_bytes("größe,ß\n1,2\n".encode("latin-1"))
    (tmp_path / "b.csv").write_bytes((",".join(COLUMNS) + "\n8,8,ws,1,1,1,22\n").encode("utf-16"))
    (tmp_path / "c.csv").write_bytes((",".join((*COLUMNS, "source")) + "\n8,8,ws,1,1,1,22,Übung\n").encode("latin-1"))
    assert [row.within for row in validate(tmp_path).rows] == [True]
    said = capsys.readouterr().err
    assert "a.csv: is not UTF-8 text" in said
    assert "b.csv: is not UTF-8 text" in said
    with pytest.raises(ConfigError, match=r"b\.csv: is not UTF-8 text"):
        validate(tmp_path / "b.csv")
