"""Cross-validation: what is predicted took no part in the fit, and twins are one board."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilesim.arch.gpu_config import find_gpu, shipped_gpus
from tilesim.sim.errors import ConfigError
from tilesim.validation import calibrate_gpu
from tilesim.validation.calibrate_gpu import fit_all, with_priors
from tilesim.validation.calibrate_hosts import fit, mean_error, rows_by_constant
from tilesim.validation.gpu_cross import cross_validated, fold_of, leave_one_device_out, twin_key
from tilesim.validation.gpu_hosts import hosts
from tilesim.validation.gpu_meter import shipped_meter
from tilesim.validation.gpu_rows import is_warm, lacking

SHAPES = [(1, 4096, 4096), (64, 4096, 4096), (512, 4096, 11008), (2048, 8192, 4096), (8192, 4096, 4096), (300, 1000, 9000)]


def row(device: str, shape: tuple[int, int, int], median_us: float) -> dict[str, str]:
    m, n, k = map(str, shape)
    return {"row_id": f"{device}-{m}-{n}-{k}", "device": device, "dtype": "bf16", "op": "gemm", "m": m, "n": n, "k": k, "flag": "",
            "median_us": str(median_us)}


def rows_of(device: str, factor: float) -> list[dict[str, str]]:
    """Times of a machine *factor* times slower than a plain roofline of 100 TFLOP/s and 5 µs."""
    return [row(device, shape, factor * (5.0 + 2e-8 * np.prod(np.array(shape, dtype=float)))) for shape in SHAPES]


@pytest.fixture(autouse=True)
def _two_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws of who takes part in a fit need no more than two constants."""
    monkeypatch.setattr(calibrate_gpu, "PARAMETERS", calibrate_gpu.PARAMETERS[:2])


def test_two_names_of_one_chip_are_twins() -> None:
    assert twin_key(find_gpu("a100-80gb")) == twin_key(find_gpu("a100-sxm-80gb"))
    assert twin_key(find_gpu("h100-80gb")) == twin_key(find_gpu("h100-sxm"))
    assert twin_key(find_gpu("h200-sxm")) != twin_key(find_gpu("h100-sxm"))


@pytest.mark.parametrize("twin", [None, "H100-80GB"])
def test_a_left_out_board_is_predicted_without_its_own_rows(twin: str | None) -> None:
    """Its measured times, and those of its twin, do not move its predictions; those of its siblings do."""
    gpus = with_priors(shipped_gpus())

    def predicted(own: float, sibling: float) -> np.ndarray:
        rows = rows_of("H100-SXM5-80GB", own) + (rows_of(twin, own) if twin else []) + rows_of("H200-SXM-141GB", sibling)
        return leave_one_device_out(rows, gpus)[:len(SHAPES)]

    assert np.array_equal(predicted(1.0, 1.0), predicted(3.0, 1.0))
    assert not np.array_equal(predicted(1.0, 1.0), predicted(1.0, 3.0))


def test_a_board_alone_in_its_architecture_takes_the_nearest_ones_fitted_constants() -> None:
    gpus = with_priors(shipped_gpus())
    slow, fast = (leave_one_device_out([*rows_of("L4", 1.0), *rows_of("RTX-PRO-6000-Server", factor)], gpus)[:len(SHAPES)]
                  for factor in (3.0, 1.0))
    assert slow[0] > fast[0]


def test_a_constant_that_no_row_shows_is_that_of_the_architecture_with_the_same_sms() -> None:
    """fp32 products show Ada's launch and nothing of its 16-bit pipe, which RTX PRO 6000's rows do; and without those it stays."""
    gpus = with_priors(shipped_gpus())
    plain = [{**r, "dtype": "fp32"} for r in rows_of("L4", 1.0)]
    alone, beside = (fit_all(rows, gpus, shipped_meter()) for rows in (plain, plain + rows_of("RTX-PRO-6000-Server", 2.0)))
    prior = next(g.architecture for g in gpus.values() if g.architecture.name == "ada")
    assert alone["ada"].matmul_efficiency["fp16"] == prior.matmul_efficiency["fp16"]
    assert beside["ada"].matmul_efficiency["fp16"] == beside["blackwell-rtx"].matmul_efficiency["fp16"]
    assert beside["ada"].launch_us == alone["ada"].launch_us != beside["blackwell-rtx"].launch_us


def test_a_held_fold_does_not_move_its_own_predictions() -> None:
    gpus = with_priors(shipped_gpus())
    rows = rows_of("L4", 1.0)
    held = [fold_of(r) == fold_of(rows[0]) for r in rows]
    moved = [{**r, "median_us": str(3 * float(r["median_us"]))} if h else r for r, h in zip(rows, held, strict=True)]
    plain, other = (cross_validated(table, gpus)[0] for table in (rows, moved))
    assert np.array_equal(plain[held], other[held])
    assert all(lacking(r) is None and not is_warm(r) for r in rows)


def test_host_constants_are_those_of_the_shipped_fit() -> None:
    reference = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "gpu"
    if not reference.is_dir():
        pytest.skip("no reference tables beside the repository")
    for field, rows in rows_by_constant(reference).items():
        assert getattr(hosts(), field) == pytest.approx(fit(rows), rel=5e-3)
        assert mean_error(rows, getattr(hosts(), field)) < mean_error(rows, 0.0)


def test_cross_validation_is_refused_where_nothing_is_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    from tilesim.cli import main

    assert main(["validate", "systolic", "--cross-validate"]) == 2
    assert "no constants that are fitted" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no shipped GPU"):
        find_gpu("h1000")
