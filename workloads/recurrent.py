"""LSTM: the cell as an operator, and its chain of steps as a graph.

The cell follows Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of Gers et al., 2000; its gates
stand in the order of cuDNN and PyTorch: input, forget, candidate, output. Their sums come from two matrix products, x · W_x + b and
h · W_h; the second waits for the step before, and that chain is what bounds a recurrent network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..sim.dtypes import DType
from .graph import GraphBuilder
from .operators import Gemm, Operator
from .tensors import Tensor

GATES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LstmCell(Operator):
    """One step of a cell: c' = σ(f) · c + σ(i) · tanh(g), h' = σ(o) · tanh(c').

    inputs: the gates' sums of x and of h, both ``[batch, 4 · hidden]`` in the order i, f, g, o (they are added here), and c
    ``[batch, hidden]``; outputs: h' and c', ``[batch, hidden]``.
    """

    kind = "lstm_cell"

    batch: int
    hidden: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        state = self.batch * self.hidden
        return (GATES * state, GATES * state, state), (state, state)

    @property
    def vector_flops(self) -> int:
        """A hidden unit: four sums of gates; σ is 3 (negation in the exponential: exp, add, divide), three of them; two tanh; three
        products and a sum."""
        return self.batch * self.hidden * (GATES + 3 * 3 + 2 + 4)


@dataclass(frozen=True, slots=True)
class LstmFormats:
    """Number formats of an LSTM."""

    weights: DType
    activations: DType


def add_lstm_layer(
    builder: GraphBuilder, name: str, xs: Sequence[Tensor], batch: int, width: int, hidden: int, formats: LstmFormats, *,
    is_last: bool = False, layer: int | None = None,
) -> tuple[Tensor, ...]:
    """Append the steps of one layer over the inputs *xs* ``[batch, width]``, in order; gives h of every step.

    h and c of before the first step come from the host, and the last c goes there, with *is_last* the last h too.
    """
    act = formats.activations
    w_x = Tensor(f"{name}.w_x", (width, GATES * hidden), formats.weights, "weight")
    w_h = Tensor(f"{name}.w_h", (hidden, GATES * hidden), formats.weights, "weight")
    bias = Tensor(f"{name}.bias", (GATES * hidden,), act, "weight")
    h, c = (Tensor(f"{name}.{what}", (batch, hidden), act, "input") for what in ("h_before", "c_before"))
    outputs = []
    for step, x in enumerate(xs):
        stem = f"step{step}.{name}"
        from_x, from_h = (Tensor(f"{stem}.gates_{side}", (batch, GATES * hidden), act, "activation") for side in "xh")
        builder.add(Gemm(name=f"{stem}.x", inputs=(x, w_x, bias), outputs=(from_x,), m=batch, k=width, n=GATES * hidden,
                         layer=layer, group="lstm"))
        builder.add(Gemm(name=f"{stem}.h", inputs=(h, w_h), outputs=(from_h,), m=batch, k=hidden, n=GATES * hidden, layer=layer,
                         group="lstm"))
        is_end = step == len(xs) - 1
        h = Tensor(f"{stem}.h_out", (batch, hidden), act, "output" if is_end and is_last else "activation")
        new_c = Tensor(f"{stem}.c_out", (batch, hidden), act, "output" if is_end else "activation")
        builder.add(LstmCell(name=f"{stem}.cell", inputs=(from_x, from_h, c), outputs=(h, new_c), batch=batch, hidden=hidden,
                             layer=layer, group="lstm"))
        c = new_c
        outputs.append(h)
    return tuple(outputs)
