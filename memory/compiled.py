"""Compilation of the kernels: cached on disk under the text of all of them."""

from __future__ import annotations

from pathlib import Path

from ..sim.compiling import FunctionT, compile_cached, stamp

_ROOM = Path(__file__).parent
_SOURCES = stamp((*sorted(_ROOM.glob("kernel*.py")), _ROOM / "layout.py", Path(__file__)))


def compiled(function: FunctionT) -> FunctionT:
    """*function* compiled by numba, without reference counts (it allocates nothing)."""
    return compile_cached(function, _SOURCES, _nrt=False)


def inlined(function: FunctionT) -> FunctionT:
    """The same for a small function on a hot path: its code stands in its callers, which saves the call."""
    return compile_cached(function, _SOURCES, _nrt=False, forceinline=True)
