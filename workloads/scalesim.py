"""Reader of SCALE-Sim topology files: a CSV of convolutions or of GEMMs, one layer a line.

Formats (SCALE-Sim 3.0.0, scalesim/topology_utils.py, MIT): ``Layer, M, N, K[, batch]`` by header, or by position ``name, ifmap
height, ifmap width, filter height, filter width, channels, filters, stride[, sparsity]``. Lines may end in a comma.
As a GEMM, a convolution is its im2col form: m output pixels, k = filter height·width·channels, n filters; no padding beyond the
ifmap that the line gives. A layer whose name holds ``DP`` is depth-wise: one product for each channel.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sim.errors import ConfigError
from ..sim.yaml_reader import read_text

_CONV_FIELDS = ("ifmap height", "ifmap width", "filter height", "filter width", "channels", "filters", "stride")
#: Of a size; longer ones are slips.
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class GemmLayer:
    """*batch* products [m, k]·[k, n]."""

    name: str
    m: int
    k: int
    n: int
    batch: int = 1

    @property
    def macs(self) -> int:
        return self.batch * self.m * self.k * self.n


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """A convolution; the stride is the same both ways, and a last partial window counts (upstream rounds up)."""

    name: str
    height: int
    width: int
    filter_height: int
    filter_width: int
    channels: int
    filters: int
    stride: int

    @property
    def is_depthwise(self) -> bool:
        return "DP" in self.name

    @property
    def out_height(self) -> int:
        return -(-(self.height - self.filter_height + self.stride) // self.stride)

    @property
    def out_width(self) -> int:
        return -(-(self.width - self.filter_width + self.stride) // self.stride)

    @property
    def gemm(self) -> GemmLayer:
        """Its im2col form."""
        pixels, window = self.out_height * self.out_width, self.filter_height * self.filter_width
        if self.is_depthwise:
            return GemmLayer(self.name, pixels, window, self.filters, self.channels)
        return GemmLayer(self.name, pixels, window * self.channels, self.filters)


def read_topology(path: Path) -> tuple[GemmLayer, ...]:
    """The layers of a SCALE-Sim topology file as GEMMs; a ConfigError names file, line and column of what is wrong."""
    return tuple(layer if isinstance(layer, GemmLayer) else layer.gemm for layer in read_layers(path))


def read_layers(path: Path) -> tuple[ConvLayer | GemmLayer, ...]:
    """The layers of a SCALE-Sim topology file; a ConfigError names file, line and column of what is wrong."""
    if not path.is_file():
        raise ConfigError("there is no such topology file", file=str(path))
    text = read_text(path).removeprefix("\ufeff")
    try:
        lines = [(number, [field.strip() for field in fields])
                 for number, fields in enumerate(csv.reader(text.splitlines(keepends=True)), start=1)]
    except csv.Error as error:
        raise ConfigError(f"is no CSV: {error}", file=str(path)) from None
    lines = [(number, fields) for number, fields in lines if any(fields)]
    if lines and _is_layer(lines[0][1]):
        raise ConfigError(f"the first line is the layer {lines[0][1][0]!r}, not a header; SCALE-Sim takes the first line for one "
                          "and would leave the layer out", file=str(path), line=lines[0][0],
                          mend="put a header above it: Layer, M, N, K or Layer, IFMAP Height, IFMAP Width, Filter Height, …")
    if len(lines) < 2:
        raise ConfigError("a topology has a header and at least one layer", file=str(path), line=1)
    header = [field.lower() for field in lines[0][1]]
    if {"m", "n", "k"} <= set(header):
        return tuple(_gemm(path, number, fields, header) for number, fields in lines[1:])
    return tuple(_convolution(path, number, fields) for number, fields in lines[1:])


def _is_layer(fields: Sequence[str]) -> bool:
    """Whether a line's sizes are numbers."""
    return len(fields) > 3 and all(field.isdecimal() for field in fields[1:4])


def _gemm(path: Path, line: int, fields: Sequence[str], header: Sequence[str]) -> GemmLayer:
    m, n, k = (_number(path, line, name.upper(), fields, header.index(name)) for name in ("m", "n", "k"))
    batch = 1
    after = fields[4] if len(fields) > 4 else ""
    if ":" in after:
        _dense(path, line, after)
    elif after:
        batch = _number(path, line, "batch", fields, 4)
    return GemmLayer(fields[0], m, k, n, batch)


def _convolution(path: Path, line: int, fields: Sequence[str]) -> ConvLayer:
    height, width, filter_height, filter_width, channels, filters, stride = (
        _number(path, line, name, fields, position) for position, name in enumerate(_CONV_FIELDS, start=1))
    if filter_height > height or filter_width > width:
        raise ConfigError(f"layer {fields[0]!r}: the filter {filter_height}×{filter_width} is larger than its ifmap "
                          f"{height}×{width}", file=str(path), line=line)
    for extra in fields[8:]:
        if ":" in extra:
            _dense(path, line, extra)
    return ConvLayer(fields[0], height, width, filter_height, filter_width, channels, filters, stride)


def _dense(path: Path, line: int, ratio: str) -> None:
    """N:M sparsity of weights other than dense is refused: ignoring it would give the cycles of another layer."""
    kept, of = ratio.split(":", 1)
    if kept.strip() != of.strip():
        raise ConfigError(f"sparsity is {ratio!r}; only dense layers are read", file=str(path), line=line, key="sparsity",
                          value=ratio, allowed=("1:1",))


def _number(path: Path, line: int, name: str, fields: Sequence[str], position: int) -> int:
    text = fields[position] if position < len(fields) else ""
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < 1:
        what = "is missing" if not text else f"is {text!r}"
        raise ConfigError(f"column {position + 1} ({name}) {what}; it must be a whole number of at least 1, of up to "
                          f"{_MOST_DIGITS} digits", file=str(path), line=line)
    return int(text)
