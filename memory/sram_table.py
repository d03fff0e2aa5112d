"""SRAM macros from a table: energy, leakage, access time and area of a capacity and width, interpolated between CACTI's points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.errors import ConfigError
from .standard import shipped

COLUMNS = ("capacity_bytes", "width_bits", "read_pj", "write_pj", "leak_mw", "access_ns", "area_mm2")


class _Table(Config):
    tech_nm: int
    cell: Literal["hp", "lstp"]
    rows: tuple[tuple[float, ...], ...]


class _Tables(Config):
    source: str
    boundary: str
    columns: tuple[str, ...]
    tables: tuple[_Table, ...]


@dataclass(frozen=True, slots=True)
class SramMacro:
    """One macro: energies of whole accesses of its width."""

    capacity_bytes: float
    width_bits: float
    read_pj: float
    write_pj: float
    leak_mw: float
    access_ns: float
    area_mm2: float

    @property
    def read_pj_per_bit(self) -> float:
        return self.read_pj / self.width_bits

    @property
    def write_pj_per_bit(self) -> float:
        return self.write_pj / self.width_bits


@lru_cache(maxsize=1)
def _tables() -> dict[tuple[int, str], list[SramMacro]]:
    loaded = config_reader.load(_Tables, shipped("tech") / "sram-cacti.yaml")
    assert loaded.columns == COLUMNS, "the table's columns are those that are read"
    return {(table.tech_nm, table.cell): [SramMacro(*row) for row in table.rows] for table in loaded.tables}


def sram_macro(tech_nm: int, capacity_bytes: float, width_bits: float, cell: str = "hp") -> SramMacro:
    """The macro of that size: logarithms interpolated along capacity, then along width; outside the table is refused."""
    tables = _tables()
    if (tech_nm, cell) not in tables:
        raise ConfigError(f"no SRAM table for {tech_nm} nm {cell} cells", key="tech_nm", value=f"{tech_nm} {cell}",
                          allowed=tuple(f"{nm} {kind}" for nm, kind in tables))
    macros = tables[tech_nm, cell]
    widths = sorted({macro.width_bits for macro in macros})
    low, high = _around(widths, width_bits, "width", "bits")
    narrow, wide = (_along([m for m in macros if m.width_bits == width], capacity_bytes) for width in (low, high))
    return _between(narrow, wide, 0.0 if low == high else math.log(width_bits / low) / math.log(high / low))


def _along(macros: list[SramMacro], capacity_bytes: float) -> SramMacro:
    by_capacity = {macro.capacity_bytes: macro for macro in macros}
    low, high = _around(sorted(by_capacity), capacity_bytes, "capacity", "bytes")
    share = 0.0 if low == high else math.log(capacity_bytes / low) / math.log(high / low)
    return _between(by_capacity[low], by_capacity[high], share)


def _around(known: list[float], wanted: float, what: str, unit: str) -> tuple[float, float]:
    """The neighbours of *wanted* in the sorted *known*; both the same where it is one of them."""
    if not known[0] <= wanted <= known[-1]:
        raise ConfigError(f"an SRAM {what} of {wanted:g} {unit} is outside the table, {known[0]:g} to {known[-1]:g}", key=what,
                          mend="build it from macros inside the table")
    return max(k for k in known if k <= wanted), min(k for k in known if k >= wanted)


def _between(low: SramMacro, high: SramMacro, share: float) -> SramMacro:
    def mix(name: str) -> float:
        a, b = float(getattr(low, name)), float(getattr(high, name))
        return math.exp((1 - share) * math.log(a) + share * math.log(b))

    return SramMacro(*(mix(name) for name in COLUMNS))
