"""The suite `systolic`: exact on every row, the known oddity skipped with its reason, bad tables refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilesim.sim.errors import ConfigError
from tilesim.validation.systolic import COLUMNS, validate

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


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(",".join(COLUMNS) + "\n8,8,ws,1,1,1,22\n8,8,rs,1,1,1,22\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"table\.csv:3"):
        validate(table)
