"""Writing results: nothing half-written, nothing lost."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import ConfigError


def write_output(target: str, write: Callable[[IO[str]], object]) -> None:
    """Call *write* with a stream to *target*: ``-`` is stdout, devices and pipes are written directly, a regular file
    is written to a temporary name beside it and renamed, so that it is either whole or untouched."""
    if target == "-":
        write(sys.stdout)
        sys.stdout.flush()
        return
    path = Path(target)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            if path.is_dir():
                raise ConfigError("is a directory; a file to write is wanted", file=target)
            with path.open("w", encoding="utf-8") as stream:
                write(stream)
            return
        _write_and_rename(path.resolve(), write)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=target) from None


def check_writable(target: str) -> None:
    """Refuse an output that could not be written, before the work that would be lost is done."""
    if target == "-":
        return
    path = Path(target)
    if path.is_dir():
        raise ConfigError("is a directory; a file to write is wanted", file=target)
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"cannot be written: there is no folder {folder}", file=target, mend=f"mkdir -p {folder}")
    where = path if path.exists() else folder
    if not os.access(where, os.W_OK):
        raise ConfigError(f"cannot be written: no permission in {folder}", file=target)


def _write_and_rename(path: Path, write: Callable[[IO[str]], object]) -> None:
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            write(stream)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(partial, mode)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
