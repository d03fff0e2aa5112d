"""The operator graph: a networkx DiGraph whose nodes are operator names (attribute ``op``), in program order.

An edge says that one operator reads what another wrote; its attribute ``tensors`` holds those tensors. Weights and inputs
have no producer. Nodes stand in the order of the program, which is a topological order by construction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx

from ..sim.errors import ConfigError
from .operators import KvAppend, Operator
from .tensors import Role, Tensor

OperatorGraph: TypeAlias = "nx.DiGraph[str]"


class GraphBuilder:
    """Adds operators in program order and draws the edges from producers to consumers."""

    def __init__(self, name: str = "") -> None:
        self.graph: OperatorGraph = nx.DiGraph(name=name)
        self._producer: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}

    def add(self, op: Operator) -> None:
        """Append *op*; what it reads must have been written before, and what it writes must be new."""
        if op.name in self.graph:
            raise ConfigError(f"operator {op.name} stands twice in the graph", key=op.name)
        read: dict[str, list[Tensor]] = {}
        for tensor in dict.fromkeys(op.inputs):
            self._know(op, tensor)
            if tensor.name in self._producer:
                read.setdefault(self._producer[tensor.name], []).append(tensor)
            elif tensor.role in ("activation", "output"):
                raise ConfigError(f"operator {op.name} reads {tensor.name} before any operator wrote it", key=op.name)
        self.graph.add_node(op.name, op=op)
        for producer, tensors in read.items():
            self.graph.add_edge(producer, op.name, tensors=tuple(tensors))
        for tensor in op.outputs:
            self._know(op, tensor)
            if tensor.name in self._producer:
                raise ConfigError(f"operator {op.name} writes {tensor.name}, which {self._producer[tensor.name]} wrote",
                                  key=op.name)
            self._producer[tensor.name] = op.name

    def _know(self, op: Operator, tensor: Tensor) -> None:
        known = self._tensors.setdefault(tensor.name, tensor)
        if known != tensor:
            raise ConfigError(f"operator {op.name} has tensor {tensor.name} as {tensor}; elsewhere it is {known}",
                              key=op.name)


def program_order(graph: OperatorGraph) -> Iterator[Operator]:
    """The operators in program order."""
    for _, op in graph.nodes(data="op"):
        assert isinstance(op, Operator)
        yield op


def tensors_of(graph: OperatorGraph) -> dict[str, Tensor]:
    """Every tensor of the graph by name, in order of first use; a shared one (tied embeddings) once."""
    return {tensor.name: tensor for op in program_order(graph) for tensor in (*op.inputs, *op.outputs)}


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over a graph.

    ``parameters``, ``weight_bytes``, ``kv_bytes``: what must be stored, shared tensors once. ``operator_bytes``: the sum of
    the operators' compulsory bytes, by role. ``external_read_bytes`` / ``external_written_bytes``: what a machine that keeps
    all activations on chip must still move, by role: each weight once, the cached KV but not the rows that this run writes.
    """

    operators: int
    macs: int
    flops: int
    parameters: int
    weight_bytes: int
    kv_bytes: int
    operator_bytes: dict[Role, int]
    external_read_bytes: dict[Role, int]
    external_written_bytes: dict[Role, int]


def totals(graph: OperatorGraph) -> Totals:
    """The counts of *graph*."""
    ops, known = list(program_order(graph)), tensors_of(graph).values()
    weights = [tensor for tensor in known if tensor.role == "weight"]
    operator_bytes: Counter[Role] = Counter()
    for op in ops:
        operator_bytes.update(op.compulsory_bytes)
    return Totals(
        operators=len(ops),
        macs=sum(op.macs for op in ops),
        flops=sum(op.flops for op in ops),
        parameters=sum(tensor.elements for tensor in weights),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        kv_bytes=sum(tensor.nbytes for tensor in known if tensor.role == "kv"),
        operator_bytes=dict(operator_bytes),
        external_read_bytes=_external_read_bytes(ops),
        external_written_bytes=_external_written_bytes(ops),
    )


def _external_read_bytes(ops: list[Operator]) -> dict[Role, int]:
    appended = {tensor.name: op.new_elements for op in ops if isinstance(op, KvAppend) for tensor in op.outputs}
    widest: dict[Tensor, int] = {}
    for op in ops:
        for tensor in op.inputs:
            if tensor.role != "activation":
                elements = op.touched_elements(tensor) - appended.get(tensor.name, 0)
                widest[tensor] = max(widest.get(tensor, 0), elements)
    return _bytes_by_role(widest)


def _external_written_bytes(ops: list[Operator]) -> dict[Role, int]:
    return _bytes_by_role({t: op.touched_elements(t) for op in ops for t in op.outputs if t.role != "activation"})


def _bytes_by_role(elements: dict[Tensor, int]) -> dict[Role, int]:
    total: Counter[Role] = Counter()
    for tensor, count in elements.items():
        total[tensor.role] += tensor.dtype.bytes_for(count)
    return dict(total)
