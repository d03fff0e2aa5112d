"""An operator graph as the kernels that a GPU library launches: which operators share one, and how ranks divide them.

One launch each: the projections of q, k and v, or of gate and up (one GEMM over the joined columns); the rotations of q and k
with the write into the KV cache; the norms of q and k; a residual sum with the norm that reads it. Everything else is a kernel
of its own, as in TensorRT-LLM and vLLM with CUDA graphs.

Tensor parallel (Shoeybi et al., Megatron-LM, 2019, arXiv:1909.08053, §3) follows from the graph: a product of a whole input
is divided by columns and leaves its output divided; a product of a divided input is divided along its reduction, and an
all-reduce makes its output whole; what lies between works on its own part. Every rank routes all tokens and holds its share of
each expert's width, so that a layer of experts ends in an all-reduce as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..sim.errors import ConfigError
from ..workloads.experts import Experts
from ..workloads.graph import OperatorGraph, program_order
from ..workloads.images import Convolution, Pool
from ..workloads.operators import Attention, Gemm, KvAppend, Operator
from ..workloads.recurrent import LstmCell
from ..workloads.vector import Elementwise, Norm, Rope


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: its operators, in how many parts the ranks divide it, and what they exchange after it."""

    name: str
    operators: tuple[Operator, ...]
    parts: int                              # 1: every rank does all of it
    external_read_bytes: int                # of the whole kernel: weights, inputs and cached tokens, each once
    external_write_bytes: int               # new cache rows and outputs
    splits_reduction: bool = False
    collective: str | None = None           # after it: all-reduce of partial sums, all-gather of divided results
    message_bytes: int = 0                  # of each rank's buffer in that collective

    @property
    def first(self) -> Operator:
        return self.operators[0]


def kernels_of(graph: OperatorGraph, ranks: int = 1) -> tuple[Kernel, ...]:
    """The launches of *graph* in program order, each rank of *ranks* GPUs doing its part of the heads and columns."""
    undivided = next((op for op in program_order(graph) if ranks > 1 and isinstance(op, Convolution | Pool | LstmCell)), None)
    if undivided is not None:
        raise ConfigError(f"{undivided.name}: tensor parallelism of {undivided.kind!r} is not modelled", key="--tp", value=ranks,
                          mend="leave --tp out; networks of images and recurrent ones are divided by batch")
    groups: list[list[Operator]] = []
    for op in program_order(graph):
        if groups and _shares_launch(groups[-1][-1], op):
            groups[-1].append(op)
        else:
            groups.append([op])
    appended = {tensor.name: op.new_elements for op in program_order(graph) if isinstance(op, KvAppend)
                for tensor in op.outputs}
    divided: set[str] = set()                # names of tensors of which each rank holds a part
    return tuple(_kernel(group, ranks, divided, appended) for group in groups)


def _kernel(group: list[Operator], ranks: int, divided: set[str], appended: dict[str, int]) -> Kernel:
    first = group[0]
    has_part = any(tensor.name in divided for tensor in first.inputs)
    is_routing = first.group == "router"
    is_divided = ranks > 1 and not is_routing and (has_part or isinstance(first, Gemm | Attention | Experts))
    if is_divided:
        for op in group:
            _check_divides(op, ranks)
    splits_reduction = is_divided and (isinstance(first, Experts) or (has_part and isinstance(first, Gemm)))
    if is_divided and not splits_reduction:
        divided.update(tensor.name for op in group for tensor in op.outputs)
    outputs = [tensor for op in group for tensor in op.outputs]
    collective = None
    if splits_reduction:
        collective = "allreduce"
    elif is_divided and any(tensor.role == "output" for tensor in outputs):
        collective = "allgather"
    return Kernel(
        name=_joined_name(group), operators=tuple(group), parts=ranks if is_divided else 1,
        external_read_bytes=sum(_external_reads(op, appended) for op in group),
        external_write_bytes=sum(tensor.dtype.bytes_for(op.touched_elements(tensor)) for op in group for tensor in op.outputs
                                 if tensor.role != "activation"),
        splits_reduction=splits_reduction, collective=collective,
        message_bytes=sum(tensor.nbytes for tensor in outputs) if collective else 0,
    )


def _external_reads(op: Operator, appended: dict[str, int]) -> int:
    """Bytes that *op* reads of what no operator of this run wrote."""
    total = 0
    for tensor in dict.fromkeys(op.inputs):
        if tensor.role != "activation":
            total += tensor.dtype.bytes_for(max(0, op.touched_elements(tensor) - appended.get(tensor.name, 0)))
    return total


def _check_divides(op: Operator, ranks: int) -> None:
    if isinstance(op, Experts) and op.intermediate % ranks:
        raise ConfigError(f"{op.name} has experts of width {op.intermediate}, which {ranks} GPUs cannot share evenly", key="--tp",
                          value=ranks, mend=f"use a tensor-parallel degree that divides {op.intermediate}")
    if isinstance(op, Attention) and (op.heads % ranks or op.kv_heads % ranks):
        raise ConfigError(f"{op.name} has {op.heads} heads and {op.kv_heads} KV heads, which {ranks} GPUs cannot share evenly",
                          key="--tp", value=ranks, mend=f"use a tensor-parallel degree that divides {op.kv_heads}")


def _joined_name(group: list[Operator]) -> str:
    """``layers.0.attention.q+k+v``: what the names share, then what each adds."""
    if len(group) == 1:
        return group[0].name
    if group[-1].layer != group[0].layer:       # a residual with the next layer's norm
        return f"{group[0].name}+{group[-1].kind}"
    names = [op.name for op in group]
    words = [name.split(".") for name in names]
    depth = next((i for i, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), 0)
    shared = "".join(f"{word}." for word in words[0][:depth])
    return shared + "+".join(name[len(shared):] for name in names)


# -- which neighbours of the program share a launch


def _same_operand(last: Gemm, op: Gemm) -> bool:
    return (last.inputs[0] == op.inputs[0] and last.batch == op.batch == 1
            and last.inputs[1].dtype == op.inputs[1].dtype and last.layer == op.layer)


def _same_rows(last: Norm, op: Norm) -> bool:
    """Norms of the heads of q and of k: neither reads the other."""
    return last.layer == op.layer and last.cols == op.cols and last.outputs[0] not in op.inputs


_JOINS: dict[tuple[type[Operator], type[Operator]], Callable[..., bool]] = {
    (Gemm, Gemm): _same_operand,
    (Norm, Norm): _same_rows,
    (Rope, Rope): lambda last, op: last.layer == op.layer,
    (Rope, KvAppend): lambda last, op: last.layer == op.layer,
    (Elementwise, Norm): lambda last, op: last.function == "add" and last.outputs[0] == op.inputs[0],
}


def _shares_launch(last: Operator, op: Operator) -> bool:
    joins = _JOINS.get((type(last), type(op)))
    return joins is not None and joins(last, op)
