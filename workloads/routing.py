"""A layer of experts as plain operators, under a routing that is stated: rows dealt round to the experts that take part.

Which experts a row takes depends on data that a workload does not have. ASSUMED (a trace of routes would overturn it): of the
experts as many take part as the mean draw touches (``Experts.active_experts``), and choice j of row r is expert
``(r · top_k + j) mod active``, so their shares of the rows differ by one at most. The rows of an expert lie together, expert by
expert; experts with as many rows are one batched product. Weights of the others stay in memory and are not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .experts import MIX_FLOPS, SCORE_FLOPS, Experts
from .graph import GraphBuilder, OperatorGraph, program_order
from .operators import Gemm, Operator
from .tensors import Tensor
from .vector import Elementwise


@dataclass(frozen=True, slots=True)
class Routing:
    """*rows* rows that each take *top_k* of *active* experts."""

    rows: int
    top_k: int
    active: int

    def __post_init__(self) -> None:
        assert self.top_k <= self.active <= self.rows * self.top_k, "every active expert has a row, and a row's experts differ"

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(experts, rows of each): those with a row more first."""
        each, more = divmod(self.rows * self.top_k, self.active)
        return tuple((experts, rows) for experts, rows in ((more, each + 1), (self.active - more, each)) if experts)

    @property
    def period(self) -> int:
        """Rows after which the experts repeat."""
        return self.active // math.gcd(self.active, self.top_k)

    @property
    def places_a_period(self) -> int:
        """Places by which an expert's rows go on from one period to the next."""
        return self.period * self.top_k // self.active

    def expert(self, row: int, choice: int) -> int:
        return (row * self.top_k + choice) % self.active

    def place(self, row: int, choice: int) -> tuple[int, int]:
        """(group, row of the group's tensor) where the choice of a row lies."""
        expert, index = self.expert(row, choice), (row * self.top_k + choice) // self.active
        first, rows = self.groups[0]
        if expert < first:
            return 0, expert * rows + index
        return 1, (expert - first) * self.groups[1][1] + index


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed(Operator):
    """An operator on the rows of a layer of experts, as :class:`Routing` deals them round."""

    rows: int
    hidden: int
    active: int
    top_k: int

    @property
    def routing(self) -> Routing:
        return Routing(self.rows, self.top_k, self.active)

    @property
    def grouped_elements(self) -> tuple[int, ...]:
        """Elements of each group's tensor ``[experts, rows of each, hidden]``."""
        return tuple(experts * rows * self.hidden for experts, rows in self.routing.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch(Routed):
    """Choose the experts of each row, and lay the rows out expert by expert.

    inputs: x ``[rows, hidden]``, router scores ``[rows, experts]``, and the weights of experts that no row takes, which are not
    read. outputs: softmax over the chosen scores ``[rows, top_k]``, and for each group of ``Routing.groups`` its rows ``[experts,
    rows of each, hidden]``.
    """

    kind = "dispatch"

    experts: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        idle = tuple(tensor.elements for tensor in self.inputs[2:])
        return (self.rows * self.hidden, self.rows * self.experts, *idle), (self.rows * self.top_k, *self.grouped_elements)

    @property
    def vector_flops(self) -> int:
        return self.rows * self.experts * (SCORE_FLOPS + self.top_k)

    def touched_elements(self, tensor: Tensor) -> int:
        return 0 if tensor in self.inputs[2:] else tensor.elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine(Routed):
    """y[row] = Σ over its choices j of share[row, j] · the expert's result for the row.

    inputs: shares ``[rows, top_k]``, and the groups' results as :class:`Dispatch` laid them out; output ``[rows, hidden]``.
    """

    kind = "combine"

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rows * self.top_k, *self.grouped_elements), (self.rows * self.hidden,)

    @property
    def vector_flops(self) -> int:
        return MIX_FLOPS * self.rows * self.top_k * self.hidden


def spread_experts(graph: OperatorGraph) -> OperatorGraph:
    """*graph* with each layer of experts as a dispatch, products of the groups, and a sum; a graph without experts as it is."""
    if not any(isinstance(op, Experts) for op in program_order(graph)):
        return graph
    builder = GraphBuilder(str(graph.graph.get("name", "")))
    for op in program_order(graph):
        if isinstance(op, Experts):
            _spread(op, builder)
        else:
            builder.add(op)
    return builder.graph


def has_experts(graph: OperatorGraph) -> bool:
    """Whether *graph* was spread by :func:`spread_experts`."""
    return any(isinstance(op, Dispatch) for op in program_order(graph))


def _spread(op: Experts, builder: GraphBuilder) -> None:
    x, scores, *weights = op.inputs
    routing = Routing(op.rows, op.top_k, op.active_experts)
    idle = op.experts - routing.active
    unread = tuple(replace(w, name=f"{w.name}.idle", shape=(idle, *w.shape[1:])) for w in weights) if idle else ()
    shares = Tensor(f"{op.name}.shares", (op.rows, op.top_k), x.dtype, "activation")
    grouped = tuple(Tensor(f"{op.name}.{g}.rows", (experts, rows, op.hidden), x.dtype, "activation")
                    for g, (experts, rows) in enumerate(routing.groups))
    builder.add(Dispatch(name=f"{op.name}.dispatch", inputs=(x, scores, *unread), outputs=(shares, *grouped), layer=op.layer,
                         group=op.group, rows=op.rows, hidden=op.hidden, experts=op.experts, active=routing.active, top_k=op.top_k))
    results = tuple(_group(op, builder, g, rows, tuple(weights), f"{op.name}.{g}" if len(grouped) > 1 else op.name)
                    for g, rows in enumerate(grouped))
    builder.add(Combine(name=f"{op.name}.combine", inputs=(shares, *results), outputs=op.outputs, layer=op.layer, group=op.group,
                        rows=op.rows, hidden=op.hidden, active=routing.active, top_k=op.top_k))


def _group(op: Experts, builder: GraphBuilder, number: int, rows: Tensor, weights: tuple[Tensor, ...], at: str) -> Tensor:
    """The experts of one group on their rows: gate, up, activation, down, each one batched product."""
    experts, each, _ = rows.shape
    gate_weight, up_weight, down_weight = (replace(w, name=f"{w.name}.{number}", shape=(experts, *w.shape[1:])) for w in weights)

    def product(what: str, a: Tensor, weight: Tensor) -> Tensor:
        k, n = weight.shape[1:]
        out = Tensor(f"{at}.{what}.out", (experts, each, n), rows.dtype, "activation")
        builder.add(Gemm(name=f"{at}.{what}", inputs=(a, weight), outputs=(out,), layer=op.layer, group=op.group, batch=experts,
                         m=each, n=n, k=k))
        return out

    gate, up = product("gate", rows, gate_weight), product("up", rows, up_weight)
    inner = Tensor(f"{at}.activation.out", gate.shape, rows.dtype, "activation")
    builder.add(Elementwise(name=f"{at}.activation", inputs=(gate, up), outputs=(inner,), layer=op.layer, group=op.group,
                            function=op.function, rows=experts * each, cols=op.intermediate))
    return product("down", inner, down_weight)
