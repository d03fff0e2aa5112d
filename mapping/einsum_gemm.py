"""Matrix products on FLAT's and FuseMax's 2-D array: what the buffer can hold decides how often operands come from memory.

The array is output stationary: n×n sums stay in the PEs while k runs past them. Half of the buffer holds a strip of one operand,
the other half what streams past it, in use and in flight.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arch.einsum_arrays import WORD_BYTES, EinsumMachine
from ..workloads.operators import Gemm


@dataclass(frozen=True, slots=True)
class HeldStrip:
    """Which operand is held ("a", "b" or neither), how many of its rows (columns), and the DRAM bytes of the product."""

    held: str
    extent: int
    read_bytes: int
    written_bytes: int


def best_strip(op: Gemm, machine: EinsumMachine) -> HeldStrip:
    """The strip that moves the fewest bytes: the held operand comes once, the other once for each strip; of equals, A's."""
    n, half_words = machine.n, machine.buffer_bytes // 2 // WORD_BYTES
    a, b, rest = op.m * op.k, op.k * op.n, op.inputs[2].nbytes if op.has_bias else 0
    extent = half_words // op.k // n * n                                    # whole tiles of n rows (columns)
    choices = [("neither", 0, a * -(-op.n // n) + b * -(-op.m // n))]
    if extent:
        choices = [("a", min(extent, op.m), a + b * -(-op.m // extent)), ("b", min(extent, op.n), b + a * -(-op.n // extent))]
    held, kept, words = min(choices, key=lambda choice: choice[2])
    return HeldStrip(held, kept, op.batch * words * WORD_BYTES + rest, op.outputs[0].nbytes)
