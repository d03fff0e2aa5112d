"""A config as text: every key resolved, quantities with their units, as YAML that loads again."""

from __future__ import annotations

import json
from typing import Any

from .config import Config, quantity_kind, values_kind, yaml_key
from .units import UNITS

#: kind of quantity → the units that people read it in, largest first.
_READABLE: dict[str, tuple[str, ...]] = {
    "frequency (Hz)": ("GHz", "MHz", "kHz", "Hz"),
    "time (s)": ("s", "ms", "us", "ns", "ps"),
    "capacity (B)": ("GiB", "MiB", "KiB", "B"),
    "bandwidth (B/s)": ("TB/s", "GB/s", "MB/s", "B/s"),
    "energy (J)": ("nJ", "pJ", "fJ"),
    "energy per bit (J/bit)": ("pJ/bit", "fJ/bit"),
    "length (mm)": ("mm", "um"),
    "power (W)": ("W", "mW", "uW"),
    "voltage (V)": ("V", "mV"),
    "current (A)": ("A", "mA", "uA"),
}


def quantity_text(value: float, kind: str) -> str:
    """*value* (in the base unit of *kind*) in the largest readable unit that writes it exactly and is at most it."""
    units = UNITS[kind]
    choices = _READABLE.get(kind, tuple(units))
    for unit in choices:
        scaled = value / float(units[unit])
        if abs(scaled) >= 1 and (kind != "capacity (B)" or scaled == int(scaled)):
            return f"{scaled:.10g} {unit}"
    return f"{value / float(units[choices[-1]]):.10g} {choices[-1]}"


def show_config(config: Config) -> str:
    """*config* as YAML text."""
    return "".join(line + "\n" for line in _lines(config, 0))


def _lines(config: Config, depth: int) -> list[str]:
    lines: list[str] = []
    for name, info in type(config).model_fields.items():
        value, kind = getattr(config, name), quantity_kind(info)
        key = yaml_key(name, info)
        each = values_kind(info)
        if each:
            value = {name: quantity_text(item, each) for name, item in value.items()}
        lines += _entry(key, quantity_text(value, kind) if kind and value is not None else value, depth)
    return lines


def _entry(key: str, value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Config):
        return [f"{pad}{key}:", *_lines(value, depth + 1)]
    if isinstance(value, dict):
        if not value:
            return []
        return [f"{pad}{key}:", *(line for k, v in value.items() for line in _entry(str(k), v, depth + 1))]
    if isinstance(value, list | tuple):
        if any(isinstance(item, Config) for item in value):
            lines = [f"{pad}{key}:"]
            for item in value:
                inner = _lines(item, depth + 2)
                lines += [f"{pad}  - {inner[0].strip()}", *inner[1:]]
            return lines
        return [f"{pad}{key}: [{', '.join(_scalar(item) for item in value)}]"]
    return [f"{pad}{key}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    quoted = isinstance(value, str) and any(sign in text for sign in ":#{}[],&*\"'")
    return json.dumps(text, ensure_ascii=False) if quoted else text
