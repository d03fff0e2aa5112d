"""Machines of SCALE-Sim: one systolic array behind three double-buffered SRAMs, in SCALE-Sim's own timing, and its ``.cfg`` files.

For comparison with SCALE-Sim 3.0.0, whose totals come out of it to the cycle: full folds one after the other
(:func:`.systolic_folds.scalesim_times`), and where the bandwidth is the user's, the stalls of :mod:`.scalesim_stalls`. It has no
energy, and a word is a byte (upstream hard-codes it). The same layers with overlapped folds, tiling and DRAM run on chips of parts.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from .. import configs
from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import Bytes, Hertz
from ..sim.yaml_reader import find_named, read_text, set_value
from .scalesim_stalls import Scratchpads
from .systolic import SystolicConfig
from .systolic_folds import Dataflow

DATAFLOWS: dict[str, Dataflow] = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
BASE = "scalesim-default"
_SECTION = "architecture_presets"
Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


#: Of a size or rate; longer ones are slips.
_MOST_DIGITS = 12
#: Key of :class:`ScaleSimConfig` → upstream's.
_UPSTREAM_KEYS = {"rows": "ArrayHeight", "cols": "ArrayWidth", "dataflow": "Dataflow", "ofmap_words_per_cycle": "Bandwidth",
                  "ifmap_words_per_cycle": "Bandwidth", "filter_words_per_cycle": "Bandwidth", "name": "run_name",
                  "interface_bandwidth": "InterfaceBandwidth", "ifmap_sram": "IfmapSramSzkB", "filter_sram": "FilterSramSzkB",
                  "ofmap_sram": "OfmapSramSzkB"}


class ScaleSimConfig(Config):
    """A machine of this family. ``interface_bandwidth`` is upstream's key: ``calc`` runs without stalls, whatever the rates say."""

    type: Literal["scalesim"]
    name: str
    description: str
    rows: Annotated[int, Field(ge=1, le=1024)]
    cols: Annotated[int, Field(ge=1, le=1024)]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    dataflow: Dataflow
    ifmap_sram_bytes: Annotated[Bytes, Field(ge=2)]
    filter_sram_bytes: Annotated[Bytes, Field(ge=2)]
    ofmap_sram_bytes: Annotated[Bytes, Field(ge=2)]
    interface_bandwidth: Literal["calc", "user"]
    ifmap_words_per_cycle: Count
    filter_words_per_cycle: Count
    ofmap_words_per_cycle: Count

    @property
    def array(self) -> SystolicConfig:
        """The array as the fold arithmetic knows it."""
        return SystolicConfig(type="systolic", rows=self.rows, cols=self.cols, clock_hz=self.clock_hz, dataflow=self.dataflow,
                              timing="scalesim", double_buffered_weights=False, dtypes=("int8",), mac_energy_pj={})

    @property
    def pads(self) -> Scratchpads:
        """The SRAMs in words."""
        return Scratchpads(int(self.ifmap_sram_bytes), int(self.filter_sram_bytes), int(self.ofmap_sram_bytes),
                           self.ifmap_words_per_cycle, self.filter_words_per_cycle, self.ofmap_words_per_cycle)


def scalesim_folder() -> Path:
    """Where the shipped machines of this family are."""
    return Path(configs.__path__[0]) / "scalesim"


def load_scalesim(path: Path, sets: tuple[str, ...] = ()) -> ScaleSimConfig:
    """The machine in the YAML or the SCALE-Sim ``.cfg`` at *path*, with ``path=value`` assignments applied."""
    if path.suffix != ".cfg":
        return config_reader.load(ScaleSimConfig, path, folders=[scalesim_folder()], kind="chip", sets=sets)
    reader = _CfgReader(path)
    own = reader.values()
    document = config_reader.load_document(find_named(BASE, [scalesim_folder()], "chip"), [scalesim_folder()], "chip")
    document.value.update(name=own.pop("run_name"), description=f"SCALE-Sim config {path.name} in its own timing")
    for key, value in own.items():
        set_value(document, f"{key}={value}")
        document.marks[(key,)] = (str(path), reader.lines.get(_UPSTREAM_KEYS.get(key, "").lower()))
    for assignment in sets:
        set_value(document, assignment)
    try:
        return config_reader.from_document(ScaleSimConfig, document)
    except ConfigError as error:
        if error.key not in _UPSTREAM_KEYS or error.file != str(path):
            raise
        raise ConfigError(error.message.replace(error.key, _UPSTREAM_KEYS[error.key], 1), file=error.file, line=error.line,
                          key=_UPSTREAM_KEYS[error.key], value=error.value, allowed=error.allowed, mend=error.mend) from None


class _CfgReader:
    """One ``.cfg``; a ConfigError names what is missing, wrong, or asks for what is not modelled here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = configparser.ConfigParser(interpolation=None)
        if not path.exists():
            raise ConfigError("there is no such SCALE-Sim config", file=str(path))
        text = read_text(path).removeprefix("\ufeff")
        #: Line of each key, in lower case.
        self.lines = {found[1].strip().lower(): number for number, line in enumerate(text.splitlines(), start=1)
                      if (found := re.match(r"([^#;\[:=]+)[:=]", line))}
        try:
            self.reader.read_string(text, str(path))
        except configparser.Error as error:
            raise ConfigError(f"not a SCALE-Sim config: {error}", file=str(path)) from None
        if not self.reader.has_section(_SECTION):
            raise ConfigError(f"section [{_SECTION}] is missing", file=str(path))

    def values(self) -> dict[str, Any]:
        """Key of :class:`ScaleSimConfig` (and ``run_name``) → its value as text."""
        for key, why in (("SparsitySupport", "sparse weights"), ("UseRamulatorTrace", "latencies from Ramulator's traces"),
                         ("IfmapCustomLayout", "bank conflicts of a layout"), ("FilterCustomLayout", "bank conflicts of a layout")):
            if self.found(key).lower() == "true":
                raise ConfigError(f"{key} is set, but {why} are not modelled: the run would be another one's", file=str(self.path),
                                  key=key, value=self.found(key), allowed=("False",), mend=f"write {key}: False")
        short = self.wanted("Dataflow").lower()
        if short not in DATAFLOWS:
            raise ConfigError(f"Dataflow is {short!r}, which is no dataflow", file=str(self.path), key="Dataflow", value=short,
                              allowed=tuple(DATAFLOWS))
        mode = (self.found("InterfaceBandwidth") or "CALC").lower()
        if mode not in ("calc", "user"):
            raise ConfigError(f"InterfaceBandwidth is {mode!r}", file=str(self.path), key="InterfaceBandwidth", value=mode,
                              allowed=("CALC", "USER"))
        own = {
            "run_name": (self.found("run_name") or self.path.stem).strip('"'), "dataflow": DATAFLOWS[short],
            "interface_bandwidth": mode, "rows": self.number("ArrayHeight"), "cols": self.number("ArrayWidth"),
            **{f"{name}_sram": f"{self.number(f'{name.capitalize()}SramSzkB')} KiB" for name in ("ifmap", "filter", "ofmap")},
        }
        if mode == "user":
            # Upstream takes the first of several rates and drops the others; reads go by the banks' rate where it is given.
            every = self.number("Bandwidth")
            own |= {"ofmap_words_per_cycle": every}
            for name in ("ifmap", "filter"):
                key = f"{name.capitalize()}SRAMBankBandwidth"
                own[f"{name}_words_per_cycle"] = self.number(key) if self.found(key) else every
        return own

    def found(self, key: str) -> str:
        """The text of *key* in whatever section, "" where it is not."""
        return next((section[key].strip() for section in self.reader.values() if key in section), "")

    def wanted(self, key: str) -> str:
        found = self.found(key)
        if not found:
            raise ConfigError(f"{key} is missing in [{_SECTION}]", file=str(self.path), key=key)
        return found

    def number(self, key: str) -> int:
        parts = {part.strip() for part in self.wanted(key).split(",")}
        if len(parts) > 1:
            raise ConfigError(f"{key} gives several rates, {self.wanted(key)}; SCALE-Sim uses the first for all",
                              file=str(self.path), key=key, value=self.wanted(key),
                              mend="write one number; IfmapSRAMBankBandwidth and FilterSRAMBankBandwidth give reads their own")
        (text,) = parts
        if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < 1:
            raise ConfigError(f"{key} is {text!r}; it must be a whole number of at least 1, of up to {_MOST_DIGITS} digits",
                              file=str(self.path), line=self.lines.get(key.lower()), key=key, value=text)
        return int(text)
