"""How tensors lie in storage: units of bytes that cannot be split, blocked weights, byte ranges of strided windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..sim.program import Ranges, View

_SPLIT, _INSIDE = "a tile splits a storage unit", "a tile begins inside a storage unit"


@lru_cache(maxsize=64)
def storage_unit(dtype: DType) -> tuple[int, int]:
    """(elements, bytes) of the smallest piece of storage: an element, a byte of packed ones, or a group beside its scale."""
    if dtype.group:
        if dtype.group * dtype.bits % 8 or dtype.scale_bits % 8:
            raise ConfigError(f"a group of {dtype.group} {dtype.bits}-bit elements is no whole number of bytes", key="dtype",
                              value=dtype.name, mend="take a group of 32, 64 or 128")
        return dtype.group, dtype.bytes_for(dtype.group)
    elements = max(1, 8 // dtype.bits)
    return elements, elements * dtype.bits // 8


def whole_units(dtype: DType, extent: int, what: str) -> None:
    """Refuse an axis of *extent* elements that units of *dtype* do not divide: its rows would share bytes or scales."""
    elements, _ = storage_unit(dtype)
    if extent % elements:
        raise ConfigError(f"{what} has {extent} elements along its packed axis; {dtype.name} packs them by {elements}",
                          key="dtype", value=dtype.name,
                          mend=f"take a format whose group divides {extent}, or a 16-bit one")


def stored_bytes(dtype: DType, elements: int) -> int:
    """Bytes of *elements* elements stored as whole units."""
    unit_elements, unit_bytes = storage_unit(dtype)
    return -(-elements // unit_elements) * unit_bytes


def byte_range(dtype: DType, start: int, run: int) -> Ranges:
    """The byte range of *run* elements that begin at element *start*."""
    unit_elements, unit_bytes = storage_unit(dtype)
    assert run % unit_elements == 0, _SPLIT
    assert start % unit_elements == 0, _INSIDE
    ranges = np.empty((1, 2), dtype=np.int64)
    ranges[0, 0] = start // unit_elements * unit_bytes
    ranges[0, 1] = run // unit_elements * unit_bytes
    return ranges


def byte_ranges(dtype: DType, starts: npt.NDArray[np.int64], run: int) -> Ranges:
    """Byte ranges of runs of *run* elements that begin at the elements *starts*."""
    unit_elements, unit_bytes = storage_unit(dtype)
    assert run % unit_elements == 0, _SPLIT
    assert not (starts % unit_elements).any(), _INSIDE
    ranges = np.empty((len(starts), 2), dtype=np.int64)
    ranges[:, 0] = starts // unit_elements * unit_bytes
    ranges[:, 1] = run // unit_elements * unit_bytes
    return ranges


def window_ranges(window: View, dtype: DType) -> Ranges:
    """Byte ranges of a strided *window* on a tensor in C order, in the order of the window, inner runs merged."""
    starts, run = _runs(window.shape, window.strides)
    if len(starts) == 1:
        return byte_range(dtype, window.offset, run)
    return byte_ranges(dtype, starts + window.offset, run)


@lru_cache(maxsize=256)
def _runs(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], int]:
    """(first element of each run, elements of a run) of windows of that form, from their first element on."""
    outer = len(shape)
    run = 1
    while outer and (strides[outer - 1] == run or shape[outer - 1] == 1):
        outer -= 1
        run *= shape[outer]
    starts = np.zeros(1, dtype=np.int64)
    for extent, stride in zip(shape[:outer], strides[:outer], strict=True):
        starts = (starts[:, None] + np.arange(extent, dtype=np.int64) * stride).ravel()
    return starts, run


@dataclass(frozen=True, slots=True)
class Blocked:
    """A matrix [batch, k, n] stored tile by tile in the order in which tiles are loaded; inside a tile k runs fastest.

    Strips of ``n_block`` columns follow each other; inside a strip ``k_tile`` rows at a time, and of those ``n_tile`` columns
    at a time. With ``transposed`` the logical tensor is [batch, n, k]. Groups that share a scale lie along k, so a tile holds whole
    groups.
    """

    batch: int
    k: int
    n: int
    k_tile: int
    n_tile: int
    n_block: int
    transposed: bool

    def block(self, batch: int, k_start: int, n_start: int, dtype: DType) -> Ranges:
        """The one byte range of the tile that begins at (*k_start*, *n_start*)."""
        strip = n_start // self.n_block * self.n_block
        width = min(self.n_block, self.n - strip)
        columns, rows = min(self.n_tile, strip + width - n_start), min(self.k_tile, self.k - k_start)
        start = batch * self.k * self.n + strip * self.k + width * k_start + rows * (n_start - strip)
        return byte_range(dtype, start, columns * rows)

    def order(self) -> npt.NDArray[np.int64]:
        """``order[i]``: the logical element (C order) at storage position *i*."""
        shape = (self.batch, self.n, self.k) if self.transposed else (self.batch, self.k, self.n)
        logical = np.arange(self.batch * self.k * self.n, dtype=np.int64).reshape(shape)
        by_column = logical if self.transposed else logical.transpose(0, 2, 1)
        return np.concatenate([
            matrix[n:min(n + self.n_tile, strip + self.n_block), k:k + self.k_tile].ravel()
            for matrix in by_column for strip in range(0, self.n, self.n_block) for k in range(0, self.k, self.k_tile)
            for n in range(strip, min(strip + self.n_block, self.n), self.n_tile)])
