"""Configs: one reader, one schema, one error style."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from tilesim.sim.config import Config, load
from tilesim.sim.errors import ConfigError
from tilesim.sim.show import show_config
from tilesim.sim.units import Bytes, Hertz, Picojoules
from tilesim.sim.yaml_reader import parse


class Grid(Config):
    type: Literal["grid"]
    rows: Annotated[int, Field(ge=1)]
    clock_hz: Hertz
    dataflow: Literal["weight_stationary", "output_stationary"] = "weight_stationary"


class Store(Config):
    type: Literal["store"]
    capacity_bytes: Annotated[Bytes, Field(gt=0)]
    energy_pj: Picojoules | None = None


class Chip(Config):
    name: str
    parts: dict[str, Annotated[Grid | Store, Field(discriminator="type")]]
    levels: tuple[Store, ...] = ()


GOOD = """\
name: chip
parts:
  mxu:
    type: grid
    rows: 4
    clock: 1.2 GHz
  ram: {type: store, capacity: 24 MiB}
"""


def load_text(folder: Path, text: str, *sets: str) -> Chip:
    path = folder / "chip.yaml"
    path.write_text(text)
    return load(Chip, path, folders=[folder], kind="chip", sets=sets)


def test_quantities_become_plain_numbers_under_their_field_names(tmp_path: Path) -> None:
    chip = load_text(tmp_path, GOOD)
    mxu, ram = chip.parts["mxu"], chip.parts["ram"]
    assert isinstance(mxu, Grid)
    assert isinstance(ram, Store)
    assert mxu.clock_hz == 1_200_000_000
    assert ram.capacity_bytes == 24 * 2**20


@pytest.mark.parametrize(("change", "line", "words"), [
    (("clock: 1.2 GHz", "clock: 1.2 GHs"), 6, ["parts.mxu.clock", "GHs", "GHz"]),
    (("clock: 1.2 GHz", "clock: 12"), 6, ["parts.mxu.clock", "unit"]),
    (("clock: 1.2 GHz", "clok: 1.2 GHz"), 6, ["parts.mxu.clok", "Did you mean 'clock'"]),
    (("    clock: 1.2 GHz\n", ""), 3, ["parts.mxu", "clock"]),
    (("rows: 4", "rows: -4"), 5, ["parts.mxu.rows", "-4"]),
    (("rows: 4", "rows: four"), 5, ["parts.mxu.rows", "four"]),
    (("rows: 4", "rows: 4\n    rows: 8"), 6, ["parts.mxu.rows", "twice", "line 5"]),
    (("rows: 4", "rows: 4\n    dataflow: weight_stationery"), 6, ["Did you mean 'weight_stationary'", "output_stationary"]),
    (("type: grid", "type: gird"), 4, ["parts.mxu.type", "Did you mean 'grid'"]),
    (("24 MiB}", "24 MiB"), None, ["is no YAML"]),
    (("name: chip\n", ""), 1, ["name"]),
    (("capacity: 24 MiB", "capacity: -1 B"), 7, ["parts.ram.capacity", "greater than 0"]),
])
def test_bad_text_gives_file_line_key_and_mend(tmp_path: Path, change: tuple[str, str], line: int | None, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, GOOD.replace(*change))
    message = str(caught.value)
    assert str(tmp_path / "chip.yaml") in message
    if line is not None:
        assert caught.value.line == line
    for word in words:
        assert word in message


def test_extends_changes_only_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    chip = load_text(tmp_path, "extends: base\nname: variant\nparts:\n  mxu: {rows: 8}\n")
    mxu = chip.parts["mxu"]
    assert isinstance(mxu, Grid)
    assert (chip.name, mxu.rows, mxu.clock_hz) == ("variant", 8, 1_200_000_000)
    assert set(chip.parts) == {"mxu", "ram"}


def test_an_error_in_the_extended_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD.replace("rows: 4", "rows: 0"))
    with pytest.raises(ConfigError, match=r"base\.yaml:5"):
        load_text(tmp_path, "extends: base\nname: variant\n")


def test_a_part_of_another_kind_replaces_the_old_one_whole(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    chip = load_text(tmp_path, "extends: base\nparts:\n  mxu: {type: store, capacity: 1 KiB}\n")
    assert isinstance(chip.parts["mxu"], Store)


def test_extends_that_comes_back_to_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="comes back"):
        load_text(tmp_path, "extends: chip\nname: x\n")


def test_set_changes_one_value(tmp_path: Path) -> None:
    chip = load_text(tmp_path, GOOD, "parts.mxu.rows=16", "parts.ram.energy=4 nJ")
    mxu, ram = chip.parts["mxu"], chip.parts["ram"]
    assert isinstance(mxu, Grid)
    assert isinstance(ram, Store)
    assert (mxu.rows, ram.energy_pj) == (16, 4000)


@pytest.mark.parametrize(("assignment", "words"), [
    ("parts.mxu.row=3", ["--set parts.mxu.row=3", "Did you mean 'rows'"]),
    ("parts.mxu.rows", ["path=value"]),
    ("parts.mxu.clock=3", ["unit"]),
    ("name.x=3", ["not a mapping"]),
])
def test_a_bad_set_names_itself(tmp_path: Path, assignment: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, GOOD, assignment)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [
    ("1e3", 1000.0), ("on", "on"), ("12:30", "12:30"), ("0x10", 16), ("1_000", 1000), ("true", True), ("~", None), ("'5'", "5"),
    ("010", 10),
])
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = parse(f"key: {text}", "x").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_shown_config_loads_again_to_the_same_value(tmp_path: Path) -> None:
    chip = load_text(tmp_path, GOOD, "parts.ram.energy=0.37 pJ")
    assert load_text(tmp_path, show_config(chip)) == chip


def test_a_config_is_frozen(tmp_path: Path) -> None:
    chip = load_text(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        chip.name = "other"  # type: ignore[misc]


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load(Chip, tmp_path)
