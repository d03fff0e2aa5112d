"""Compilation of the kernels: cached on disk under the text of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: A function's compiled code holds its callees and the layout's constants, so any change in these files makes all of it stale.
#: (numba by itself looks only at the file that a function stands in.)
_SOURCES = (*sorted(Path(__file__).parent.glob("kernel*.py")), Path(__file__).parent / "layout.py", Path(__file__))
_STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def compiled(function: FunctionT) -> FunctionT:
    """*function* compiled by numba, without the interpreter lock and without reference counts (it allocates nothing)."""
    return _compile(function, inline=False)


def inlined(function: FunctionT) -> FunctionT:
    """The same for a small function on a hot path: its code stands in its callers, which saves the call."""
    return _compile(function, inline=True)


def _compile(function: FunctionT, *, inline: bool) -> FunctionT:
    options: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False, "error_model": "numpy", "forceinline": inline}
    dispatcher: Any = njit(**options)(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _STAMP
    return cast(FunctionT, dispatcher)
