"""The measured GPU baseline of CENT: what is fitted, what is scored, and that the boards' facts are what tells."""

from __future__ import annotations

import pytest
from tilesim.validation import gpu_cent
from tilesim.validation.gpu_rows import number, read_table

TABLE = read_table(gpu_cent.TABLE)


def test_the_host_time_of_a_step_is_that_of_its_one_calibration_row() -> None:
    row = next(raw for raw in TABLE if (raw["model"], raw["metric"]) == gpu_cent._CALIBRATION)
    assert gpu_cent._last_end_s("llama-7b", 1, 1, 512, 3584) == pytest.approx(number(row, "value"), rel=2e-3)
    assert [r.skipped is not None for r in gpu_cent.cent_rows([row])] == [True]


def test_queries_take_longer_together_and_serve_more() -> None:
    """A batch of 32 takes 1.8 times as long as one query as measured (1.6 to 2 by us), so that it gives 18 times the tokens."""
    one, many = (gpu_cent._last_end_s("llama-70b", 4, batch, 512, 3584) for batch in (1, 32))
    assert 1.6 < many / one < 2.0


@pytest.mark.published
def test_scored_rows_are_near_the_measured_ones() -> None:
    rows = [row for row in gpu_cent.cent_rows(TABLE) if row.skipped is None and not row.group.endswith("by_context")]
    assert len(rows) == 12
    errors_pct = [abs(row.error_pct) for row in rows if row.error_pct is not None]
    assert sum(errors_pct) / len(errors_pct) < gpu_cent.TOLERANCE_PCT
    assert max(errors_pct) < 16
