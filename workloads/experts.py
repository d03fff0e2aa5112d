"""The experts of a mixture: the MLP of which each token goes through a few of many copies; ``operators`` says how it counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..sim.errors import ConfigError
from .operators import Operator
from .tensors import Tensor
from .vector import POINTWISE

#: exp, sum and quotient of each score (the softmax of a router); a scale and a sum of each element of an expert's result.
SCORE_FLOPS, MIX_FLOPS = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts(Operator):
    """y[row] = Σ over the *top_k* experts e of the row: score[e] · down_e(f(gate_e(x)) · up_e(x)).

    inputs: x ``[rows, hidden]``, router scores ``[rows, experts]``, gate and up ``[experts, hidden, intermediate]``, down
    ``[experts, intermediate, hidden]``; output ``[rows, hidden]``. Which experts a row takes depends on data: they are drawn evenly
    (Fedus et al., Switch Transformers, 2022, §2.2, train for that), and of the weights those count that the mean draw touches.
    """

    kind = "experts"

    rows: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    function: str = "silu_mul"

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.top_k > self.experts:
            raise ConfigError(f"experts {self.name}: top_k is {self.top_k} of {self.experts} experts", key="top_k",
                              value=self.top_k)
        matrix = self.experts * self.hidden * self.intermediate
        x = self.rows * self.hidden
        return (x, self.rows * self.experts, matrix, matrix, matrix), (x,)

    @property
    def active_experts(self) -> int:
        """Experts that get a token at all when each row draws *top_k* different ones evenly; the mean, rounded up."""
        missed = (1.0 - self.top_k / self.experts) ** self.rows
        return min(self.experts, max(self.top_k, math.ceil(self.experts * (1.0 - missed))))

    @property
    def macs(self) -> int:
        return 3 * self.rows * self.top_k * self.hidden * self.intermediate

    @property
    def vector_flops(self) -> int:
        scores = self.rows * self.experts * (SCORE_FLOPS + self.top_k)
        inner = self.rows * self.top_k * self.intermediate * POINTWISE[self.function].flops_per_element
        return scores + inner + MIX_FLOPS * self.rows * self.top_k * self.hidden

    def touched_elements(self, tensor: Tensor) -> int:
        if tensor in self.inputs[2:]:
            return self.active_experts * self.hidden * self.intermediate
        return tensor.elements
