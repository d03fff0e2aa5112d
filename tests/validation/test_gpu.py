"""The GPU suite on its shipped rows: recognised by columns, scored as the contract says, within its tolerances."""

import json
from pathlib import Path

import pytest
from tilesim.validation.contract import compare
from tilesim.validation.gpu import SHIPPED, score, validate
from tilesim.validation.gpu_devices import known_gpus
from tilesim.validation.gpu_rows import read_table

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "gpu"


@pytest.fixture(scope="module")
def result():
    return validate()


def groups(result):
    return {group.group: group for group in result.summary}


@pytest.mark.parametrize(("group", "mape_pct"), [
    ("gemm:ge20us", 13.0), ("gemm:lt20us", 25.0), ("attention_decode:ge20us", 15.0), ("attention_prefill:ge20us", 20.0),
    ("vector:ge20us", 20.0), ("collectives:ge20us", 25.0), ("moe:ge20us", 30.0),
])
def test_shipped_rows_stay_within_the_promised_error(result, group, mape_pct):
    assert groups(result)[group].mape_pct <= mape_pct


def test_the_json_is_strict_and_the_same_each_time(result):
    text = result.to_json()
    assert json.loads(text)["schema"] == "tilesim.validation/1"
    assert text == validate().to_json()


def test_tables_are_recognised_by_columns_and_not_by_name():
    table = read_table(SHIPPED)
    assert score({"any name": table}, known_gpus(None)).rows == score({"x": table}, known_gpus(None)).rows
    assert score({"other": [{"a": "1"}]}, known_gpus(None)).rows == ()


def test_a_flagged_row_is_skipped_with_its_flag_and_counted():
    row = dict(read_table(SHIPPED)[0], flag="coarse_1us l2_warm", row_id="flagged")
    (scored,) = score({"t": [row]}, known_gpus(None)).rows
    assert scored.skipped == "coarse_1us"
    assert scored.got is None


def test_a_device_that_only_the_reference_describes_is_predicted(tmp_path):
    device = dict(read_table(SHIPPED.parent / "gpu_devices.csv")[0], device="New-Board", dram_GBps="3000")
    row = dict(next(r for r in read_table(SHIPPED) if r["op"] == "gemm"), device="New-Board")
    for name, value in (("devices.csv", device), ("rows.csv", row)):
        (tmp_path / name).write_text(",".join(value) + "\n" + ",".join(f'"{v}"' for v in value.values()) + "\n")
    (scored,) = validate(tmp_path).rows
    assert scored.skipped is None
    assert scored.group == "gemm:uncalibrated"


def test_a_devices_table_that_says_something_new_wins(tmp_path):
    rows = read_table(SHIPPED.parent / "gpu_devices.csv")
    changed = [dict(r, dram_GBps="5000") if r["device"] == "H100-SXM5-80GB" else r for r in rows]
    (tmp_path / "d.csv").write_text("\n".join([",".join(rows[0]), *(",".join(r.values()) for r in changed)]) + "\n")
    assert known_gpus(tmp_path)["H100-SXM5-80GB"].device.dram_bandwidth_bytes_per_s == 5000e9
    assert known_gpus(tmp_path)["A100-80GB"] == known_gpus(None)["A100-80GB"]


def test_an_error_inside_the_measured_spread_is_none():
    assert compare("c", "g", 10.0, 11.0, 5.0, low=9.0, high=12.0).error_pct == 0.0
    assert compare("c", "g", 10.0, 13.0, 5.0, low=9.0, high=12.0).error_pct == pytest.approx(10.0)
    assert compare("c", "g", 10.0, 8.0, 5.0, low=9.0, high=12.0).error_pct == pytest.approx(-10.0)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference folder is not beside the checkout")
def test_every_row_of_the_reference_is_counted_and_every_floor_is_beaten():
    result = validate(REFERENCE)
    summary = groups(result)
    for operator in ("gemm:ge20us", "attention_decode:ge20us", "attention_prefill:ge20us", "vector:ge20us"):
        assert summary[operator].mape_pct < summary[operator].more["floor_mape_pct"]
