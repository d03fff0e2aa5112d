"""Compilation of the timelines: cached on disk under the text of all of them."""

from __future__ import annotations

from pathlib import Path

from ..sim.compiling import FunctionT, compile_cached, stamp

_SOURCES = stamp((*sorted(Path(__file__).parent.glob("*timeline*.py")), Path(__file__)))


def compiled(function: FunctionT) -> FunctionT:
    return compile_cached(function, _SOURCES)
