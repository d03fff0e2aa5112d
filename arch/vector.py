"""Vector units: lanes that do one simple operation a cycle each; what each function costs in such operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..sim.config import Config
from ..sim.program import View
from ..sim.units import Hertz, Picojoules


class VectorConfig(Config):
    """*lanes* that each do one add, multiply, multiply-add, compare or move a cycle, pipelined *latency_cycles* deep.

    ``exp_ops``: lane-cycles that one exponential, reciprocal, square root or tanh takes (a table lookup and a short
    polynomial in the lane, or a slower special-function unit shared by lanes).
    """

    type: Literal["vector"]
    lanes: Annotated[int, Field(ge=1)]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    latency_cycles: Annotated[int, Field(ge=0)]
    exp_ops: Annotated[int, Field(ge=1)]
    multiplies: bool = True                  # False: no matrix product is mapped onto them (an activation unit behind an array)
    op_energy_pj: Picojoules
    mac_energy_pj: Picojoules

    @property
    def peak_ops_per_s(self) -> float:
        return self.lanes * self.clock_hz

    @property
    def peak_macs_per_s(self) -> float:
        return self.peak_ops_per_s if self.multiplies else 0.0

    def product_s(self, macs: int) -> float:
        """Seconds that a product of so many MACs takes at least; infinite on lanes that do not multiply."""
        return macs / self.peak_macs_per_s if self.multiplies else math.inf


#: function → (simple operations, special operations) per element of its first read. Counted from the arithmetic:
#: rmsnorm: square-accumulate, then times 1/rms, times weight; layernorm: sum, centred square-accumulate (2), then
#: subtract, scale, times weight, plus bias; softmax: max, subtract, exp, sum, times 1/sum; sigmoid: exp, add, reciprocal;
#: silu: sigmoid (its add in the reciprocal) and two multiplies; gelu by tanh: cubic polynomial (4), tanh, 2; rope: two
#: multiplies and an add, and a pair swap; dequantize: unpack, times scale; quantize: largest magnitude of the group, times
#: 1/scale, pack. Rows in pieces: ``_statistics`` takes softmax's max, subtract, exp and sum, a norm's sums; ``_normalize`` the
#: rest, and softmax's subtract and exp once more.
FUNCTION_OPS: dict[str, tuple[int, int]] = {
    "copy": (1, 0),
    "add": (1, 0),
    "mul": (1, 0),
    "add_relu": (2, 0),
    "scale": (1, 0),
    "relu": (1, 0),
    "sigmoid": (1, 2),
    "tanh": (0, 1),
    "silu": (2, 2),
    "gelu": (6, 1),
    "gelu_tanh": (6, 1),
    "silu_mul": (3, 2),
    "gelu_mul": (7, 1),
    "gelu_tanh_mul": (7, 1),
    "rmsnorm": (3, 0),
    "layernorm": (7, 0),
    "rope": (4, 0),
    "softmax": (4, 1),
    "relu_mul": (2, 0),
    "softmax_statistics": (3, 1),
    "softmax_normalize": (2, 1),
    "rmsnorm_statistics": (1, 0),
    "rmsnorm_normalize": (2, 0),
    "layernorm_statistics": (3, 0),
    "layernorm_normalize": (4, 0),
    "online_softmax_end": (1, 0),
    "dequantize": (2, 0),
    "quantize": (3, 0),
}
#: (simple, special) operations of one hidden unit of an LSTM cell: four sums of gates, three σ of an add beside exp and
#: reciprocal, two tanh, three products and a sum.
_LSTM_OPS, _LSTM_GATES = (11, 8), 4
#: Functions that also take one root or reciprocal for each row (1/rms, 1/σ, 1/sum, the
#: correction of a running sum).
_ONE_SPECIAL_A_ROW = frozenset({"rmsnorm", "layernorm", "softmax", "online_softmax_end", "softmax_statistics", "softmax_normalize",
                                "rmsnorm_normalize", "layernorm_normalize"})


def lane_ops(function: str, reads: tuple[View, ...], params: Mapping[str, Any], config: VectorConfig) -> int:
    """Lane-operations of *function* on views of those shapes; a matmul on the lanes costs one for each MAC.

    ``depthwise`` and poolings take one for each element of each window (and an average one more).
    ``online_softmax`` reads scores [..., q, t] (and the running max, sum and output [..., q, d] to rescale): scale and mask,
    max, subtract, exp and sum on each score; a rescale of output and sum. ``online_softmax_end`` scales [..., q, d] by 1/sum.
    """
    elements = reads[0].elements
    if function == "matmul":
        return elements * reads[1].shape[-1]
    if function in ("depthwise", "max_pool", "average_pool"):
        p = params["patches"]
        windows = reads[0].shape[0] * p.positions * reads[0].shape[-1]
        return int(windows * (p.elements(1) + (function == "average_pool")))
    if function == "lstm_cell":
        return elements // _LSTM_GATES * (_LSTM_OPS[0] + _LSTM_OPS[1] * config.exp_ops)
    if function == "online_softmax":
        scores = elements * (4 + config.exp_ops)
        rescaled = sum(view.elements for view in reads[1:])
        return scores + rescaled
    if function == "route":              # a softmax over the experts' scores, and a maximum over them for each choice
        rows, experts = reads[0].shape
        simple, special = FUNCTION_OPS["softmax"]
        return int(rows * (experts * (simple + special * config.exp_ops + params["top_k"]) + config.exp_ops))
    if function == "combine":            # a product and a sum for each element of each expert's result
        return 2 * sum(view.elements for view in reads[1:])
    if function in ("allreduce", "reducescatter", "allgather"):          # its share of the sums over the other devices
        ranks = params["ranks"]
        return 0 if function == "allgather" else elements * (ranks - 1) // ranks
    simple, special = FUNCTION_OPS[function]
    rows = elements // max(1, reads[0].shape[-1])
    per_row = rows * config.exp_ops if function in _ONE_SPECIAL_A_ROW else 0
    return elements * (simple + special * config.exp_ops) + per_row


def vector_cycles(function: str, reads: tuple[View, ...], params: Mapping[str, Any], config: VectorConfig) -> int:
    """Cycles of one record alone on the lanes, the pipeline's latency included."""
    return -(-lane_ops(function, reads, params, config) // config.lanes) + config.latency_cycles
