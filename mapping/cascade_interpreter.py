"""Runs a cascade of Einsums on arrays, pass by pass as its analysis says, and so proves the analysis.

In each pass the outer rank of the fibre streams by once, a coordinate at a time; an Einsum runs in its own pass only. All that
has not been computed is NaN: had the analysis put an Einsum into too early a pass, it would read NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from ..workloads.passes import Einsum, Passes, Ref
from .functions import NORM_EPSILON

Array = npt.NDArray[Any]

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "same": lambda x: x,
    "add": lambda *x: reduce(np.add, x),
    "multiply": lambda *x: reduce(np.multiply, x),
    "subtract": np.subtract,
    "divide": np.divide,
    "maximum": np.maximum,
    "square": np.square,
    "exp": np.exp,
    "exp_minus": lambda x, y: np.exp(x - y),
    "rsqrt": lambda x: 1 / np.sqrt(x + NORM_EPSILON),
}
_REDUCTIONS: dict[str | None, tuple[Any, float]] = {"sum": (np.add, 0.0), "max": (np.maximum, -np.inf)}


def run_cascade(passes: Passes, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the cascade, from its inputs [by their ranks in order]; extents are those of the inputs' shapes."""
    return _Run(passes, tensors).values


class _Run:
    def __init__(self, passes: Passes, tensors: Mapping[str, Array]) -> None:
        self.passes, self.cascade = passes, passes.cascade
        self.outer = self.cascade.fibre[0]
        self.ranks_of = self.cascade.ranks_of
        self.initial = {einsum.name: np.nan if einsum.initial is None else einsum.initial for einsum in self.cascade.einsums}
        extents = {rank: size for name, ranks in self.cascade.inputs.items()
                   for rank, size in zip(ranks, tensors[name].shape, strict=True)}
        self.extent = extents[self.outer]
        self.values = {name: np.full([extents[rank] for rank in ranks], np.nan) for name, ranks in self.ranks_of.items()}
        self.values |= {name: np.asarray(tensors[name], dtype=float) for name in self.cascade.inputs}
        order = self.cascade.in_order()
        for number in range(passes.count + 1):
            self._sweep([einsum for einsum in order if passes.of_einsum[einsum.name] == number])
            for einsum in order:
                if passes.of_einsum[einsum.name] is None and passes.after[einsum.name] == number:
                    self._between(einsum)

    def _sweep(self, einsums: list[Einsum]) -> None:
        """One pass: what is reduced over the outer rank shows when the pass has ended."""
        sums: dict[str, Array] = {}
        for coordinate in range(self.extent if einsums else 0):
            for einsum in einsums:
                found = self._compute(einsum, coordinate)
                if self.outer in einsum.output.ranks:
                    axis = einsum.output.ranks.index(self.outer)
                    self.values[einsum.name][(slice(None),) * axis + (coordinate,)] = found
                else:
                    combine, start = _REDUCTIONS[einsum.reduction]
                    sums[einsum.name] = combine(sums.get(einsum.name, start), found)
        self.values |= sums

    def _between(self, einsum: Einsum) -> None:
        """An Einsum of no pass, over statistics that are complete."""
        if self.outer in einsum.ranks:
            self._sweep([einsum])
        else:
            self.values[einsum.name] = self._compute(einsum, None)

    def _compute(self, einsum: Einsum, coordinate: int | None) -> Array:
        """The output at one coordinate of the outer rank (None: it has none), reduced over the other ranks that it lacks."""
        ranks = [rank for rank in einsum.ranks if rank != self.outer]
        kept = [rank for rank in einsum.output.ranks if rank != self.outer]
        found = FUNCTIONS[einsum.function](*(self._operand(ref, ranks, coordinate) for ref in einsum.inputs))
        axes = tuple(axis for axis, rank in enumerate(ranks) if rank not in kept)
        if axes:
            found = _REDUCTIONS[einsum.reduction][0].reduce(found, axis=axes)
        left = [rank for rank in ranks if rank in kept]
        return np.asarray(np.transpose(found, [left.index(rank) for rank in kept]))

    def _operand(self, ref: Ref, ranks: list[str], coordinate: int | None) -> Array:
        """*ref* at the coordinate, its axes in the order of *ranks*, 1 where it lacks one."""
        value, held = self.values[ref.tensor], list(self.ranks_of[ref.tensor])
        if self.outer in held:
            where = self.extent - 1 if ref.last == self.outer else coordinate
            assert where is not None
            where -= ref.before == self.outer
            axis = held.index(self.outer)
            value = np.full_like(value.take(0, axis), self.initial[ref.tensor]) if where < 0 else value.take(where, axis)
            held.remove(self.outer)
        aligned = np.transpose(value, [held.index(rank) for rank in ranks if rank in held])
        return np.expand_dims(aligned, [axis for axis, rank in enumerate(ranks) if rank not in held])
