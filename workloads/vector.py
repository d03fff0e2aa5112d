"""Operators of the vector unit: norms, pointwise functions, rotary positions, softmax; ``operators`` says how they count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..sim.errors import ConfigError
from .operators import Operator


class Pointwise(NamedTuple):
    """A pointwise function: how many operands it takes and what one element of the result costs."""

    arity: int
    flops_per_element: int


#: sigmoid(x) = 1 / (1 + exp(−x)); silu(x) = x · sigmoid(x);
#: gelu(x) = ½ x (1 + erf(x / √2)); gelu_tanh(x) = ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))
#: (Hendrycks and Gimpel, 2016, arXiv:1606.08415, §2); add_relu(a, b) = relu(a + b), a residual block's end; f_mul(a, b) =
#: f(a) · b is the gate of a GLU (Shazeer, 2020, arXiv:2002.05202).
POINTWISE: dict[str, Pointwise] = {
    "add": Pointwise(2, 1),
    "mul": Pointwise(2, 1),
    "add_relu": Pointwise(2, 2),
    "relu": Pointwise(1, 1),
    "sigmoid": Pointwise(1, 3),
    "tanh": Pointwise(1, 1),
    "silu": Pointwise(1, 4),
    "gelu": Pointwise(1, 5),
    "gelu_tanh": Pointwise(1, 9),
    "relu_mul": Pointwise(2, 2),
    "silu_mul": Pointwise(2, 5),
    "gelu_mul": Pointwise(2, 6),
    "gelu_tanh_mul": Pointwise(2, 10),
}
NORM_FUNCTIONS = ("rmsnorm", "layernorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Operator):
    """A function of :data:`POINTWISE`, element by element, over operands of ``[rows, cols]``."""

    kind = "elementwise"

    function: str
    rows: int
    cols: int

    @property
    def arity(self) -> int:
        return POINTWISE[self.function].arity

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.function not in POINTWISE:
            raise ConfigError(f"elementwise {self.name}: {self.function!r} is no pointwise function", key="function",
                              value=self.function, allowed=tuple(POINTWISE))
        return (self.rows * self.cols,) * self.arity, (self.rows * self.cols,)

    @property
    def vector_flops(self) -> int:
        return self.rows * self.cols * POINTWISE[self.function].flops_per_element


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Operator):
    """Normalise each of *rows* rows of *cols* elements and scale it.

    inputs: x, weight ``[cols]`` and perhaps bias ``[cols]``. rmsnorm: x / √(mean(x²) + ε) · w (Zhang and Sennrich, 2019,
    arXiv:1910.07467, eq. 4). layernorm: (x − mean) / √(var + ε) · w + b (Ba et al., 2016, arXiv:1607.06450).
    """

    kind = "norm"

    function: Literal["rmsnorm", "layernorm"]
    rows: int
    cols: int

    @property
    def has_bias(self) -> bool:
        return len(self.inputs) == 3

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.function not in NORM_FUNCTIONS:
            raise ConfigError(f"norm {self.name}: {self.function!r} is no norm", key="function", value=self.function,
                              allowed=NORM_FUNCTIONS)
        bias = (self.cols,) if self.has_bias else ()
        return (self.rows * self.cols, self.cols, *bias), (self.rows * self.cols,)

    @property
    def vector_flops(self) -> int:
        """An element: square, sum, two products; layernorm also sums and subtracts the mean. A row: means, + ε, root."""
        bias = self.cols if self.has_bias else 0
        if self.function == "rmsnorm":
            return self.rows * (4 * self.cols + 3 + bias)
        return self.rows * (6 * self.cols + 4 + bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope(Operator):
    """Rotate each head of ``[rows, heads · head_dim]`` by its position (Su et al., 2021, arXiv:2104.09864, eq. 34).

    Row r stands at position ``position_start + r % tokens``. The table of sines and cosines is no operand: it is small, the
    same for all layers, and kept or recomputed by the unit.
    """

    kind = "rope"

    rows: int
    heads: int
    head_dim: int
    tokens: int
    position_start: int = 0

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.head_dim % 2:
            raise ConfigError(f"rope {self.name}: head_dim is {self.head_dim}; it turns pairs, so an even one is wanted",
                              key="head_dim", value=self.head_dim)
        elements = self.rows * self.heads * self.head_dim
        return (elements,), (elements,)

    @property
    def vector_flops(self) -> int:
        """Four products and two sums for each pair of elements."""
        return 3 * self.rows * self.heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Operator):
    """Softmax of each of *rows* rows of *cols* elements."""

    kind = "softmax"

    rows: int
    cols: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rows * self.cols,), (self.rows * self.cols,)

    @property
    def vector_flops(self) -> int:
        """An element: maximum, subtract, exp, sum, divide."""
        return 5 * self.rows * self.cols
