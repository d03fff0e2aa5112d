"""Technologies: what an action costs at a node. One table a node, arithmetic of one family of sources.

A technology is a published table, interpolated between two of them, or scaled from a neighbouring one (``configs/tech``). SRAM
comes from the CACTI table (``memory/sram_table.py``), wires by length from DSENT. DRAM has its own energies by device
(``configs/memories``). A chip names its technology by one key; what it leaves out of its parts' energies comes from there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from .. import configs
from ..memory.sram_table import SramMacro, sram_macro
from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.dtypes import DTYPES
from ..sim.errors import ConfigError
from ..sim.show import show_config
from ..sim.units import BITS_PER_BYTE, Picojoules, PicojoulesPerBitMm, UnitError, Volts, parse_quantity
from ..sim.yaml_reader import Document, find_named

FOLDER = Path(configs.__path__[0]) / "tech"
#: Files of the folder that are no technologies: tables that technologies draw on.
_TABLES = ("sram-cacti", "node-scaling", "wires-dsent")
SRAM_NODES = (22, 32, 45, 65)
WIDEST_MACRO_BITS = 512                       # of the SRAM table; wider banks are macros side by side


class Operation(Config):
    """Energy of one multiplication and one addition of a format; None where the source has none."""

    multiply_pj: Picojoules | None = None
    add_pj: Picojoules | None = None


class Technology(Config):
    """A node's arithmetic, in picojoules by operand format, at a stated boundary."""

    type: Literal["table"]
    name: str
    node_nm: Annotated[int, Field(ge=1, le=1000)]
    supply_v: Volts
    boundary: str
    source: str
    arithmetic: dict[str, Operation]

    def operation_pj(self, dtype: str, operation: Literal["multiply", "add"]) -> float:
        """Energy of one operation; a ConfigError that names what there is when it is none of them."""
        found = self.arithmetic.get(dtype, Operation())
        energy = found.multiply_pj if operation == "multiply" else found.add_pj
        if energy is None:
            known = tuple(name for name, op in self.arithmetic.items()
                          if (op.multiply_pj if operation == "multiply" else op.add_pj) is not None)
            raise ConfigError(f"technology {self.name} has no {dtype} {operation}", key="technology", value=self.name,
                              allowed=known, mend="state the energy in the part")
        return energy

    def mac_pj(self, dtype: str) -> float:
        """Multiply operands of *dtype* and add to an accumulator of 32 bits: fp32 for floats, int32 for integers."""
        accumulator = "fp32" if DTYPES[dtype].kind == "float" else "int32"
        return self.operation_pj(dtype, "multiply") + self.operation_pj(accumulator, "add")

    def wire_pj_per_bit_mm(self) -> float:
        """Moving a bit over a millimetre of repeated global wire."""
        wires = _wires()
        node = min(max(self.node_nm, min(wires)), max(wires))
        low, high = max(nm for nm in wires if nm <= node), min(nm for nm in wires if nm >= node)
        return _between(wires[low], wires[high], low, high, node)

    def sram(self, capacity_bytes: float, width_bits: float, cell: str = "lstp") -> SramMacro:
        """A bank of that size: macros of at most 512 bits side by side, between the nodes of the SRAM table.

        Below 22 nm energy and leakage fall with the square root of the node, leakage by 0.79 more for FinFETs: the rule of
        hwcomponents-cacti (de2520f), ASSUMED as good as any; overturned by an SRAM compiler's figures.
        """
        pieces = math.ceil(width_bits / WIDEST_MACRO_BITS)
        nodes = SRAM_NODES
        node = min(max(self.node_nm, nodes[0]), nodes[-1])
        low, high = max(nm for nm in nodes if nm <= node), min(nm for nm in nodes if nm >= node)
        below, above = (sram_macro(nm, capacity_bytes / pieces, width_bits / pieces, cell) for nm in (low, high))
        shrink = math.sqrt(min(1.0, self.node_nm / nodes[0]))
        energy, leakage = pieces * shrink, pieces * shrink * (0.79 if self.node_nm < nodes[0] else 1.0)

        def at(name: str) -> float:
            return _between(getattr(below, name), getattr(above, name), low, high, node)

        return replace(below, capacity_bytes=capacity_bytes, width_bits=width_bits, read_pj=energy * at("read_pj"),
                       write_pj=energy * at("write_pj"), leak_mw=leakage * at("leak_mw"), access_ns=at("access_ns"),
                       area_mm2=pieces * at("area_mm2"))


class _Interpolated(Config):
    type: Literal["interpolated"]
    name: str
    node_nm: Annotated[int, Field(ge=1, le=1000)]
    supply_v: Volts
    between: tuple[str, str]
    source: str


class _Scaled(Config):
    type: Literal["scaled"]
    name: str
    node_nm: Annotated[int, Field(ge=1, le=1000)]
    supply_v: Volts
    base: str
    rows: tuple[str, str]
    source: str


class _Scaling(Config):
    source: str
    energy: dict[str, tuple[float, float, float]]


class _Wires(Config):
    source: str
    wires: dict[int, PicojoulesPerBitMm]


_KINDS: dict[str, type[Technology | _Interpolated | _Scaled]] = {
    "table": Technology, "interpolated": _Interpolated, "scaled": _Scaled}


def shipped_technologies() -> list[str]:
    """The shipped technologies by name, large nodes first."""
    names = [path.stem for path in FOLDER.glob("*.yaml") if path.stem not in _TABLES]
    return sorted(names, key=lambda name: (-int("".join(filter(str.isdigit, name)) or 0), name))


@cache
def find_technology(name: str) -> Technology:
    """The technology of a shipped name or a YAML file, resolved to a table."""
    if name in _TABLES:
        raise ConfigError(f"{name!r} is a table that technologies draw on, none itself", key="technology", value=name,
                          allowed=tuple(shipped_technologies()))
    path = find_named(name, [FOLDER], "technology")
    document = config_reader.load_document(path, [FOLDER], "technology")
    kind = document.value.get("type")
    if kind not in _KINDS:
        file, line = document.mark(("type",))
        raise ConfigError(f"type is {kind!r}, which is no kind of technology", file=file, line=line, key="type", value=kind,
                          allowed=tuple(_KINDS))
    read = config_reader.from_document(_KINDS[kind], document)
    if isinstance(read, Technology):
        return read
    if isinstance(read, _Scaled):
        base = find_technology(read.base)
        factor = energy_factor(read.rows[1], base.supply_v, read.rows[0], read.supply_v)
        arithmetic = {dtype: Operation(multiply_pj=_times(op.multiply_pj, factor), add_pj=_times(op.add_pj, factor))
                      for dtype, op in base.arithmetic.items()}
        boundary = base.boundary
    else:
        old, new = (find_technology(end) for end in read.between)
        boundary = old.boundary

        def mixed(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else _between(a, b, old.node_nm, new.node_nm, read.node_nm)

        arithmetic = {dtype: Operation(multiply_pj=mixed(op.multiply_pj, new.arithmetic[dtype].multiply_pj),
                                       add_pj=mixed(op.add_pj, new.arithmetic[dtype].add_pj))
                      for dtype, op in old.arithmetic.items() if dtype in new.arithmetic}
    return Technology(type="table", name=read.name, node_nm=read.node_nm, supply_v=read.supply_v, boundary=boundary,
                      source=read.source, arithmetic=arithmetic)


def energy_factor(row: str, volts: float, to_row: str, to_volts: float) -> float:
    """Energy of logic at *to_row* and *to_volts* over that at *row* and *volts* (Stillmaker and Baas, 2017)."""
    rows = config_reader.load(_Scaling, FOLDER / "node-scaling.yaml", kind="table").energy
    for name in (row, to_row):
        if name not in rows:
            raise ConfigError(f"{name!r} is no row of the node scaling table", key="rows", value=name, allowed=tuple(rows))
    old, new = ((a * v * v + b * v + c) for (a, b, c), v in ((rows[row], volts), (rows[to_row], to_volts)))
    return new / old


@cache
def _wires() -> dict[int, float]:
    return dict(config_reader.load(_Wires, FOLDER / "wires-dsent.yaml", kind="table").wires)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _between(low: float, high: float, low_node: float, high_node: float, node: float) -> float:
    """Logarithms interpolated over the logarithm of the node."""
    if low_node == high_node:
        return low
    share = math.log(node / low_node) / math.log(high_node / low_node)
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


def fill_energies(document: Document) -> None:
    """Where a chip names its ``technology``, give its parts the energies that they leave out and its wires their node, in place.

    A node that a link names itself must exist, whether or not the chip names one.
    """
    data = document.value
    _name_wires(document)
    if not isinstance(data, dict) or not isinstance(data.get("technology"), str) or not isinstance(data.get("parts"), dict):
        return
    try:
        technology = find_technology(data["technology"])
        for part in data["parts"].values():
            if isinstance(part, dict) and part.get("type") in _FILLS:
                _FILLS[part["type"]](technology, part)
    except ConfigError as error:
        if error.file is not None:
            raise
        file, line = document.mark(("technology",))
        raise ConfigError(error.message, file=file, line=line, key=error.key, value=error.value, allowed=error.allowed,
                          mend=error.mend) from None


def _name_wires(document: Document) -> None:
    """A link that states a ``length`` is made in the chip's technology, where it names none; one that does not exist is refused."""
    data = document.value
    if not isinstance(data, dict) or not isinstance(data.get("links"), list):
        return
    for index, link in enumerate(data["links"]):
        if not isinstance(link, dict) or "length" not in link:
            continue
        if "technology" not in link and isinstance(data.get("technology"), str):
            link["technology"] = data["technology"]
        elif isinstance(link.get("technology"), str):
            try:
                find_technology(link["technology"])
            except ConfigError as error:
                if error.file is not None:
                    raise
                file, line = document.mark(("links", index, "technology"))
                raise ConfigError(error.message, file=file, line=line, key=error.key, value=error.value, allowed=error.allowed,
                                  mend=error.mend) from None


def _fill_systolic(technology: Technology, part: dict[str, Any]) -> None:
    stated = part.setdefault("mac_energy", {})
    if isinstance(stated, dict) and isinstance(part.get("dtypes"), list):
        for dtype in part["dtypes"]:
            if dtype in DTYPES and dtype not in stated:
                stated[dtype] = _pj(technology.mac_pj(dtype))


def _fill_vector(technology: Technology, part: dict[str, Any]) -> None:
    if "op_energy" not in part:
        part["op_energy"] = _pj(technology.operation_pj("fp32", "add"))
    if "mac_energy" not in part:
        part["mac_energy"] = _pj(technology.mac_pj("fp32"))


def _fill_sram(technology: Technology, part: dict[str, Any]) -> None:
    if not {"read_energy", "write_energy", "static_power"} - part.keys():
        return
    banks = part.get("banks")
    try:
        capacity_bytes, width_bytes = (float(parse_quantity(part[key], "capacity (B)")) for key in ("capacity", "bank_width"))
    except (KeyError, UnitError):
        return                                                  # the schema says what is wrong with it
    if not isinstance(banks, int) or banks < 1:
        return
    macro = technology.sram(capacity_bytes / banks, BITS_PER_BYTE * width_bytes)
    part.setdefault("read_energy", f"{macro.read_pj_per_bit:.6g} pJ/bit")
    part.setdefault("write_energy", f"{macro.write_pj_per_bit:.6g} pJ/bit")
    part.setdefault("static_power", f"{banks * macro.leak_mw:.6g} mW")


_FILLS = {"systolic": _fill_systolic, "vector": _fill_vector, "sram": _fill_sram}


def _pj(value: float) -> str:
    return f"{value:.6g} pJ"


def show_technology(technology: Technology) -> str:
    """*technology* as YAML, and beside it what follows from it."""
    macs = [dtype for dtype, op in technology.arithmetic.items() if op.multiply_pj is not None]
    lines = [f"#   mac {dtype} into 32 bits: {technology.mac_pj(dtype):.4g} pJ" for dtype in macs]
    lines.append(f"#   wire: {technology.wire_pj_per_bit_mm():.4g} pJ/bit/mm (DSENT, repeated global links, random data)")
    for kib in (8, 32, 512, 1024):
        macro = technology.sram(kib * 1024, 64)
        lines.append(f"#   SRAM {kib} KiB, 64 bits: read {macro.read_pj:.4g} pJ, write {macro.write_pj:.4g} pJ (CACTI 7, lstp)")
    return show_config(technology) + "\n# what follows from it and from the tables of SRAM and wires\n" + "\n".join(lines) + "\n"
