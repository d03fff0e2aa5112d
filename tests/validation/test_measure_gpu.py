"""The measuring script's parts that need no GPU: shapes, rows, percentiles, files, and its word when there is no GPU."""

from pathlib import Path

import pytest
from tilesim.validation.gpu import measured_rows
from tilesim.validation.gpu_devices import known_gpus
from tilesim.validation.gpu_rows import MEASURED_COLUMNS, read_table
from tilesim.validation.measure_gpu import COLUMNS, Measurement, cases, gemm_case, main, percentile, row_of, write_rows


def test_rows_have_the_columns_that_the_suite_recognises() -> None:
    assert set(COLUMNS) >= MEASURED_COLUMNS


def test_every_case_becomes_a_row_that_the_suite_can_score(tmp_path: Path) -> None:
    out = tmp_path / "own.csv"
    measured = [row_of(Measurement(case, (10.0, 11.0, 12.0)), "h100-sxm", "torch=x")
                for case in cases(("gemm", "attention", "vector"), quick=True)]
    write_rows(out, measured)
    scored = measured_rows(read_table(out), known_gpus(None))
    assert len(scored) == len(measured)
    assert all(row.skipped is None for row in scored)


def test_a_row_states_its_median_and_its_spread() -> None:
    row = row_of(Measurement(gemm_case(1, 2, 3), (3.0, 1.0, 2.0)), "d", "")
    assert (row["median_us"], row["n_meas"], row["flops"]) == ("2", "3", "12")
    assert float(row["us_lo"]) < 2 < float(row["us_hi"])


def test_row_ids_depend_on_the_case_and_not_on_the_time() -> None:
    fast, slow = (row_of(Measurement(gemm_case(1, 2, 3), (t,)), "d", "")["row_id"] for t in (1.0, 9.0))
    assert fast == slow != row_of(Measurement(gemm_case(2, 2, 3), (1.0,)), "d", "")["row_id"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 3.0), (1.0, 5.0), (0.25, 2.0)])
def test_percentiles_interpolate(share: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], share) == value


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main([str(tmp_path / "out.csv")]) == 2
    assert "torch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
