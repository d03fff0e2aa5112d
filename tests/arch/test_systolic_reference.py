"""The closed forms against the register-by-register array: cycles and values, each dataflow, back-to-back and ragged folds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tilesim.arch.systolic import SystolicConfig, gemm_cycles
from tilesim.arch.systolic_folds import Dataflow
from tilesim.arch.systolic_reference import HazardError, run_reference

DATAFLOWS: tuple[Dataflow, ...] = ("weight_stationary", "output_stationary", "input_stationary")


def grid(rows: int, cols: int, dataflow: Dataflow, arrays: int = 1, double_buffered: bool = True) -> SystolicConfig:
    return SystolicConfig(type="systolic", rows=rows, cols=cols, arrays=arrays, clock_hz=1e9, dataflow=dataflow,
                          double_buffered_weights=double_buffered, dtypes=("int8",), mac_energy_pj={"int8": 0.0})


def operands(seed: int, batch: int, m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(seed)
    return values.integers(-9, 10, (batch, m, k)), values.integers(-9, 10, (batch, k, n))


def assert_equal_to_reference(seed: int, dataflow: Dataflow) -> None:
    dice = random.Random(seed)
    rows, cols = dice.randint(1, 4), dice.randint(1, 5)
    m, k, n = (dice.randint(1, 9) for _ in range(3))
    batch = dice.choice((1, 1, 1, 2))
    arrays, double = dice.choice((1, 1, 1, 2, 3)), dice.random() < 0.75
    a, b = operands(seed, batch, m, k, n)
    run = run_reference(a, b, rows=rows, cols=cols, dataflow=dataflow, arrays=arrays, double_buffered=double)
    case = (f"{rows}x{cols}x{arrays}", f"{batch}x{m}x{k}x{n}", double)
    assert np.array_equal(run.product, a @ b), case
    assert run.cycles == gemm_cycles(m, k, n, grid(rows, cols, dataflow, arrays, double), batch).total, case


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_closed_form_equals_the_registers_on_500_random_cases(dataflow: Dataflow) -> None:
    for seed in range(500):
        assert_equal_to_reference(seed, dataflow)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_one_fold_by_hand(dataflow: Dataflow) -> None:
    """3×2 on 3×2, T = 4: ws and is preload 3, then 4 + 3 + 2 − 2; os only the latter."""
    m, k, n = {"weight_stationary": (4, 3, 2), "input_stationary": (2, 3, 4), "output_stationary": (3, 4, 2)}[dataflow]
    a, b = operands(0, 1, m, k, n)
    run = run_reference(a, b, rows=3, cols=2, dataflow=dataflow)
    assert run.cycles == (7 if dataflow == "output_stationary" else 10)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_no_fold_could_start_a_cycle_earlier(dataflow: Dataflow) -> None:
    """T = 2 is shorter than the array is tall, so folds wait for weights (ws, is) or for the result bus (os)."""
    m, k, n = {"weight_stationary": (2, 8, 4), "input_stationary": (4, 8, 2), "output_stationary": (8, 2, 4)}[dataflow]
    a, b = operands(0, 1, m, k, n)
    with pytest.raises(HazardError):
        run_reference(a, b, rows=4, cols=4, dataflow=dataflow, hurry_cycles=1)
