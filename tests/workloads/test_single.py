"""Single operators, as the command line asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tilesim.sim.errors import ConfigError
from tilesim.workloads import program_order, single
from tilesim.workloads.single import single_operator

ASKED: dict[str, dict[str, object]] = {
    "gemm": {"m": 4, "n": 5, "k": 6, "batch": 2},
    "attention": {"heads": 8, "kv_heads": None, "head_dim": 16, "q": 1, "context": 100, "batch": 2, "full": False},
    "norm": {"function": "layernorm", "rows": 3, "cols": 7},
    "softmax": {"rows": 3, "cols": 7},
    "elementwise": {"function": "silu_mul", "rows": 3, "cols": 7},
}


@pytest.mark.parametrize(
    ("kind", "flops"),
    [("gemm", 2 * 240), ("attention", 2 * 2 * 2 * 8 * 16 * 100 + 2 * 8 * (5 * 100 + 16)), ("norm", 3 * (7 * 7 + 4)),
     ("softmax", 5 * 21), ("elementwise", 5 * 21)],
)
def test_an_operator_is_alone_in_its_graph_and_counts_as_in_a_model(kind: str, flops: int) -> None:
    graph, described = single_operator(kind, ASKED[kind] | {"dtype": "fp16"})
    (op,) = program_order(graph)
    assert (op.kind, op.flops) == (kind, flops)
    assert described["operator"] == kind
    json.dumps(described)


def test_a_format_with_group_scales_is_that_of_the_stored_operand() -> None:
    (op,) = program_order(single_operator("gemm", {"m": 1, "n": 8, "k": 256, "batch": 1, "dtype": "int4-g128"})[0])
    assert [tensor.dtype.name for tensor in (*op.inputs, *op.outputs)] == ["bf16", "int4-g128", "bf16"]


@pytest.mark.parametrize(
    ("build", "key"),
    [(lambda: single.gemm(4, -4, 4), "n"), (lambda: single.attention(4, 8, 0, 4), "q_tokens"),
     (lambda: single.norm(1, 0), "cols"), (lambda: single.elementwise("silumul", 1, 1), "function")],
)
def test_a_size_that_cannot_be_is_named(build: Callable[[], object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.key == key
