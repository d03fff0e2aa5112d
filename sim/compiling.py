"""Compilation by numba as every room wants it: cached under the text of all that a kernel holds, each function compiled once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit, typeof, types

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def stamp(sources: Iterable[Path]) -> str:
    """The text of *sources* in one hash."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def compile_cached(function: FunctionT, sources: str, **options: Any) -> FunctionT:
    """*function* compiled without the interpreter lock, cached on disk under *sources* (a stamp).

    A compiled caller holds its callees and their constants, so a change in any of their files makes it stale; numba by itself
    looks only at the file that the caller stands in.
    """
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    if dispatcher is function:  # NUMBA_DISABLE_JIT: the source itself
        return function
    cache_file = getattr(dispatcher._cache, "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = sources
    _take_values_by_type(dispatcher)
    return cast(FunctionT, dispatcher)


def _take_values_by_type(dispatcher: Any) -> None:
    """Let compiled callers ask for one form of the function for each set of types.

    By itself numba compiles a function anew for each set of constants and of left-out arguments that it is called with: f(x, 0),
    f(x, 1), f(x, y) and f(x) are four. LLVM puts constants in when it inlines, so nothing is gained by it; and compiling the
    timelines took three times as long.
    """
    template_of = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        signature, folded = dispatcher._compiler.fold_argument_types(args, kws)
        template, _, typed, none = template_of(tuple(_plain(kind) for kind in folded), {})
        return template, signature, typed, none

    dispatcher.get_call_template = get_call_template


def _plain(kind: Any) -> Any:
    return typeof(kind.value) if isinstance(kind, types.Omitted) else types.unliteral(kind)  # type: ignore[no-untyped-call]
