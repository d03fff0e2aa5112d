"""Suite `energy`: the model's powers and energies against anchors that others measured, published or derived.

An anchor is an id, figures and tolerances; what is run for it (system, operator, shape, boundary) is declared in
``configs/anchors.yaml`` under that id. An anchor that is declared nowhere is counted and skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..sim import config as config_reader
from ..sim import yaml_reader
from ..sim.errors import ConfigError
from .contract import Row, ValidationResult, compare, skip, summarise
from .energy_cases import Case, Cases, Quantities, Unpredicted

SHIPPED = Path(__file__).parent / "data" / "anchors.yaml"
DECLARED = Path(__file__).parent.parent / "configs" / "anchors.yaml"
#: What a list-valued anchor's last column is, and the name under which a case gives its points.
_POINT = "power_w"
#: ASSUMED: the tolerance of an anchor that states none and whose value is no range.
DEFAULT_PCT = 5.0


def validate(reference: Path | None = None) -> ValidationResult:
    """Run every anchor of the shipped table, or of the tables of anchors at *reference* (a file or a folder)."""
    declared = config_reader.load(Cases, DECLARED).anchors
    rows: list[Row] = []
    tolerances: dict[str, float | None] = {}
    for path in _tables(reference):
        for anchor in _anchors(path):
            found = list(_compared(anchor, declared, path))
            rows += found
            tolerances[str(anchor["id"])] = max(_tolerances(anchor).values())
    return ValidationResult("energy", tuple(rows), tuple(summarise(rows, tolerances)))


def _tables(reference: Path | None) -> list[Path]:
    if reference is None:
        return [SHIPPED]
    if reference.is_file():
        return [reference]
    found = [path for path in sorted(reference.rglob("*.y*ml")) if "anchors:" in yaml_reader.read_text(path)
             and _is_table(path)]
    if not found:
        raise ConfigError("no table of energy anchors here", file=str(reference),
                          mend="a table is a YAML file with anchors: a list of id, value, tolerance_pct")
    return found


def _is_table(path: Path) -> bool:
    try:
        value = yaml_reader.parse(yaml_reader.read_text(path), str(path)).value
    except ConfigError:
        return False
    return isinstance(value, dict) and isinstance(value.get("anchors"), list)


def _anchors(path: Path) -> list[dict[str, Any]]:
    document = yaml_reader.parse(yaml_reader.read_text(path), str(path))
    anchors = document.value.get("anchors") if isinstance(document.value, dict) else None
    if not isinstance(anchors, list):
        raise ConfigError("holds no list of anchors", file=str(path), line=1, key="anchors")
    for i, anchor in enumerate(anchors):
        if not isinstance(anchor, dict) or "id" not in anchor or "value" not in anchor:
            raise ConfigError("an anchor needs an id and a value", file=str(path), line=document.mark(("anchors", i))[1])
    return anchors


def _compared(anchor: dict[str, Any], declared: dict[str, Case], path: Path) -> Iterator[Row]:
    name = str(anchor["id"])
    case, tolerances = declared.get(name), _tolerances(anchor)
    ours: Quantities | None = None if case is None else case.run()
    for quantity, expected in _figures(anchor["value"], path, name):
        middle, low, high = expected
        if ours is None or quantity not in ours:
            # A figure of others' that no run of ours gives (Horowitz beside CACTI) is an input, not a prediction.
            reason = "nothing of ours is declared for this anchor" if ours is None else "no quantity of what is run for this anchor"
            if isinstance(case, Unpredicted):
                reason = case.reason
            yield skip(f"{name}/{quantity}", name, middle, reason)
            continue
        # A range is its own tolerance; a quantity without one of its own (such as a quotient of two others) takes the widest.
        tolerance = 0.0 if low is not None else tolerances.get(quantity.rpartition("/")[2], max(tolerances.values()))
        yield compare(f"{name}/{quantity}", name, middle, ours[quantity], tolerance, low=low, high=high)


def _tolerances(anchor: dict[str, Any]) -> dict[str, float]:
    """Tolerance by quantity; under the empty name, that of all."""
    given = anchor.get("tolerance_pct")
    if isinstance(given, dict):
        return {str(quantity): float(value) for quantity, value in given.items()}
    return {"": DEFAULT_PCT if given is None else float(given)}


def _figures(value: Any, path: Path, name: str, prefix: str = "") -> Iterator[tuple[str, tuple[float, float | None, float | None]]]:
    """(quantity, (figure, lowest, highest)): nested names joined by /, a pair as a range, rows of a sweep as points."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _figures(inner, path, name, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        for i, row in enumerate(value, start=1):
            yield f"point{i}/{_POINT}", (float(row[-1]), None, None)
    elif isinstance(value, list) and len(value) == 2:
        low, high = float(value[0]), float(value[1])
        yield prefix, ((low + high) / 2, low, high)
    elif isinstance(value, int | float):
        yield prefix, (float(value), None, None)
    else:
        raise ConfigError(f"the value of anchor {name} is {value!r}", file=str(path), key=prefix,
                          mend="write a number, a range of two, or rows whose last number is the power")
