"""Boards as data: they load, agree with their data sheets, and say who they are."""

from pathlib import Path

import pytest
from tilesim.arch.gpu_collectives import collective_seconds
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


@pytest.mark.parametrize(("board", "dtype", "tops"), [
    ("a100-sxm-80gb", "int8", 624), ("t4", "int8", 130), ("l4", "int8", 242), ("h100-sxm", "int8", 1979), ("p4", "int8", 22),
    ("v100-pcie-32gb", "bf16", 14.1), ("t4", "bf16", 8.1), ("p100-pcie-16gb", "fp16", 19), ("p100-pcie-16gb", "bf16", 9.5),
    ("mi100", "bf16", 92.3), ("mi210", "tf32", 45.3), ("a100-sxm-80gb", "fp8", 312), ("p4", "fp8", 5.7)])
def test_formats_run_at_the_data_sheets_rate_or_at_that_of_the_format_they_are_widened_to(
    board: str, dtype: str, tops: float,
) -> None:
    """8 %: data sheets quote another clock than the highest for the H100."""
    assert find_gpu(board).peak_flops_per_s(dtype) / 1e12 == pytest.approx(tops, rel=0.09)


def test_packed_lanes_do_more_for_the_energy_of_one_instruction() -> None:
    p100 = find_gpu("p100-pcie-16gb")
    assert p100.pj_per_flop("fp16") == pytest.approx(p100.pj_per_flop("fp32") / 2)
    assert not p100.runs_on_tensor_cores("fp16")


def test_a_limit_that_leaves_no_power_for_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / "off.yaml").write_text("extends: h100-sxm\nname: off\npower_limit: 80 W\n")
    with pytest.raises(ConfigError, match="not above idle_power"):
        load_gpu(tmp_path / "off.yaml")


@pytest.mark.parametrize("board", ["a100-pcie-80gb", "h100-pcie-80gb"])
def test_bridges_join_pairs_of_pcie_boards(board: str) -> None:
    gpu = find_gpu(board)
    pair, four = (collective_seconds(gpu, "allreduce", 64e6, ranks) for ranks in (2, 4))
    assert 64e6 / pair > 64e9 > 64e6 / four
