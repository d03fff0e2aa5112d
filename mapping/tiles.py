"""What lowering functions share: operands as they see them, windows, and the tiles that bring windows on chip and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..sim.dtypes import DTYPES, DType
from ..sim.program import Ranges, Segment, SegmentBuilder, View, contiguous, view_of
from ..workloads.tensors import Role
from .capacity import check_room
from .storage import Blocked, window_ranges
from .target import ACTIVATION, ACTIVATION_QUEUE, STORE_QUEUE, STREAM, STREAM_QUEUE, VECTOR, Site


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of a step without its name: equal operands of equal operators give equal segments.

    *first_row*: for keys and values of the run's own tokens, their first row in the cache.
    """

    index: int
    shape: tuple[int, ...]
    dtype: DType
    role: Role
    resident: bool
    layout: Blocked | None = None
    first_row: int | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether its tiles come on the stream queue: weights, KV cache, and the int32 ids that steer a gather."""
        return self.role in ("weight", "kv") or self.dtype == DTYPES["int32"]

    def window(self, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0) -> View:
        """A window on the elements of the operand, C-contiguous unless *strides* says otherwise."""
        if strides is None:
            return view_of(shape, operand=self.index, offset=offset)
        return View(shape, strides, offset, operand=self.index)


def tiles(extent: int, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """(start, length) of the pieces of at most *size* that cover *extent* elements from *start* on."""
    for begin in range(start, start + extent, size):
        yield begin, min(size, start + extent - begin)


def permute(view: View, *axes: int) -> View:
    """The view with its axes in another order."""
    shape, strides, offset, buffer, operand = view
    return View(tuple([shape[a] for a in axes]), tuple([strides[a] for a in axes]), offset, buffer, operand)


def reshape(view: View, *shape: int) -> View:
    """A C-contiguous view in another shape."""
    assert view.strides == contiguous(view.shape), "only a contiguous view has another shape"
    return view_of(shape, buffer=view.buffer, operand=view.operand, offset=view.offset)


def accumulator_dtype(dtype: DType) -> DType:
    """What products of *dtype* are summed in."""
    return DTYPES["int32" if dtype.kind == "int" and not dtype.group else "fp32"]


def floor_to(value: int, step: int) -> int:
    """The largest multiple of *step* that is not above *value*, but not 0 unless value is below *step*."""
    return value // step * step or value


class Tiler:
    """Builds one segment: brings windows of operands on chip, runs tiles on units, and takes results back.

    A window on a resident operand is used where it is. One on an operand in DRAM is loaded into a tile of the stream pool
    (weights, KV cache) or of the activation pool (inputs, spilled activations), in the order of the window.
    """

    def __init__(self, name: str, operands: tuple[Operand, ...], site: Site) -> None:
        self.site, self.operands = site, operands
        self.builder = SegmentBuilder(name, len(operands))
        self._ways = {o.index: (STREAM, STREAM_QUEUE) if o.is_streamed else (ACTIVATION, ACTIVATION_QUEUE) for o in operands}
        self._ranges: dict[View, Ranges] = {}                   # windows are loaded again and again

    def read(self, window: View) -> View:
        """The elements of *window* on chip."""
        operand = self.operands[window.operand]
        if operand.resident:
            return window
        return view_of(window.shape, buffer=self.load(operand, self._ranges_of(window, operand.dtype), window.elements))

    def load(self, operand: Operand, ranges: Ranges, elements: int, after: tuple[int, ...] = ()) -> int:
        """A tile filled with the bytes of *ranges*."""
        pool, queue = self._ways[operand.index]
        buffer = self.builder.buffer("tile", pool, elements, operand.dtype)
        self.builder.load(queue, operand.index, ranges, buffer, after=after)
        return buffer

    def temporary(self, name: str, shape: tuple[int, ...], dtype: DType, unit: str) -> View:
        """A new buffer in the pool that *unit* allocates from, viewed as *shape*."""
        return view_of(shape, buffer=self.builder.buffer(name, self.site.accumulator_pool(unit), math.prod(shape), dtype))

    def sink(self, window: View) -> View:
        """Where the lanes write the elements of *window*: in place when resident, else in a buffer to be stored."""
        operand = self.operands[window.operand]
        if operand.resident:
            return window
        return view_of(window.shape, buffer=self.builder.buffer("out", VECTOR, window.elements, operand.dtype))

    def commit(self, window: View, source: View) -> None:
        """Store what was written to ``sink(window)``, unless it is where it belongs already."""
        operand = self.operands[window.operand]
        if not operand.resident:
            self.builder.store(STORE_QUEUE, operand.index, self._ranges_of(window, operand.dtype), source)

    def _ranges_of(self, window: View, dtype: DType) -> Ranges:
        found = self._ranges.get(window)
        if found is None:
            found = self._ranges[window] = window_ranges(window, dtype)
        return found

    def lanes(self, function: str, reads: tuple[View, ...], writes: tuple[View, ...], **params: Any) -> None:
        """One record on the vector unit."""
        self.builder.compute(self.site.target.vpu, function, reads, writes, **params)

    def converted(self, view: View, dtype: DType, wanted: DType) -> View:
        """The contiguous *view* in the format that the matrix product wants, dequantised on the lanes when it is packed."""
        if not self.site.target.must_dequantize(dtype, wanted):
            return view
        plain = self.temporary("dequantized", view.shape, wanted, self.site.target.vpu)
        self.lanes("dequantize", (view,), (plain,))
        return plain

    def build(self, **notes: Any) -> Segment:
        """The finished segment; a ConfigError when its tiles cannot fit into their pools."""
        segment = self.builder.build(**notes)
        check_room(segment, self.site)
        return segment


