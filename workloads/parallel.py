"""Tensor parallelism as a graph transform: what one of several devices does of a model, and what they exchange.

After Shoeybi et al., Megatron-LM, 2019 (arXiv:1909.08053, §3): a product of a whole input is divided by columns and leaves its
output divided; a product of a divided input is divided along its reduction, and an all-reduce makes its output whole; attention,
caches, rotations and pointwise functions between work on their own heads and columns. Embeddings, norms, residual sums and the
routers of experts are done by every device; of each expert a device has a part, as of any MLP. A divided output of the run is
gathered. Every device does the same work, so one graph stands for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..sim.errors import ConfigError
from .collective import Collective, Exchange
from .graph import GraphBuilder, OperatorGraph, program_order
from .operators import Attention, Gemm, KvAppend, Operator
from .routing import Combine, Dispatch
from .tensors import Tensor
from .vector import Elementwise, Norm, Rope


@dataclass(frozen=True, slots=True)
class Shard:
    """What a device's tensor is of the model's: a slice along *axis*, the last one padded, or the whole divided by the number of
    devices (a bias that every device adds before the sum)."""

    whole: Tensor
    axis: int | None


@dataclass(slots=True)
class Sharded:
    """One device's graph; ``shards``: its weights, caches and inputs that are not the model's own, by name."""

    graph: OperatorGraph
    shards: dict[str, Shard] = field(default_factory=dict)


def shard(graph: OperatorGraph, ranks: int) -> Sharded:
    """What each of *ranks* devices runs of *graph*; a ConfigError that names the operator that cannot be divided, and says how many
    devices can share all of them."""
    try:
        return _shard(graph, ranks)
    except _UnevenError as error:
        choices = tuple(str(n) for n in range(2, _MOST_OFFERED + 1) if _divides(graph, n))
        raise ConfigError(error.message, key="--tp", allowed=choices, mend=None if choices else "leave --tp out") from None


class _UnevenError(ConfigError):
    """A size that the devices do not divide."""


#: Numbers of devices that an error offers.
_MOST_OFFERED = 64


def _divides(graph: OperatorGraph, ranks: int) -> bool:
    try:
        _shard(graph, ranks)
    except ConfigError:
        return False
    return True


def _shard(graph: OperatorGraph, ranks: int) -> Sharded:
    if ranks < 1:
        raise ConfigError(f"{ranks} devices; one or more are wanted", key="--tp", value=ranks)
    if ranks == 1:
        return Sharded(graph)
    sharder = _Sharder(str(graph.graph.get("name", "")), ranks)
    sharder.summed_later = {tensor.name for op in program_order(graph) if isinstance(op, Combine) for tensor in op.inputs[1:]}
    for op in program_order(graph):
        sharder.add(op)
    if not sharder.divides:
        raise ConfigError(f"nothing of {graph.graph.get('name', 'this graph')} is divided among devices: it has no matrix product "
                          "and no attention", key="--tp", value=ranks, mend="leave --tp out")
    return Sharded(sharder.builder.graph, sharder.shards)


class _Sharder:
    def __init__(self, name: str, ranks: int) -> None:
        self.ranks = ranks
        self.builder = GraphBuilder(name)
        self.shards: dict[str, Shard] = {}
        self.parts: dict[str, Tensor] = {}          # tensor of the model that is divided → the device's part
        self.whole: set[str] = set()                # tensors that some operator reads whole
        self.summed_later: set[str] = set()         # results of experts: the rows' sums over them are fewer to exchange
        self.divides = False

    def add(self, op: Operator) -> None:
        """Append the device's part of *op*, and the exchange that its results need."""
        has_part = any(tensor.name in self.parts for tensor in op.inputs)
        rule = _RULES.get(type(op))
        if rule is not None and (has_part or isinstance(op, Gemm | Attention | Dispatch | Combine)):
            self.divides = True
            rule(self, op)
        elif has_part:
            raise ConfigError(f"{op.name} ({op.kind}) cannot work on a part of its input", key="--tp", value=self.ranks,
                              mend="leave --tp out")
        elif rule is None and op.macs:
            raise ConfigError(f"{op.name} ({op.kind}) is not divided over devices: each would do all of it", key="--tp",
                              value=self.ranks, mend="leave --tp out")
        else:
            self.whole |= {tensor.name for tensor in op.inputs}
            self.builder.add(op)

    def gemm(self, op: Operator) -> None:
        """By columns where the input is whole, along the reduction where it is divided."""
        assert isinstance(op, Gemm)
        a, b, *bias = op.inputs
        if op.group == "router":                    # small, and every device deals all rows to the experts of which it has a part
            self.whole |= {tensor.name for tensor in op.inputs}
            self.builder.add(op)
            return
        if b.name in self.parts:
            raise ConfigError(f"{op.name}: the second operand of a product is divided", key="--tp", value=self.ranks)
        rows_axis = -1 if op.weight_transposed else -2              # of B's [k, n], stored [n, k] when transposed
        if a.name in self.parts:
            self._check(op, "k", op.k)
            parts = (self.parts[a.name], self.part(b, rows_axis), *(self.part(t, None) for t in bias))
            own = replace(op, inputs=parts, outputs=(self.summand(op.outputs[0]),), k=op.k // self.ranks)
            if op.outputs[0].name in self.summed_later:
                self.builder.add(own)
            else:
                self.reduced(op, own)
            return
        if op.outputs[0].role != "output":          # what leaves the run is padded: a vocabulary need not divide (Megatron-LM, §3)
            self._check(op, "n", op.n)
        self.whole.add(a.name)
        parts = (a, self.part(b, -3 - rows_axis), *(self.part(t, -1) for t in bias))
        self.divided(op, replace(op, inputs=parts, outputs=(self.result(op.outputs[0]),), n=-(-op.n // self.ranks)))

    def attention(self, op: Operator) -> None:
        """Each device its own heads, queries' and keys'."""
        assert isinstance(op, Attention)
        self._check(op, "KV heads", op.kv_heads)
        q, *cached = op.inputs
        inputs = (self.part(q, -1), *(self.part(tensor, 1) for tensor in cached))
        self.divided(op, replace(op, inputs=inputs, outputs=(self.result(op.outputs[0]),), heads=op.heads // self.ranks,
                                 kv_heads=op.kv_heads // self.ranks))

    def kv_append(self, op: Operator) -> None:
        assert isinstance(op, KvAppend)
        self._check(op, "KV heads", op.kv_heads)
        self.builder.add(replace(op, inputs=self._inputs(op), outputs=tuple(self.part(t, 1) for t in op.outputs),
                                 kv_heads=op.kv_heads // self.ranks))

    def rope(self, op: Operator) -> None:
        assert isinstance(op, Rope)
        self._check(op, "heads", op.heads)
        self.divided(op, replace(op, inputs=self._inputs(op), outputs=(self.result(op.outputs[0]),), heads=op.heads // self.ranks))

    def norm(self, op: Operator) -> None:
        """Norms of heads: a device has fewer of them. A norm over all columns needs them all."""
        assert isinstance(op, Norm)
        x, *weights = op.inputs
        if (x.shape[-1] // self.ranks) % op.cols:
            raise ConfigError(f"{op.name} cannot work on a part of its columns", key="--tp", value=self.ranks)
        self.divided(op, replace(op, inputs=(self.parts[x.name], *weights), outputs=(self.result(op.outputs[0]),),
                                 rows=op.rows // self.ranks))

    def elementwise(self, op: Operator) -> None:
        assert isinstance(op, Elementwise)
        self.divided(op, replace(op, inputs=self._inputs(op), outputs=(self.result(op.outputs[0]),), cols=op.cols // self.ranks))

    def dispatch(self, op: Operator) -> None:
        """Every device lays all rows out; of the experts that none takes it has a part, as of the others."""
        assert isinstance(op, Dispatch)
        self.whole |= {tensor.name for tensor in op.inputs[:2]}
        unread = tuple(self.part(tensor, axis) for tensor, axis in zip(op.inputs[2:], (-1, -1, -2), strict=False))
        self.builder.add(replace(op, inputs=(*op.inputs[:2], *unread)))

    def combine(self, op: Operator) -> None:
        """Each device sums its summands of a row's experts; the sum is what they exchange."""
        assert isinstance(op, Combine)
        summands = (self.summand(tensor) for tensor in op.inputs[1:])
        self.reduced(op, replace(op, inputs=(op.inputs[0], *summands), outputs=(self.summand(op.outputs[0]),)))

    # -- tensors

    def part(self, tensor: Tensor, axis: int | None) -> Tensor:
        """The device's part of *tensor* along *axis*; with None, all of it at a *ranks*-th of its value."""
        known = self.parts.get(tensor.name)
        if known is not None:
            return known
        name = f"{tensor.name}.part" if tensor.name in self.whole else tensor.name     # a table that is also read whole
        shape = list(tensor.shape)
        if axis is not None:
            shape[axis] = -(-shape[axis] // self.ranks)
            if tensor.dtype.group and shape[-1] % tensor.dtype.group and axis in (-1, len(shape) - 1):
                raise ConfigError(f"{tensor.name}: groups of {tensor.dtype.group} do not divide its part of {shape[axis]}",
                                  key="--tp", value=self.ranks)
        found = Tensor(name, tuple(shape), tensor.dtype, tensor.role)
        self.shards[name] = Shard(tensor, axis)
        if tensor.name not in self.whole:
            self.parts[tensor.name] = found
        return found

    def result(self, tensor: Tensor) -> Tensor:
        """The device's columns of a result; one that leaves the run is gathered first."""
        shape = (*tensor.shape[:-1], -(-tensor.shape[-1] // self.ranks))
        name = tensor.name if tensor.role != "output" else f"{tensor.name}.part"
        self.parts[tensor.name] = Tensor(name, shape, tensor.dtype, "activation")
        return self.parts[tensor.name]

    def summand(self, tensor: Tensor) -> Tensor:
        """A device's summand of a result."""
        return Tensor(f"{tensor.name}.summand", tensor.shape, tensor.dtype, "activation")

    # -- exchanges

    def divided(self, op: Operator, own: Operator) -> None:
        """Append *own*, whose result stays divided unless it leaves the run."""
        self.builder.add(own)
        if op.outputs[0].role == "output":
            self._exchange(op, "allgather", own.outputs[0])

    def reduced(self, op: Operator, own: Operator) -> None:
        """Append *own*, whose results are summands."""
        self.builder.add(own)
        self._exchange(op, "allreduce", own.outputs[0])

    def _exchange(self, op: Operator, function: Exchange, held: Tensor) -> None:
        result = op.outputs[0]
        cols = result.shape[-1]
        self.builder.add(Collective(name=f"{op.name}.{function}", inputs=(held,), outputs=(result,), layer=op.layer, group=op.group,
                                    function=function, rows=result.elements // cols, cols=cols, ranks=self.ranks))
        self.parts.pop(result.name, None)

    def _inputs(self, op: Operator) -> tuple[Tensor, ...]:
        missing = [tensor.name for tensor in op.inputs if tensor.name not in self.parts]
        if missing:
            raise ConfigError(f"{op.name}: {missing[0]} is whole where its other operands are divided", key="--tp",
                              value=self.ranks)
        return tuple(self.parts[tensor.name] for tensor in op.inputs)

    def _check(self, op: Operator, what: str, size: int) -> None:
        if size % self.ranks:
            raise _UnevenError(f"{op.name}: {what} = {size}, which {self.ranks} devices cannot share evenly", key="--tp")


_RULES: dict[type[Operator], Callable[[_Sharder, Operator], None]] = {
    Gemm: _Sharder.gemm, Attention: _Sharder.attention, KvAppend: _Sharder.kv_append, Rope: _Sharder.rope, Norm: _Sharder.norm,
    Elementwise: _Sharder.elementwise, Dispatch: _Sharder.dispatch, Combine: _Sharder.combine,
}
