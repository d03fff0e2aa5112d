"""The power meter: what its running mean makes of a loop of calls, and that the fit finds what readings were made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.arch.gpu_config import shipped_gpus
from tilesim.sim import yaml_reader
from tilesim.validation.gpu_meter import METER_FILE, Meter, fit_meter, meter_text, metered_w, shipped_meter
from tilesim.validation.gpu_rows import MEASURED_COLUMNS, RawRow, predict_group

NOTES = "aic;vllm;NVML board power 100ms samples over >=1s;limit=700"
BOARD = "H200-SXM-141GB"


def meter(reach_s: float = 0.5, loop_s: float = 1.0, **before_w: float) -> Meter:
    return Meter(loop_s=loop_s, most_calls=3000, reach_s=reach_s, before_w={BOARD: before_w})


def decode_row(median_us: float, power_w: float, *, kv_len: int = 4096, op: str = "attention_decode", extra: str = NOTES) -> RawRow:
    columns = (*MEASURED_COLUMNS, "batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len", "power_w", "extra")
    return dict.fromkeys(columns, "") | {
        "device": BOARD, "op": op, "dtype": "bf16", "batch": "64", "heads": "32", "kv_heads": "8", "head_dim": "128", "q_len": "1",
        "kv_len": str(kv_len), "median_us": str(median_us), "power_w": str(power_w), "n_meas": "1", "extra": extra}


def read_w(rows: list[RawRow], through: Meter) -> np.ndarray:
    gpu = shipped_gpus()[BOARD]
    return metered_w(gpu, predict_group(gpu, rows[0]["op"], "bf16", rows), rows, through)


@given(period_us=st.floats(1, 1e6), reach_s=st.floats(0.05, 1), loop_s=st.floats(0.05, 3))
def test_share_is_the_mean_of_a_running_mean(period_us: float, reach_s: float, loop_s: float) -> None:
    """Against the integral: at time t of the loop, min(t, reach)/reach of the running mean is the loop's."""
    length_s = min(loop_s, 3000 * period_us * 1e-6)
    times = (np.arange(20000) + 0.5) / 20000 * length_s
    share = float(meter(reach_s, loop_s).own_share(np.array([period_us * 1e-6]))[0])
    assert share == pytest.approx(float(np.mean(np.minimum(times, reach_s) / reach_s)), rel=1e-3)


@given(watts=st.floats(60, 700), period_us=st.floats(1, 5000))
def test_reading_lies_between_the_state_before_and_the_kernels_own_watts(watts: float, period_us: float) -> None:
    row = decode_row(period_us, 1.0)
    (own,), (read,) = read_w([row], meter()), read_w([row], meter(attention_decode=watts))
    assert min(own, watts) - 1e-6 <= read <= max(own, watts) + 1e-6


def test_only_noted_readings_of_boards_and_operators_with_a_state_go_through_the_meter() -> None:
    through = meter(attention_decode=700.0)
    row = decode_row(200, 1.0)
    plain = decode_row(200, 1.0, extra="another meter")
    assert read_w([row], through)[0] > read_w([plain], through)[0]
    assert read_w([plain], through)[0] == read_w([row], meter(attention_prefill=700.0))[0]


@pytest.mark.parametrize("reach_s", [0.3, 0.6, 1.0])
def test_fit_finds_the_meter_that_readings_were_made_with(reach_s: float) -> None:
    made_with = meter(reach_s, attention_decode=300.0)
    short = [decode_row(period_us, 300.0, kv_len=16) for period_us in (8.0, 12.0, 20.0)]
    long = [decode_row(period_us, 1.0, kv_len=round(period_us * 16)) for period_us in (120.0, 200.0, 300.0, 600.0, 1200.0)]
    long = [{**row, "power_w": f"{watts:.6f}"} for row, watts in zip(long, read_w(long, made_with), strict=True)]
    found = fit_meter([*short, *long], shipped_gpus())
    assert found.before_w == {BOARD: {"attention_decode": 300}}
    assert found.reach_s == reach_s


def test_rows_without_short_kernels_leave_no_state_and_the_reach_as_shipped() -> None:
    found = fit_meter([], shipped_gpus())
    assert found.before_w == {}
    assert found.reach_s == shipped_meter().reach_s


def test_written_constants_read_back() -> None:
    wanted = meter(0.3, attention_decode=301.0, attention_prefill=402.0)
    text = meter_text(METER_FILE.read_text(encoding="utf-8"), wanted)
    assert Meter(**yaml_reader.parse(text, "meter").value) == wanted
