"""The tile program: which tile, on which unit, which bytes move from where to where, in which order.

The mapper writes it, the simulator times it, and the functional interpreter executes *the same records*, so that a mapping
that is wrong cannot look fast. A program is a list of :class:`Step`; each binds one :class:`Segment` (the records of one
operator, without addresses) to tensors. Layers of one shape share their segment; only the binding differs.

Order and waiting
-----------------
- Each unit takes its records in program order. DMA queues keep many transfers in flight; compute units run one at a time.
- ``Segment.waits[i]`` names earlier records of the same segment that record *i* waits for (data it reads, space it reuses).
- A record that touches operand *t* of its step waits for the steps that wrote that tensor (``Step.after`` by operand).
- A buffer is owned from the start of its first record to the end of its last; its first record waits until the pool has
  room. Only one unit allocates from a pool, in program order, which is why waiting cannot deadlock.

Records, their views and buffers are named tuples: a layer has tens of thousands, and a frozen dataclass takes three times as long
to make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .dtypes import DType
from .patches import PATCH_PRODUCTS

#: (n, 2) int64 array of (byte offset inside the tensor, number of bytes). Records that move the same bytes may share one.
Ranges = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor of the run and where it lives: at *address* in ``memory`` (a DRAM part) or resident in ``memory`` (an SRAM part).

    ``order()`` gives the storage order, for the interpreter: storage position *i* holds logical element ``order()[i]`` (C order
    of *shape*); None means C order. Storage is packed in whole units: bytes of sub-byte elements, groups beside their scale.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    role: Literal["weight", "kv", "activation", "input", "output"]
    memory: str
    address: int
    nbytes: int
    resident: bool = False
    order: Callable[[], npt.NDArray[np.int64]] | None = field(default=None, compare=False, repr=False)

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Buffer(NamedTuple):
    """A tile's place in a pool of an SRAM: *elements* of *dtype* in C order of whatever view the records take of it."""

    name: str
    pool: str
    elements: int
    dtype: DType

    @property
    def nbytes(self) -> int:
        return self.dtype.bytes_for(self.elements)


class View(NamedTuple):
    """A strided window, in elements, on a buffer (``buffer >= 0``) or on a resident operand (``operand >= 0``)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    buffer: int = -1
    operand: int = -1

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


class Load(NamedTuple):
    """DMA from operand *operand* in DRAM into *buffer*: the bytes of *ranges*, one after the other, fill it from element
    ``offset`` on."""

    unit: str
    operand: int
    ranges: Ranges
    buffer: int
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return int(self.ranges[:, 1].sum())


class Store(NamedTuple):
    """DMA of the elements of *source*, in its order, to the bytes of *ranges* of operand *operand* in DRAM."""

    unit: str
    operand: int
    ranges: Ranges
    source: View

    @property
    def nbytes(self) -> int:
        return int(self.ranges[:, 1].sum())


class Compute(NamedTuple):
    """One tile on a compute unit: ``writes[...] = function(reads..., **params)``.

    ``matmul`` reads A [..., m, k] and B [..., k, n] and writes C [..., m, n]; with ``accumulate`` it adds to C. ``conv`` is a
    matmul whose A [m, k] is the ``patches`` of a tile of images (``sim/patches.py``), its m in ``split`` parts on arrays of
    their own. What each vector function means is written once, in the functional interpreter; what it costs, in the unit
    that runs it.
    """

    unit: str
    function: str
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    params: Mapping[str, Any] = MappingProxyType({})


Record = Load | Store | Compute


@dataclass(frozen=True, slots=True)
class Segment:
    """The records of one operator's mapping, free of addresses; see the module's text for how they wait.

    ``first_use[b]`` / ``last_use[b]`` are the records between which buffer *b* is owned. ``macs`` is the sum over its matmuls.
    """

    name: str
    operands: int
    buffers: tuple[Buffer, ...]
    records: tuple[Record, ...]
    waits: tuple[tuple[int, ...], ...]
    first_use: tuple[int, ...]
    last_use: tuple[int, ...]
    macs: int
    notes: Mapping[str, Any] = field(default_factory=dict)     # the mapper's choice, for the report: tile sizes, dataflow …


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the run: a segment bound to tensors.

    ``operands[i]`` is the tensor (an index into ``TileProgram.tensors``) of operand *i*; ``after[i]`` the steps whose writes
    of it must have ended before any record of this step touches operand *i*; ``produces`` the resident tensors
    that come to life here and ``retires`` those whose last reader this step is.
    """

    operator: str
    kind: str
    segment: Segment
    operands: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]
    produces: tuple[int, ...] = ()
    retires: tuple[int, ...] = ()
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A share of an SRAM part that tiles of one kind own pieces of."""

    name: str
    memory: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class TileProgram:
    """A whole run: tensors placed, pools sized, steps in order."""

    tensors: tuple[TensorPlace, ...]
    pools: tuple[Pool, ...]
    resident_bytes: Mapping[str, int]        # SRAM part → bytes set aside for resident tensors
    steps: tuple[Step, ...]
    widens: tuple[str, ...] = ()             # number formats that the SRAM's operand ports widen

    @property
    def macs(self) -> int:
        return sum(step.segment.macs for step in self.steps)


@lru_cache(maxsize=4096)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of *shape* in C order."""
    strides = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def view_of(shape: tuple[int, ...], *, buffer: int = -1, operand: int = -1, offset: int = 0) -> View:
    """The C-contiguous view of *shape* on a buffer or on a resident operand."""
    return View(shape, contiguous(shape), offset, buffer, operand)


def whole(nbytes: int) -> Ranges:
    """The ranges of a whole tensor."""
    return np.array([[0, nbytes]], dtype=np.int64)


#: What a product's record says, one value for each of its two kinds.
_OVERWRITES, _ADDS = {"accumulate": False}, {"accumulate": True}


class SegmentBuilder:
    """Collects records and derives what each waits for from the buffers and operands that it reads and writes.

    Waiting is derived from data: a record waits for the last writers of what it reads (and of what it overwrites or adds to)
    and for the readers of what it overwrites, tracked for each buffer and for each resident operand. DRAM operands
    that the segment writes and reads again (spilled tiles) are tracked by byte range.
    """

    def __init__(self, name: str, operands: int) -> None:
        self.name, self.operands = name, operands
        self._buffers: list[Buffer] = []
        self._records: list[Record] = []
        self._waits: list[tuple[int, ...]] = []
        self._first: list[int] = []
        self._last: list[int] = []
        # By buffer, or by ~operand.
        self._writers: dict[int, tuple[int, ...]] = {}
        self._readers: dict[int, list[int]] = {}
        self._stored: dict[int, list[tuple[int, int, int]]] = {}    # operand → (first byte, end, record) of each store
        self._macs = 0

    def __len__(self) -> int:
        """Records so far; the last one appended is number ``len − 1``."""
        return len(self._records)

    def buffer(self, name: str, pool: str, elements: int, dtype: DType) -> int:
        """A new tile buffer; it is owned from its first record to its last."""
        self._buffers.append(Buffer(name, pool, elements, dtype))
        self._first.append(-1)
        self._last.append(-1)
        return len(self._first) - 1

    def load(self, unit: str, operand: int, ranges: Ranges, buffer: int, offset: int = 0, after: tuple[int, ...] = ()) -> int:
        """Append a Load; several loads may fill different parts of one buffer. *after*: records that decide its ranges."""
        index = len(self._records)
        readers = self._readers.pop(buffer, None)
        if readers or after or operand in self._stored:
            waits = {*self._overlapping_stores(operand, ranges), *after, *(readers or ())}
            self._waits.append(tuple(sorted(waits)))
        else:
            self._waits.append(())
        self._records.append(Load(unit, operand, ranges, buffer, offset))
        self._owned(buffer, index)
        self._writers[buffer] = (*self._writers.get(buffer, ()), index)
        return index

    def store(self, unit: str, operand: int, ranges: Ranges, source: View) -> int:
        """Append a Store of what *source* holds."""
        index, key = len(self._records), source.buffer if source.buffer >= 0 else ~source.operand
        self._waits.append(self._writers.get(key, ()))
        self._records.append(Store(unit, operand, ranges, source))
        if key >= 0:
            self._owned(key, index)
        self._readers.setdefault(key, []).append(index)
        self._stored.setdefault(operand, []).append((*_span(ranges), index))
        return index

    def compute(self, unit: str, function: str, reads: tuple[View, ...], writes: tuple[View, ...], **params: Any) -> int:
        """Append a Compute. A write that covers part of a buffer is ordered after the earlier writes of that buffer."""
        if function == "matmul":
            self._macs += _product_macs(reads[0], writes[0])
        elif function in PATCH_PRODUCTS:
            self._macs += writes[0].elements * params["patches"].elements(PATCH_PRODUCTS[function] or reads[0].shape[-1])
        return self._compute(Compute(unit, function, reads, writes, params))

    def multiply(self, unit: str, a: View, b: View, c: View, *, accumulate: bool) -> int:
        """Append the product C = A · B, or C += A · B: the short way of ``compute``."""
        self._macs += _product_macs(a, c)
        return self._compute(Compute(unit, "matmul", (a, b), (c,), _ADDS if accumulate else _OVERWRITES))

    def build(self, **notes: Any) -> Segment:
        """The finished segment."""
        return Segment(self.name, self.operands, tuple(self._buffers), tuple(self._records), tuple(self._waits),
                       tuple(self._first), tuple(self._last), self._macs, notes)

    def _compute(self, record: Compute) -> int:
        index, writers, readers = len(self._records), self._writers, self._readers
        waits: set[int] = set()
        for _, _, _, buffer, operand in record.reads:
            waits.update(writers.get(buffer if buffer >= 0 else ~operand, ()))
        for _, _, _, buffer, operand in record.writes:
            key = buffer if buffer >= 0 else ~operand
            waits.update(readers.get(key, ()), writers.get(key, ()))
        self._waits.append(tuple(sorted(waits)))
        self._records.append(record)
        for _, _, _, buffer, operand in record.reads:
            if buffer >= 0:
                self._owned(buffer, index)
            readers.setdefault(buffer if buffer >= 0 else ~operand, []).append(index)
        for _, _, _, buffer, operand in record.writes:
            if buffer >= 0:
                self._owned(buffer, index)
            key = buffer if buffer >= 0 else ~operand
            # Everything older is implied by what this record waits for: the chain stays short.
            writers[key] = (index,)
            readers.pop(key, None)
        return index

    def _owned(self, buffer: int, index: int) -> None:
        if self._first[buffer] < 0:
            self._first[buffer] = index
        self._last[buffer] = index

    def _overlapping_stores(self, operand: int, ranges: Ranges) -> set[int]:
        """Stores to the operand whose span of bytes meets that of *ranges*; windows that interlace wait without need."""
        stored = self._stored.get(operand)
        if not stored:
            return set()
        low, high = _span(ranges)
        return {record for start, end, record in stored if start < high and low < end}


def _product_macs(a: View, c: View) -> int:
    return a.elements * c.shape[-1] if len(a.shape) >= 2 else 0


def _span(ranges: Ranges) -> tuple[int, int]:
    """First byte and end of the bytes that *ranges* lie in."""
    return int(ranges[:, 0].min()), int((ranges[:, 0] + ranges[:, 1]).max())
