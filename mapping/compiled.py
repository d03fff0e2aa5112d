"""Compilation of the timelines: cached on disk under the text of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: A compiled caller holds its callees, so a change in any of these files makes all of it stale (numba looks at the caller's alone).
_SOURCES = (*sorted(Path(__file__).parent.glob("*timeline*.py")), Path(__file__))
_STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def compiled(function: FunctionT) -> FunctionT:
    """*function* compiled by numba, without the interpreter lock."""
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _STAMP
    return cast(FunctionT, dispatcher)
