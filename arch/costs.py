"""What each record costs on its unit: cycles, SRAM traffic, counted actions, and what it waits for. Worked out once a segment."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..sim.program import Compute, Load, Record, Segment, Store, TileProgram, View
from .collectives import ALGORITHMS, LEAST_SENT
from .machine import MachineConfig
from .systolic import GemmCycles, SystolicConfig, gemm_accesses, gemm_cycles
from .vector import VectorConfig, lane_ops, vector_cycles

#: Cycles, their split for the arrays, MACs, SRAM bytes read and written, counted actions.
_Work: TypeAlias = tuple[int, GemmCycles | None, int, int, int, tuple[tuple[str, int], ...]]
#: The parameters of a record that its cost depends on, beside the shapes and formats of what it reads and writes: the others are
#: hidden from who works it out.
_PARAMS_THAT_COST = ("accumulate", "patches", "split", "ranks", "top_k")


class RecordCost(NamedTuple):
    """The cost of one record. *cycles* are of its unit's clock; ``gemm`` splits them for the arrays' pipeline."""

    cycles: int
    gemm: GemmCycles | None
    macs: int
    sram_read_bytes: int
    sram_write_bytes: int
    actions: tuple[tuple[str, int], ...]
    waits: tuple[tuple[int, str], ...]            # (earlier record, what to call the wait)
    operands: tuple[int, ...]
    buffers: tuple[int, ...]
    acquires: tuple[tuple[str, int], ...]         # (pool, bytes) of the buffers that begin here
    exchanged_bytes: int = 0                      # of a collective: the buffer that devices exchange
    work: int = -1                                # of computation: equal for records of one function, shapes and formats


@dataclass(frozen=True, slots=True)
class SegmentCost:
    """The costs of a segment's records, and who uses its buffers."""

    records: tuple[RecordCost, ...]
    by_unit: dict[str, tuple[int, ...]]
    buffer_users: tuple[int, ...]
    buffer_room: tuple[tuple[str, int], ...]


class SegmentCosts:
    """Costs by segment, worked out at first use; layers that share a segment share its costs."""

    def __init__(self, machine: MachineConfig, program: TileProgram) -> None:
        self._mxu_name, self._mxu = machine.only(SystolicConfig, "systolic")
        self._vpu_name, self._vpu = machine.only(VectorConfig, "vector")
        self._dtypes: dict[int, tuple[DType, ...]] = {}
        for step in program.steps:
            self._dtypes.setdefault(id(step.segment), tuple(program.tensors[t].dtype for t in step.operands))
        self._known: dict[int, SegmentCost] = {}
        self._worked: dict[Hashable, tuple[int, _Work]] = {}

    def of(self, segment: Segment) -> SegmentCost:
        """The costs of *segment*."""
        known = self._known.get(id(segment))
        if known is None:
            known = self._known[id(segment)] = self._work_out(segment)
        return known

    def _work_out(self, segment: Segment) -> SegmentCost:
        room = tuple((buffer.pool, buffer.nbytes) for buffer in segment.buffers)
        waits_for = [(index, _cause(record)) for index, record in enumerate(segment.records)]
        costs: list[RecordCost] = []
        by_unit: dict[str, list[int]] = {}
        users = [0] * len(segment.buffers)
        for index, (record, earlier) in enumerate(zip(segment.records, segment.waits, strict=True)):
            if record.unit == self._mxu_name:
                earlier = tuple(e for e in earlier if not self._ordered_by_pipeline(segment.records[e], record))
            buffers, operands = touched(record)
            waits = tuple([waits_for[e] for e in earlier])
            acquires = tuple([room[b] for b in buffers if segment.first_use[b] == index])
            if isinstance(record, Compute):
                number, work = self._work(segment, record)
                exchanged = 0
                if record.function in ALGORITHMS:
                    exchanged = max(map(partial(self._bytes, segment), (*record.reads, *record.writes)))
                costs.append(RecordCost(*work, waits, operands, buffers, acquires, exchanged, number))
            else:
                costs.append(RecordCost(0, None, 0, 0, 0, (), waits, operands, buffers, acquires))
            by_unit.setdefault(record.unit, []).append(index)
            for buffer in buffers:
                users[buffer] += 1
        return SegmentCost(tuple(costs), {unit: tuple(found) for unit, found in by_unit.items()}, tuple(users), room)

    def _work(self, segment: Segment, record: Compute) -> tuple[int, _Work]:
        """What the record does, worked out once for all records of its function, shapes and formats, and the number of that."""
        formats, dtypes = segment.buffers, self._dtypes[id(segment)]
        shapes = tuple([(view.shape, formats[view.buffer].dtype.name if view.buffer >= 0 else dtypes[view.operand].name)
                        for view in (*record.reads, *record.writes)])
        params = tuple([(name, record.params[name]) for name in _PARAMS_THAT_COST if name in record.params])
        key = record.unit, record.function, len(record.reads), shapes, params
        known = self._worked.get(key)
        if known is None:
            work_out = self._matrix if record.unit == self._mxu_name else self._vector
            known = self._worked[key] = len(self._worked), work_out(segment, record._replace(params=dict(params)))
        return known

    def _matrix(self, segment: Segment, record: Compute) -> _Work:
        """A matmul on the arrays: SRAM words as its dataflow reads and writes them, each array for itself.

        A convolution feeds its patches word by word from the image tile: no line buffer saves reads of overlapping windows. Its
        positions may be split over arrays, each part with its own copy of the weights.
        """
        a, b = record.reads[0], record.reads[1]
        c = record.writes[0]
        parts = 1
        if record.function == "conv":
            patches, parts = record.params["patches"], record.params["split"]
            m, k, n, batch = a.shape[0] * patches.positions, patches.elements(a.shape[-1]), b.shape[-1], 1
        else:
            m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
            batch = a.elements // (m * k)
        gemm = gemm_cycles(-(-m // parts), k, n, self._mxu, batch * parts)
        dtypes = self._dtype(segment, a), self._dtype(segment, b)
        widest = max(dtypes, key=lambda dtype: dtype.bits)
        if widest.name not in self._mxu.mac_energy_pj:
            raise ConfigError(f"the systolic array {self._mxu_name!r} has no {widest.name} MAC", key="dtype",
                              value=widest.name, allowed=tuple(self._mxu.mac_energy_pj))
        macs = batch * m * k * n
        words = gemm_accesses(m, k, n, rows=self._mxu.rows, cols=self._mxu.cols, dataflow=self._mxu.dataflow)
        added_to = m * n if record.params.get("accumulate") else 0
        read_bytes = batch * (dtypes[0].bytes_for(words.input_reads) + dtypes[1].bytes_for(parts * words.weight_reads)
                              + self._dtype(segment, c).bytes_for(words.output_reads + added_to))
        write_bytes = batch * self._dtype(segment, c).bytes_for(words.output_writes)
        return (gemm.total, gemm, macs, read_bytes, write_bytes, ((f"mac.{widest.name}", macs),))

    def _vector(self, segment: Segment, record: Compute) -> _Work:
        cycles = vector_cycles(record.function, record.reads, record.params, self._vpu)
        ops = lane_ops(record.function, record.reads, record.params, self._vpu)
        read_bytes = sum(self._bytes(segment, view) for view in record.reads)
        write_bytes = sum(self._bytes(segment, view) for view in record.writes)
        if record.function in ALGORITHMS:           # what it sends it reads, what it gets it writes, what it adds to it reads too
            ranks, nbytes = record.params["ranks"], max(read_bytes, write_bytes)
            sent = math.ceil(LEAST_SENT[record.function](ranks) * nbytes)
            added = 0 if record.function == "allgather" else nbytes * (ranks - 1) // ranks
            return cycles if ops else 0, None, 0, sent + added, sent, (("op", ops),)
        if record.function in ("matmul", "depthwise"):
            if record.params.get("accumulate"):
                read_bytes += self._bytes(segment, record.writes[0])
            return cycles, None, ops, read_bytes, write_bytes, (("mac", ops),)
        return cycles, None, 0, read_bytes, write_bytes, (("op", ops),)

    def _ordered_by_pipeline(self, earlier: Record, record: Record) -> bool:
        """Whether the arrays' own order makes *record* safe behind *earlier*.

        Results leave the arrays in the order in which activations entered, so a product that only adds to (or overwrites)
        what an earlier one wrote meets it in order at the accumulators; only reading a result as an operand must wait.
        """
        if earlier.unit != self._mxu_name or record.unit != self._mxu_name:
            return False
        assert isinstance(earlier, Compute)
        assert isinstance(record, Compute)
        read = {(view.buffer, view.operand) for view in record.reads}
        return not any((view.buffer, view.operand) in read for view in earlier.writes)

    def _dtype(self, segment: Segment, view: View) -> DType:
        if view.buffer >= 0:
            return segment.buffers[view.buffer].dtype
        return self._dtypes[id(segment)][view.operand]

    def _bytes(self, segment: Segment, view: View) -> int:
        return self._dtype(segment, view).bytes_for(view.elements)


def _cause(earlier: Record) -> str:
    """What to call the wait for *earlier*."""
    if isinstance(earlier, Load):
        return "memory"
    return "store" if isinstance(earlier, Store) else earlier.unit


def touched(record: Record) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The buffers and the operands of its step that *record* reads or writes, each once."""
    if isinstance(record, Load):
        return (record.buffer,), (record.operand,)
    views = (record.source,) if isinstance(record, Store) else (*record.reads, *record.writes)
    buffers = tuple(dict.fromkeys(view.buffer for view in views if view.buffer >= 0))
    operands = tuple(dict.fromkeys([view.operand for view in views if view.operand >= 0]
                                   + ([record.operand] if isinstance(record, Store) else [])))
    return buffers, operands
