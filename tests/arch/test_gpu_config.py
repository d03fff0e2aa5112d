"""Boards as data: they load, agree with their data sheets, and say who they are."""

from pathlib import Path

import pytest
from tilesim.arch.gpu_config import find_gpu, load_gpu, shipped_gpus
from tilesim.sim.errors import ConfigError
from tilesim.validation.gpu_rows import number, read_table

TABLE = read_table(Path(__file__).parents[2] / "validation" / "data" / "gpu_devices.csv")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["device"])
def test_every_board_of_the_devices_table_is_shipped_with_its_peak_rate(row: dict[str, str]) -> None:
    """Rates at one of the two clocks that data sheets quote; ours are per cycle. 9 %: rounded marketing figures."""
    gpu = find_gpu(row["device"])
    assert gpu.device.sms == number(row, "sm_or_cu")

    def closest(per_cycle: float, figure: float) -> float:
        rates = [per_cycle * gpu.device.sms * number(row, clock) * 1e6 / 1e12 for clock in ("spec_boost_mhz", "max_mhz")]
        return min(rates, key=lambda rate: abs(rate - figure))

    fp32 = number(row, "fp32_TFLOPs")
    assert closest(gpu.device.fp32_flops_per_cycle_per_sm, fp32) == pytest.approx(fp32, rel=0.09)
    rates = gpu.device.tensor_flops_per_cycle_per_sm
    if "fp16" in rates and number(row, "bf16_TFLOPs") > 0:
        figure = number(row, "bf16_TFLOPs")
        assert closest(rates["fp16"], figure) == pytest.approx(figure, rel=0.09)


def test_an_alias_finds_the_same_board() -> None:
    assert find_gpu("H100-SXM5-80GB") is find_gpu("h100-sxm")


def test_an_unknown_board_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="h100-sxm"):
        find_gpu("h100-sxn")


def test_an_unknown_key_in_a_board_is_refused_with_its_line(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "configs" / "gpus" / "t4.yaml"
    bad = tmp_path / "t4.yaml"
    bad.write_text(source.read_text().replace("sms: 40", "sms: 40\nsmss: 41"))
    with pytest.raises(ConfigError, match="smss"):
        load_gpu(bad)


def test_no_name_means_two_boards() -> None:
    names = [name for gpu in {g.name: g for g in shipped_gpus().values()}.values() for name in (gpu.name, *gpu.device.aliases)]
    assert len(names) == len(set(names))
