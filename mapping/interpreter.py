"""The functional interpreter: executes the records that timing uses, and finds out whether a mapping is right.

Buffers and DRAM are poisoned (NaN) until written and after their last use; every load and store moves exactly the bytes of its
ranges through the memory's address map; a record that reads poison is a fault. Records run in program order or in any order
that is asked for (the order in which a simulation ended them, a random one that only ``waits`` and ``after`` restrain).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..sim.dtypes import DType
from ..sim.program import Compute, Load, Record, Segment, Step, Store, TensorPlace, TileProgram, View
from .capacity import broken_capacity_laws
from .dram_image import BurstPlaces, DramImage, MappingFault, identity_places
from .functions import FUNCTIONS, READS_PACKED, Array
from .storage import storage_unit

#: (step, record) in the order of execution.
Order = Iterable[tuple[int, int]]
ScalarT = TypeVar("ScalarT", bound=np.generic)


def interpret(
    program: TileProgram, values: Mapping[str, npt.ArrayLike], *, order: Order | None = None,
    places: BurstPlaces = identity_places, burst_bytes: int = 64, sram_bytes: int | None = None,
) -> dict[str, Array]:
    """Run *program* on *values* (weights, cached rows, inputs by name) and give every tensor's values at the end.

    Raises :class:`MappingFault` for a program that is not right: see the module's text. *places*: where bursts live.
    """
    if sram_bytes is not None and (broken := broken_capacity_laws(program, sram_bytes)):
        raise MappingFault("; ".join(broken))
    run = DeviceRun(program, places, burst_bytes)
    run.fill(values)
    for step, record in program_order(program) if order is None else order:
        run.execute(step, record)
    return run.finish()


def program_order(program: TileProgram) -> Iterable[tuple[int, int]]:
    """Every record, step by step."""
    return ((step, record) for step, one in enumerate(program.steps) for record in range(len(one.segment.records)))


def random_order(program: TileProgram, seed: int) -> list[tuple[int, int]]:
    """A random order of all records in which each comes after those it waits for, and after nothing else on purpose."""
    generator = np.random.default_rng(seed)
    blockers, blocked = _dependencies(program)
    ready = [node for node, count in blockers.items() if not count]
    order = []
    while ready:
        pick = int(generator.integers(len(ready)))
        ready[pick], ready[-1] = ready[-1], ready[pick]
        node = ready.pop()
        order.append(node)
        for later in blocked.get(node, ()):
            blockers[later] -= 1
            if not blockers[later]:
                ready.append(later)
    if len(order) != len(blockers):
        raise MappingFault("records wait for each other in a circle")
    return order


def _dependencies(program: TileProgram) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], list[tuple[int, int]]]]:
    """How many records each one waits for, and who waits for it."""
    blockers: dict[tuple[int, int], int] = {}
    blocked: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for index, step in enumerate(program.steps):
        for number, record in enumerate(step.segment.records):
            earlier = {(index, other) for other in step.segment.waits[number]}
            for operand in operands_of(record):
                for producer in step.after[operand]:
                    earlier |= {(producer, other) for other in range(len(program.steps[producer].segment.records))}
            blockers[index, number] = len(earlier)
            for one in earlier:
                blocked.setdefault(one, []).append((index, number))
    return blockers, blocked


def views_of(record: Record) -> tuple[View, ...]:
    """The views that a record reads or writes on chip."""
    if isinstance(record, Load):
        return ()
    return (record.source,) if isinstance(record, Store) else (*record.reads, *record.writes)


def operands_of(record: Record) -> set[int]:
    """The operands that a record touches."""
    touched = {view.operand for view in views_of(record) if view.operand >= 0}
    return touched if isinstance(record, Compute) else touched | {record.operand}


def buffers_of(record: Record) -> set[int]:
    """The buffers that a record touches."""
    touched = {view.buffer for view in views_of(record) if view.buffer >= 0}
    return touched | {record.buffer} if isinstance(record, Load) else touched


class DeviceRun:
    """One device: its memory, its buffers, and how far its program is."""

    def __init__(self, program: TileProgram, places: BurstPlaces, burst_bytes: int) -> None:
        self.program = program
        self.image = DramImage([tensor for tensor in program.tensors if not tensor.resident], places, burst_bytes)
        self.residents = {index: np.full(tensor.elements, np.nan)
                          for index, tensor in enumerate(program.tensors) if tensor.resident}
        self.writes = [np.zeros(_storage_elements(tensor), dtype=np.int64) for tensor in program.tensors]
        self.buffers: dict[tuple[int, int], Array] = {}
        self.buffer_users = [_buffer_users(step.segment) for step in program.steps]
        self.left = [len(step.segment.records) for step in program.steps]
        self.done: set[tuple[int, int]] = set()
        self.exchanged: Array | None = None         # what the collective that runs next gives this device

    # -- before and after

    def fill(self, values: Mapping[str, npt.ArrayLike]) -> None:
        """Put the run's given tensors into DRAM, in their storage order."""
        for tensor in self.program.tensors:
            if tensor.name in values:
                logical = np.asarray(values[tensor.name], dtype=np.float64).ravel()
                stored = logical if tensor.order is None else logical[tensor.order()]
                padded = np.full(_storage_elements(tensor), np.nan)
                padded[:tensor.elements] = stored
                self.image.write(tensor, np.array([[0, tensor.nbytes]]), padded)

    def finish(self) -> dict[str, Array]:
        """All tensors' values; a fault when a record never ran or an element was not written exactly once."""
        if any(self.left):
            raise MappingFault(f"{sum(self.left)} records never ran")
        written = {step.operands[operand] for step in self.program.steps for operand in _written(step.segment)}
        found: dict[str, Array] = {}
        for index, tensor in enumerate(self.program.tensors):
            counts = self.writes[index][:tensor.elements]
            if (counts > 1).any():
                raise MappingFault(f"{tensor.name}: an element was written {counts.max()} times")
            if tensor.role in ("activation", "output") and index in written and (counts != 1).any():
                raise MappingFault(f"{tensor.name}: {int((counts == 0).sum())} elements were never written")
            found[tensor.name] = self._logical(index, tensor)
        return found

    def _logical(self, index: int, tensor: TensorPlace) -> Array:
        if tensor.resident:
            return self.residents[index].reshape(tensor.shape)
        stored = self.image.read(tensor, np.array([[0, tensor.nbytes]]))[:tensor.elements]
        if tensor.order is None:
            return stored.reshape(tensor.shape)
        logical = np.empty(tensor.elements)
        logical[tensor.order()] = stored
        return logical.reshape(tensor.shape)

    # -- records

    def execute(self, index: int, number: int) -> None:
        """Run one record; a fault when what it waits for has not ended."""
        step = self.program.steps[index]
        record = step.segment.records[number]
        self._check_waits(index, number, step, record)
        self._allocate(index, step.segment, record)
        if isinstance(record, Load):
            self._load(index, step, record)
        elif isinstance(record, Store):
            self._store(index, step, record)
        else:
            self._compute(index, number, step, record)
        self._release(index, record)
        self.done.add((index, number))
        self.left[index] -= 1

    def _check_waits(self, index: int, number: int, step: Step, record: Record) -> None:
        if (index, number) in self.done:
            raise MappingFault(f"{step.operator}: record {number} runs twice")
        missing = [other for other in step.segment.waits[number] if (index, other) not in self.done]
        missing_steps = [producer for operand in operands_of(record) for producer in step.after[operand] if self.left[producer]]
        if missing or missing_steps:
            raise MappingFault(f"{step.operator}: record {number} ran before records {missing} and steps {missing_steps}")

    def _allocate(self, index: int, segment: Segment, record: Record) -> None:
        for buffer in buffers_of(record):
            if (index, buffer) not in self.buffers:
                if not self.buffer_users[index][buffer]:
                    raise MappingFault(f"{segment.name}: buffer {buffer} is used after its last record")
                self.buffers[index, buffer] = np.full(segment.buffers[buffer].elements, np.nan)

    def _release(self, index: int, record: Record) -> None:
        for buffer in buffers_of(record):
            self.buffer_users[index][buffer] -= 1
            if not self.buffer_users[index][buffer]:
                del self.buffers[index, buffer]

    def _load(self, index: int, step: Step, record: Load) -> None:
        number = step.operands[record.operand]
        tensor, buffer = self.program.tensors[number], step.segment.buffers[record.buffer]
        if tensor.resident or tensor.dtype != buffer.dtype:
            raise MappingFault(f"{step.operator}: a {buffer.dtype.name} tile is loaded from {tensor.name}, {tensor.dtype.name}")
        values = self.image.read(tensor, record.ranges)
        self._refuse_poison(step, f"load of {tensor.name}", values)
        target = self.buffers[index, record.buffer][record.offset:record.offset + values.size]
        if target.size != values.size:
            raise MappingFault(f"{step.operator}: a load of {tensor.name} overruns its buffer")
        target[:] = values

    def _store(self, index: int, step: Step, record: Store) -> None:
        number = step.operands[record.operand]
        tensor, dtype = self.program.tensors[number], self._dtype(step, record.source)
        if tensor.resident or tensor.dtype != dtype:
            raise MappingFault(f"{step.operator}: {dtype.name} elements are stored to {tensor.name}, {tensor.dtype.name}")
        values = np.array(self._window(index, step, record.source))
        self._refuse_poison(step, f"store to {tensor.name}", values)
        self.image.write(tensor, record.ranges, values)
        unit_elements, _ = storage_unit(tensor.dtype)
        units = self.image.units(tensor, record.ranges)
        np.add.at(self.writes[number], (units[:, None] * unit_elements + np.arange(unit_elements)).ravel(), 1)

    def _compute(self, index: int, number: int, step: Step, record: Compute) -> None:
        function = self._received if "ranks" in record.params else FUNCTIONS.get(record.function)
        if function is None:
            raise MappingFault(f"{step.operator}: no function {record.function!r}")
        self._check_formats(step, record)
        reads = [np.array(self._window(index, step, view)) for view in record.reads]
        targets = [self._window(index, step, view) for view in record.writes]
        for values in [*reads, *(targets if record.params.get("accumulate") else [])]:
            self._refuse_poison(step, f"{record.function}, record {number}", values)
        results = function(reads, [np.array(target) for target in targets], record.params)
        for target, view, result in zip(targets, record.writes, results, strict=True):
            if target.shape != result.shape:
                raise MappingFault(f"{step.operator}: {record.function} gives {result.shape} where {target.shape} is written")
            target[...] = result
            if view.operand >= 0:
                np.add(counts := strided(self.writes[step.operands[view.operand]], view), 1, out=counts)

    def _received(self, reads: Sequence[Array], before: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
        if self.exchanged is None:
            raise MappingFault("one device alone exchanges with others")
        got, self.exchanged = self.exchanged, None
        return (got,)

    # -- views

    def read(self, index: int, view: View) -> Array:
        """A copy of the elements of *view* in step *index*."""
        return np.array(self._window(index, self.program.steps[index], view))

    def _window(self, index: int, step: Step, view: View) -> Array:
        if view.buffer >= 0:
            return strided(self.buffers[index, view.buffer], view)
        number = step.operands[view.operand]
        if number not in self.residents:
            raise MappingFault(f"{step.operator}: {self.program.tensors[number].name} is not resident")
        return strided(self.residents[number], view)

    def _dtype(self, step: Step, view: View) -> DType:
        if view.buffer >= 0:
            return step.segment.buffers[view.buffer].dtype
        return self.program.tensors[step.operands[view.operand]].dtype

    def _check_formats(self, step: Step, record: Compute) -> None:
        formats = [dtype for dtype in (self._dtype(step, view) for view in record.reads) if dtype.base not in self.program.widens]
        if record.function not in READS_PACKED and any(dtype.group for dtype in formats):
            raise MappingFault(f"{step.operator}: {record.function} reads packed elements")
        if record.function == "matmul" and len(formats) > 1 and formats[0].bits > formats[1].bits:
            raise MappingFault(f"{step.operator}: a product of {formats[0].name} and {formats[1].name}")

    @staticmethod
    def _refuse_poison(step: Step, what: str, values: Array) -> None:
        if np.isnan(values).any():
            raise MappingFault(f"{step.operator}: {what} reads {int(np.isnan(values).sum())} elements that nobody wrote")


def strided(flat: npt.NDArray[ScalarT], view: View) -> npt.NDArray[ScalarT]:
    """The window of *view* on the flat array of its buffer or operand."""
    last = view.offset + sum((extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True))
    if view.offset < 0 or last >= flat.size:
        raise MappingFault(f"a view reaches element {last} of {flat.size}")
    strides = tuple(stride * flat.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(flat[view.offset:], view.shape, strides)


def _storage_elements(tensor: TensorPlace) -> int:
    unit_elements, unit_bytes = storage_unit(tensor.dtype)
    return tensor.elements if tensor.resident else tensor.nbytes // unit_bytes * unit_elements


def _buffer_users(segment: Segment) -> list[int]:
    users = [0] * len(segment.buffers)
    for record in segment.records:
        for buffer in buffers_of(record):
            users[buffer] += 1
    return users


def _written(segment: Segment) -> set[int]:
    """Operands that the segment writes."""
    stored = {record.operand for record in segment.records if isinstance(record, Store)}
    return stored | {view.operand for record in segment.records if isinstance(record, Compute)
                     for view in record.writes if view.operand >= 0}


def run_checked(program: TileProgram, values: Mapping[str, npt.ArrayLike], seeds: Sequence[int]) -> dict[str, Array]:
    """Interpret in program order and in random orders; a fault when any order gives other values."""
    expected = interpret(program, values)
    for seed in seeds:
        found = interpret(program, values, order=random_order(program, seed))
        for name, array in expected.items():
            if not np.array_equal(array, found[name], equal_nan=True):
                raise MappingFault(f"{name} depends on the order of records that do not wait for each other")
    return expected
