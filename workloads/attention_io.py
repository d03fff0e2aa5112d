"""The least traffic between DRAM and a chip that computes exact attention: what any schedule must move.

Two bounds, of different worth:

- *compulsory*, hard: every operand once. Q, K and V must come in and the output must go out, as far as they live in DRAM and some
  query sees them.
- *order*, up to a constant: with M elements on chip, Ω(N² d² / M) elements must move. Dao et al., "FlashAttention", NeurIPS 2022
  (arXiv:2205.14135), proposition 3: no exact algorithm moves o(N² d² / M) for all M between d and N·d. Saha and Ye, "The I/O
  complexity of attention", ICML 2024 (arXiv:2402.07443): that is tight from M = d² on, and below it the products themselves, done
  the usual way, ask for N² d / √M, the bound of matrix products (Hong and Kung, STOC 1981).

In both N² is the number of (query, key) pairs that the mask lets through, over all query heads: heads that share keys are as one
head with so many times the queries.
"""

from __future__ import annotations

import math

from ..sim.report import IoBound
from ..sim.units import BITS_PER_BYTE
from .operators import Attention


def order_elements(pairs: int, head_dim: int, on_chip_elements: float) -> float:
    """The smaller of N² d² / M and N² d / √M for N² = *pairs*: elements, without the constant that the theorems leave open."""
    return pairs * head_dim**2 / max(on_chip_elements, head_dim * math.sqrt(on_chip_elements))


def attention_bound(op: Attention, on_chip_bytes: int, compulsory_bytes: int | None = None) -> IoBound:
    """The bounds of *op* beside a memory of *on_chip_bytes*; *compulsory_bytes*: of the operands in DRAM (None: all are there).

    Elements count by the narrowest format among the operands, so that the order errs on the low side.
    """
    if compulsory_bytes is None:
        compulsory_bytes = sum(op.compulsory_bytes.values())
    element_bytes = min(tensor.dtype.bits for tensor in (*op.inputs, *op.outputs)) / BITS_PER_BYTE
    elements = order_elements(op.batch * op.heads * op.pairs, op.head_dim, on_chip_bytes / element_bytes)
    return IoBound(compulsory_bytes, elements * element_bytes, on_chip_bytes)
