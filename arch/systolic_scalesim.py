"""Reader of SCALE-Sim ``.cfg`` files: the array, its SRAMs and the bandwidth of its operand interfaces; as a machine, the chip
``scalesim-default`` with what the file says set on it.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass
from pathlib import Path

from ..sim import config as config_reader
from ..sim.errors import ConfigError
from ..sim.yaml_reader import find_named, set_value
from .machine import MachineConfig, chip_folder
from .systolic import SystolicConfig
from .systolic_folds import Dataflow

DATAFLOWS: dict[str, Dataflow] = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
_SECTION = "architecture_presets"
#: Of the chip that a file is set on: one word is one byte (upstream hard-codes it), one cycle one nanosecond.
BASE, _GBYTES_PER_S_AND_WORD = "scalesim-default", 1
#: What a file that asks for the stall-free run gets; and what stands in the chip's capacity beside the file's SRAMs.
_UNLIMITED, _SUMS_KILOBYTES, _LANES_SHARE = "1000 TB/s", 256 << 10, 16


@dataclass(frozen=True, slots=True)
class ScaleSimRun:
    """What a ``.cfg`` says. Upstream has no clock, energy or word size: the array ticks at 1 Hz, so seconds are cycles.

    ``words_per_cycle`` of each operand interface is None where the file asks for the stall-free run (``CALC``).
    """

    name: str
    array: SystolicConfig
    ifmap_kilobytes: int
    filter_kilobytes: int
    ofmap_kilobytes: int
    words_per_cycle: int | None


def read_scalesim_config(path: Path) -> ScaleSimRun:
    """The run that a SCALE-Sim 3 ``.cfg`` describes, in SCALE-Sim's timing; a ConfigError names what is missing or wrong."""
    reader = configparser.ConfigParser(interpolation=None)
    try:
        if not reader.read(path, encoding="utf-8"):
            raise ConfigError("there is no such SCALE-Sim config", file=str(path))
    except configparser.Error as error:
        raise ConfigError(f"not a SCALE-Sim config: {error}", file=str(path)) from None
    if not reader.has_section(_SECTION):
        raise ConfigError(f"section [{_SECTION}] is missing", file=str(path))
    short = _text(reader, path, "Dataflow").lower()
    if short not in DATAFLOWS:
        raise ConfigError(f"Dataflow is {short!r}, which is no dataflow", file=str(path), key="Dataflow", value=short,
                          allowed=tuple(DATAFLOWS))
    array = SystolicConfig(type="systolic", rows=_number(reader, path, "ArrayHeight"), cols=_number(reader, path, "ArrayWidth"),
                           clock_hz=1.0, dataflow=DATAFLOWS[short], timing="scalesim", dtypes=("int8",), mac_energy_pj={})
    stall_free = reader.get("run_presets", "InterfaceBandwidth", fallback="CALC").strip().upper() == "CALC"
    return ScaleSimRun(
        name=reader.get("general", "run_name", fallback=path.stem).strip().strip('"'),
        array=array,
        ifmap_kilobytes=_number(reader, path, "IfmapSramSzkB"),
        filter_kilobytes=_number(reader, path, "FilterSramSzkB"),
        ofmap_kilobytes=_number(reader, path, "OfmapSramSzkB"),
        words_per_cycle=None if stall_free else _number(reader, path, "Bandwidth"),
    )


def machine_of(path: Path, sets: tuple[str, ...] = ()) -> MachineConfig:
    """The machine that a SCALE-Sim 3 ``.cfg`` describes, in SCALE-Sim's timing, with ``path=value`` assignments applied."""
    run = read_scalesim_config(path)
    held = run.ifmap_kilobytes + run.filter_kilobytes + run.ofmap_kilobytes + _SUMS_KILOBYTES
    rate = _UNLIMITED if run.words_per_cycle is None else f"{run.words_per_cycle * _GBYTES_PER_S_AND_WORD} GB/s"
    document = config_reader.load_document(find_named(BASE, [chip_folder()], "chip"), [chip_folder()], "chip")
    document.value.update(name=run.name, description=f"SCALE-Sim config {path.name} in its own timing, on an ideal memory")
    document.value["parts"]["memory"]["source"] = f"the Bandwidth key of {path.name} at a nominal clock of 1 GHz"
    for assignment in (
        f"parts.memory.bandwidth={rate}",
        f"parts.scratchpad.capacity={-(-held * _LANES_SHARE // (_LANES_SHARE - 1))} KiB",
        f"parts.scratchpad.stream={run.filter_kilobytes} KiB",
        f"parts.mxu.rows={run.array.rows}", f"parts.mxu.cols={run.array.cols}", f"parts.mxu.dataflow={run.array.dataflow}", *sets,
    ):
        set_value(document, assignment)
    return config_reader.from_document(MachineConfig, document)


def _text(reader: configparser.ConfigParser, path: Path, key: str) -> str:
    found = reader.get(_SECTION, key, fallback="").strip()
    if not found:
        raise ConfigError(f"{key} is missing in [{_SECTION}]", file=str(path), key=key)
    return found


def _number(reader: configparser.ConfigParser, path: Path, key: str) -> int:
    text = _text(reader, path, key).split(",")[0].strip()
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{key} is {text!r}; it must be a whole number of at least 1", file=str(path), key=key, value=text)
    return int(text)
