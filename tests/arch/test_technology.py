"""Technologies: tables as published, nodes between them by hand, chips that take what they leave out from them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tilesim.arch.machine import chip_folder, load_machine
from tilesim.arch.technology import energy_factor, find_technology, shipped_technologies, show_technology
from tilesim.cli import main
from tilesim.memory.sram_table import sram_macro
from tilesim.sim.errors import ConfigError


def test_a_mac_is_a_multiplication_and_an_addition_into_32_bits() -> None:
    """Horowitz, 2014: int8 multiply 0.2, int32 add 0.1; Jouppi et al., 2021, table 2: bf16 multiply 0.21, fp32 add 0.38."""
    assert find_technology("45nm").mac_pj("int8") == pytest.approx(0.3)
    assert find_technology("7nm").mac_pj("bf16") == pytest.approx(0.59)


@pytest.mark.parametrize(("row", "volts", "to_row", "to_volts", "factor"), [
    ("HP45", 1.0, "HP7", 0.7, 0.0555), ("HP45", 0.9, "HP7", 0.7, 0.0684), ("LP45", 0.8, "HP7", 0.8, 0.0943),
    ("65", 1.1, "HP45", 1.0, 0.5124), ("HP45", 1.0, "HP16", 0.8, 0.1397), ("HP14", 0.8, "HP7", 0.7, 0.4969)])
def test_node_scaling_worked_by_hand(row: str, volts: float, to_row: str, to_volts: float, factor: float) -> None:
    assert energy_factor(row, volts, to_row, to_volts) == pytest.approx(factor, abs=6e-5)


def test_a_node_between_two_lies_on_the_line_between_their_logarithms() -> None:
    """28 nm lies ln(45/28) / ln(45/7) of the way from 45 to 7 nm: 0.2 pJ · 0.35^0.255 = 0.153 pJ."""
    share = math.log(45 / 28) / math.log(45 / 7)
    assert find_technology("28nm").operation_pj("int8", "multiply") == pytest.approx(0.2 * (0.07 / 0.2) ** share)


def test_a_scaled_node_is_its_base_times_the_polynomials_ratio() -> None:
    """65 nm at 1.0 V over 45 nm at 0.9 V: (3.755 − 4.398 + 1.975) / (1.018·0.81 − 0.3107·0.9 + 0.1539) = 1.906."""
    assert find_technology("65nm").operation_pj("fp32", "add") == pytest.approx(0.9 * 1.332 / 0.69885, rel=1e-4)


def test_energies_fall_with_the_node() -> None:
    found = [find_technology(name) for name in shipped_technologies()]
    assert [technology.node_nm for technology in found] == sorted((t.node_nm for t in found), reverse=True)
    for costs in ([t.mac_pj("int8") for t in found], [t.sram(32768, 64).read_pj for t in found]):
        assert costs == sorted(costs, reverse=True)
        assert len(set(costs)) == len(costs)


def test_wires_hold_at_the_tables_nodes_and_between() -> None:
    assert find_technology("45nm").wire_pj_per_bit_mm() == pytest.approx(0.03968)
    assert 0.02347 < find_technology("28nm").wire_pj_per_bit_mm() < 0.03215


def test_a_wide_bank_is_macros_side_by_side() -> None:
    """1024 bits of 64 KiB at 45 nm are two macros of 512 bits and 32 KiB."""
    one, bank = sram_macro(45, 32768, 512, "lstp"), find_technology("45nm").sram(65536, 1024)
    assert (bank.read_pj, bank.leak_mw) == pytest.approx((2 * one.read_pj, 2 * one.leak_mw))


def test_a_chip_takes_from_its_technology_what_it_leaves_out(tmp_path: Path) -> None:
    chip = tmp_path / "chip.yaml"
    chip.write_text("extends: hbm-npu\ntechnology: 16nm\nparts: {mxu: {mac_energy: {bf16: 1 pJ}}}\n")
    machine, tech = load_machine(str(chip)), find_technology("16nm")
    mxu, vpu = machine.parts["mxu"].model_dump(), machine.parts["vpu"].model_dump()
    assert mxu["mac_energy_pj"]["int8"] == pytest.approx(tech.mac_pj("int8"), rel=1e-5)
    assert mxu["mac_energy_pj"]["fp8"] == 0.45                                     # stated: it stays
    assert vpu["mac_energy_pj"] == pytest.approx(tech.mac_pj("fp32"), rel=1e-5)


def test_a_scratchpad_without_energies_gets_its_banks(tmp_path: Path) -> None:
    """hbm-npu's 64 banks of 512 KiB and 1024 bits, at 45 nm; leakage of all of them is its static power."""
    chip = tmp_path / "chip.yaml"
    text = "\n".join(line for line in (chip_folder() / "hbm-npu.yaml").read_text().splitlines()
                     if not line.strip().startswith(("read_energy", "write_energy")))
    chip.write_text(text.replace("technology: 7nm", "technology: 45nm").replace("static_power: 0.34 W", "").replace(
        "dtypes: [bf16, fp8, int8]", "dtypes: [int8]"))
    scratchpad = load_machine(str(chip)).parts["scratchpad"].model_dump()
    bank = find_technology("45nm").sram(512 * 1024, 1024)
    assert scratchpad["read_energy_pj_per_bit"] == pytest.approx(bank.read_pj / 1024, rel=1e-5)
    assert scratchpad["static_power_w"] == pytest.approx(64 * bank.leak_mw / 1000, rel=1e-5)


def test_a_missing_operation_is_named_with_the_chips_line(tmp_path: Path) -> None:
    chip = tmp_path / "chip.yaml"
    chip.write_text("extends: hbm-npu\ntechnology: 45nm\n")
    with pytest.raises(ConfigError, match=r"(?s)chip\.yaml:2: technology 45nm has no bf16 multiply.*: int8, int32, fp16, fp32"):
        load_machine(str(chip))


def test_an_unknown_technology_is_answered_with_the_nearest(tmp_path: Path) -> None:
    chip = tmp_path / "chip.yaml"
    chip.write_text("extends: hbm-npu\ntechnology: 8nm\n")
    with pytest.raises(ConfigError, match=r"(?s)chip\.yaml:2.*'8nm' is no shipped technology.*Did you mean '(28nm|7nm)'"):
        load_machine(str(chip))


@pytest.mark.parametrize("name", shipped_technologies())
def test_what_is_shown_loads_again(name: str, tmp_path: Path) -> None:
    shown = tmp_path / "shown.yaml"
    shown.write_text(show_technology(find_technology(name)))
    again, first = find_technology(str(shown)), find_technology(name)
    assert again.source == first.source
    assert again.mac_pj("int8") == pytest.approx(first.mac_pj("int8"), rel=1e-9)


def test_the_command_shows_and_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "technologies"]) == 0
    assert capsys.readouterr().out.split() == shipped_technologies()
    assert main(["show", "45nm"]) == 0
    assert "Horowitz" in capsys.readouterr().out
