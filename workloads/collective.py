"""Exchanges between devices as operators: all-reduce, all-gather, reduce-scatter of a matrix that devices hold parts of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .operators import Operator

Exchange = Literal["allreduce", "allgather", "reducescatter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Operator):
    """*ranks* devices exchange [rows, cols], each with as much of it as the others.

    allreduce: every device holds a summand and gets the sum. allgather: every device holds ``cols / ranks`` columns, rounded up,
    and gets all of them without the last one's padding. reducescatter: every device holds a summand and gets its columns of it.
    """

    kind = "collective"

    function: Exchange
    rows: int
    cols: int
    ranks: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rows * self.columns(True),), (self.rows * self.columns(False),)

    def columns(self, of_input: bool) -> int:
        """Columns that a device holds before (*of_input*) or after."""
        divided = self.function == ("allgather" if of_input else "reducescatter")
        return -(-self.cols // self.ranks) if divided else self.cols

    @property
    def vector_flops(self) -> int:
        """Additions of one device: it sums its share of the columns over the others' summands."""
        return 0 if self.function == "allgather" else self.rows * self.cols * (self.ranks - 1) // self.ranks
