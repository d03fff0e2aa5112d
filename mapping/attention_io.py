"""What a mapped attention must move: the operands that the run leaves in DRAM, each byte once."""

from __future__ import annotations

from ..sim.program import Step, TileProgram
from ..sim.report import IoBound
from ..workloads.attention_io import attention_bound
from ..workloads.operators import Attention, KvAppend


def step_bound(op: Attention, step: Step, program: TileProgram, append: KvAppend | None, on_chip_bytes: int) -> IoBound:
    """The I/O bounds of *op* as *step* runs it.

    Rows of the caches that were there before the run must be read, as far as a query sees them. Queries, results, and the keys
    and values of the run's own tokens (those that *append* writes; None when the whole cache is read) count where they are not
    resident.
    """
    in_dram = [not program.tensors[tensor].resident for tensor in step.operands]
    old_elements = op.batch * op.kv_heads * (op.kv_tokens_read - (op.q_tokens if append else 0)) * op.head_dim
    nbytes = sum(cache.dtype.bytes_for(old_elements) for cache in op.inputs[1:3])
    own = zip(append.inputs, in_dram[3:5], strict=True) if append else ()
    handed = ((op.inputs[0], in_dram[0]), *own, (op.outputs[0], in_dram[-1]))
    nbytes += sum(tensor.nbytes for tensor, is_moved in handed if is_moved)
    return attention_bound(op, on_chip_bytes, nbytes)
