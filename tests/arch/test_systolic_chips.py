"""The shipped systolic chips load, and their peaks are those of their sources."""

from __future__ import annotations

import pytest
from tilesim.arch.machine import load_machine
from tilesim.arch.systolic import SystolicConfig


@pytest.mark.parametrize(("chip", "peak_macs_per_s"), [
    ("tpu-v4i", 69e12),                   # 138 TFLOPS bf16: Jouppi et al., ISCA 2021, table 1
    ("gemmini-default", 256e9),
])
def test_peak_of_the_arrays(chip: str, peak_macs_per_s: float) -> None:
    _, array = load_machine(chip).only(SystolicConfig, "systolic")
    assert array.peak_macs_per_s == pytest.approx(peak_macs_per_s, rel=0.01)
