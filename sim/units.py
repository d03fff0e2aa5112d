"""Units: the SI table, quantities with units from YAML, and their names in code.

Inside the simulator a quantity is a plain number whose unit stands in its name: time in integer picoseconds (``_ps``) or
integer cycles of a named clock, energy in picojoules (``_pj``), capacity in bytes (``_bytes``), rates in hertz (``_hz``) and
bytes per second. YAML says ``1.2 GHz`` or ``24 MiB``; this module is the only place that reads such text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

#: SI prefixes (BIPM SI brochure, 9th edition, table 7) as exact powers of ten.
SI = {"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "m": -3, "": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15}
#: IEC 80000-13 binary prefixes.
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
#: One multiply-accumulate is two floating-point operations; the only place that says so.
FLOPS_PER_MAC = 2
PS_PER_S = 10**12
BITS_PER_BYTE = 8

_QUANTITY = re.compile(r"^\s*([+-]?(?:\d+(?:_\d+)*)?(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*$")


class UnitError(ValueError):
    """A text that is no quantity of the wanted kind."""


def _scaled(prefixes: dict[str, Fraction], base_units: dict[str, Fraction]) -> dict[str, Fraction]:
    return {prefix + unit: scale * factor for unit, factor in base_units.items() for prefix, scale in prefixes.items()}


def _si(*prefixes: str) -> dict[str, Fraction]:
    return {prefix: Fraction(10) ** SI[prefix] for prefix in prefixes}


_BINARY = {prefix: Fraction(value) for prefix, value in BINARY.items()}
_BYTE, _BIT = {"B": Fraction(1)}, {"b": Fraction(1, 8), "bit": Fraction(1, 8)}
_CAPACITY = _scaled(_si("", "k", "M", "G", "T") | _BINARY, _BYTE) | _scaled(_si("", "k", "M", "G") | _BINARY, _BIT)
_JOULE = {"J": Fraction(10) ** 12}
_ENERGY = _scaled(_si("f", "p", "n", "u", "µ", "m", ""), _JOULE)

#: kind → unit text → factor to the unit named in code. Case matters: kB is 1000 bytes, KiB 1024, Mb a megabit.
UNITS: dict[str, dict[str, Fraction]] = {
    "frequency (Hz)": _scaled(_si("", "k", "M", "G"), {"Hz": Fraction(1)}),
    "time (s)": _scaled(_si("p", "n", "u", "µ", "m", ""), {"s": Fraction(10) ** 12}),
    "capacity (B)": _CAPACITY,
    "bandwidth (B/s)": {unit + "/s": factor for unit, factor in _CAPACITY.items()}
    | {unit + "ps": factor for unit, factor in _scaled(_si("k", "M", "G", "T"), _BIT).items() if unit.endswith("b")},
    "energy (J)": _ENERGY,
    "energy per bit (J/bit)": {unit + "/" + per: factor for unit, factor in _ENERGY.items() for per in ("bit", "b")},
    "energy per bit and length (J/bit/mm)": {unit + "/bit/mm": factor for unit, factor in _ENERGY.items()},
    "length (mm)": {"mm": Fraction(1), "um": Fraction(1, 1000), "µm": Fraction(1, 1000), "cm": Fraction(10)},
    "power (W)": _scaled(_si("u", "µ", "m", "", "k"), {"W": Fraction(1)}),
    "area (mm2)": {"mm2": Fraction(1), "mm²": Fraction(1), "um2": Fraction(1, 10**6), "µm²": Fraction(1, 10**6)},
    "voltage (V)": _scaled(_si("m", ""), {"V": Fraction(1)}),
    "current (A)": _scaled(_si("u", "µ", "m", ""), {"A": Fraction(1)}),
    "transfer rate (T/s)": _scaled(_si("", "k", "M", "G"), {"T/s": Fraction(1)})
    | {"MT/s": Fraction(10) ** 6, "GT/s": Fraction(10) ** 9},
}


def parse_quantity(text: object, kind: str) -> Fraction:
    """The exact value of *text* (such as ``"1.2 GHz"``) in the base unit of *kind*, a key of :data:`UNITS`.

    A bare number is refused: a number without its unit is a question nobody can answer. Zero needs no unit.
    """
    units = UNITS[kind]
    example = next(iter(units))
    if isinstance(text, int | float) and not isinstance(text, bool) and text == 0:
        return Fraction(0)
    if not isinstance(text, str):
        raise UnitError(f"{text!r} has no unit; a {kind} is written like '{text} {example}'")
    match = _QUANTITY.match(text)
    if not match or not match.group(1):
        raise UnitError(f"{text!r} is no {kind}; write a number and a unit, such as '1 {example}'")
    try:
        number = Fraction(Decimal(match.group(1).replace("_", "")))
    except InvalidOperation as error:
        raise UnitError(f"{text!r} does not begin with a number") from error
    unit = (match.group(2) or "").strip()
    if number == 0 and not unit:
        return number
    if unit not in units:
        raise UnitError(f"unit {unit!r} of {text!r} is no unit of {kind}; known: {', '.join(units)}")
    return number * units[unit]


def _as_float(kind: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        return float(parse_quantity(value, kind)) if isinstance(value, str) else value

    return convert


def _as_int(kind: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        exact = parse_quantity(value, kind)
        if exact.denominator != 1:
            raise UnitError(f"{value!r} is not a whole number of base units ({kind})")
        return exact.numerator

    return convert


class Quantity:
    """Marks a schema field as a quantity of *kind*; text from YAML must then carry a unit."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


Hertz = Annotated[float, Quantity("frequency (Hz)"), BeforeValidator(_as_float("frequency (Hz)"))]
Picoseconds = Annotated[int, Quantity("time (s)"), BeforeValidator(_as_int("time (s)"))]
Bytes = Annotated[int, Quantity("capacity (B)"), BeforeValidator(_as_int("capacity (B)"))]
BytesPerSecond = Annotated[float, Quantity("bandwidth (B/s)"), BeforeValidator(_as_float("bandwidth (B/s)"))]
Picojoules = Annotated[float, Quantity("energy (J)"), BeforeValidator(_as_float("energy (J)")), Field(ge=0)]
PicojoulesPerBit = Annotated[
    float, Quantity("energy per bit (J/bit)"), BeforeValidator(_as_float("energy per bit (J/bit)")), Field(ge=0)
]
PicojoulesPerBitMm = Annotated[
    float, Quantity("energy per bit and length (J/bit/mm)"),
    BeforeValidator(_as_float("energy per bit and length (J/bit/mm)")), Field(ge=0)
]
Watts = Annotated[float, Quantity("power (W)"), BeforeValidator(_as_float("power (W)")), Field(ge=0)]
Millimetres = Annotated[float, Quantity("length (mm)"), BeforeValidator(_as_float("length (mm)"))]
SquareMillimetres = Annotated[float, Quantity("area (mm2)"), BeforeValidator(_as_float("area (mm2)"))]
Volts = Annotated[float, Quantity("voltage (V)"), BeforeValidator(_as_float("voltage (V)"))]
Amperes = Annotated[float, Quantity("current (A)"), BeforeValidator(_as_float("current (A)"))]
TransfersPerSecond = Annotated[float, Quantity("transfer rate (T/s)"), BeforeValidator(_as_float("transfer rate (T/s)"))]

def ceil_div(amount: int, size: int) -> int:
    """How many pieces of *size* hold *amount*."""
    return -(-amount // size)


_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"),
          (1e-12, "p"), (1e-15, "f"))


def si_text(value: float, unit: str, digits: int = 4) -> str:
    """*value* in *unit* with the prefix that leaves one to three digits before the point: ``si_text(0.0012, "s")`` = 1.2 ms."""
    if value == 0:
        return f"0 {unit}"
    for scale, prefix in _STEPS:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"
