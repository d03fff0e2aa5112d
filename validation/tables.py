"""Reference tables that a user names: files recognised by their columns, lines with their numbers, numbers in cells.

A file of a folder that cannot be read is passed over with its reason on stderr; of a file that is named alone that is an error.
Undecodable bytes outside the columns that are needed (a name in Latin-1) do no harm.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..sim.errors import ConfigError
from .contract import Row, compare, skip

#: What a row that cannot be predicted may raise on its way.
UNPREDICTABLE = (ValueError, KeyError, ZeroDivisionError, OverflowError, MemoryError, ConfigError)


def find_tables(reference: Path, columns: Sequence[str], what: str) -> list[Path]:
    """The files at *reference* (a file or a folder) that have *columns*; a ConfigError when there is no such table of *what*."""
    named = not reference.is_dir()
    found = []
    for path in [reference] if named else sorted(reference.rglob("*.csv")):
        if not path.is_file():
            continue
        try:
            header = _header(path)
        except (OSError, csv.Error) as error:
            _pass_over(path, f"cannot be read as CSV: {error}", named)
            continue
        if set(columns) <= set(header):
            found.append(path)
        elif any("\ufffd" in name or "\0" in name for name in header):
            _pass_over(path, "is not UTF-8 text", named)
    if not found:
        raise ConfigError(f"no {what} here", file=str(reference), allowed=tuple(columns),
                          mend="a table is a CSV file with these columns")
    return found


def _pass_over(path: Path, reason: str, named: bool) -> None:
    if named:
        raise ConfigError(reason, file=str(path), mend="write the table as UTF-8 CSV")
    print(f"skipped {path}: {reason}", file=sys.stderr)


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells by column) of a table; missing cells are empty, and nothing has spaces around it."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, fieldnames=_header(path), restval="")
        try:
            next(reader, None)                                          # the header itself
            for cells in reader:
                # Cells beyond the header stand under None.
                yield reader.line_num, {name: cell.strip() for name, cell in cells.items() if isinstance(cell, str)}
        except csv.Error as error:
            raise ConfigError(f"is no CSV: {error}", file=str(path), line=reader.line_num) from None


def whole(text: str) -> int | None:
    """The whole number in a cell (``32``, ``32.0``), or None."""
    try:
        return int(text)
    except ValueError:
        value = number(text)
        return int(value) if value is not None and value.is_integer() else None


def number(text: str) -> float | None:
    """The number in a cell, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def compared(
    case: str, group: str, expected: str, predict: Callable[[], float], tolerance_pct: float, more: Mapping[str, object],
) -> Row:
    """The row of one cell: *expected* against what *predict* gives, or skipped for the reason why either is no number."""
    value = whole(expected)
    theirs = number(expected) if value is None else value
    if theirs is None:
        return skip(case, group, None, f"the measured figure is {expected!r}, no number", **more)
    try:
        return compare(case, group, theirs, predict(), tolerance_pct, low=None, high=None, **more)
    except UNPREDICTABLE as error:
        return skip(case, group, theirs, f"cannot be predicted: {reason_of(error)}", **more)


def reason_of(error: BaseException) -> str:
    """The first line of what *error* says."""
    text = error.message if isinstance(error, ConfigError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__
