"""Memory traces from files: one request a line, plain or gzip, in the forms that common simulators read.

A line is an address and a kind in either order (``0x1a2b40 R``, ``ST 4096``, ``LD 0x40``, ``0x40 WRITE``), optionally with the
first memory clock at which it may be offered as a third word. Kinds: LD, R, READ; ST, W, WRITE. Blank lines and ``#`` comments
are skipped.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..sim.errors import ConfigError
from .patterns import Requests

_READS = {"LD", "R", "READ", "P_MEM_RD"}
_WRITES = {"ST", "W", "WRITE", "P_MEM_WR"}
_KINDS = tuple(sorted(_READS | _WRITES))
GZIP_MAGIC = b"\x1f\x8b"


def read_trace(path: Path, *, interval_ticks: float = 0.0, limit: int | None = None) -> Requests:
    """The requests in *path*; without clocks of its own, request *i* is offered from tick ``i · interval_ticks`` on."""
    addresses: list[int] = []
    writes: list[bool] = []
    ticks: list[int] = []
    for line_number, text in _lines(path):
        words = text.split("#", 1)[0].split()
        if not words:
            continue
        address, is_write, tick = _parse(words, path, line_number)
        if ticks and tick is not None and tick < ticks[-1]:
            raise ConfigError(f"clock {tick} comes after clock {ticks[-1]}: requests are offered in order", file=str(path),
                              line=line_number)
        addresses.append(address)
        writes.append(is_write)
        ticks.append(int(len(ticks) * interval_ticks) if tick is None else tick)
        if limit is not None and len(addresses) == limit:
            break
    if not addresses:
        raise ConfigError("the trace holds no request", file=str(path))
    return Requests(np.array(addresses, np.int64), np.array(writes, bool), np.array(ticks, np.int64))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        with (gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8")) as stream:
            yield from enumerate(stream, start=1)
    except UnicodeDecodeError:
        raise ConfigError("is no text trace (not UTF-8)", file=str(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be read: {reason}", file=str(path)) from None


def _parse(words: list[str], path: Path, line: int) -> tuple[int, bool, int | None]:
    """(address, is a write, clock or None) of one line."""
    first, *rest = words
    if not rest or len(words) > 3:
        raise ConfigError(f"'{' '.join(words)}' is no request", file=str(path), line=line,
                          mend="write an address and a kind, such as '0x1a40 R' or 'ST 4096', and a clock if you like")
    kind, where = (first, rest[0]) if first.upper() in _KINDS else (rest[0], first)
    if kind.upper() not in _KINDS:
        raise ConfigError(f"{kind!r} is no kind of request", file=str(path), line=line, value=kind, allowed=_KINDS)
    address = _number(where, "address", path, line)
    return address, kind.upper() in _WRITES, _number(rest[1], "clock", path, line) if len(rest) > 1 else None


def _number(text: str, what: str, path: Path, line: int) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 62:
        raise ConfigError(f"{text!r} is no {what}", file=str(path), line=line, mend="write it decimal, or hexadecimal with 0x")
    return value
