"""Every kind of operator, on ragged shapes and small machines: the interpreted program equals numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.machine import load_machine
from tilesim.mapping.mapper import map_graph
from tilesim.mapping.target import Target
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.program import Load, Store, TileProgram
from tilesim.workloads import single
from tilesim.workloads.graph import GraphBuilder, OperatorGraph
from tilesim.workloads.operators import Embedding, Gemm, KvAppend, Operator, SelectLast
from tilesim.workloads.tensors import Tensor
from tilesim.workloads.vector import POINTWISE, Elementwise, Norm, Rope, Softmax

MakeTarget = Callable[..., Target]
Check = Callable[..., TileProgram]

BF16, INT32 = parse_dtype("bf16"), parse_dtype("int32")
dims = st.integers(1, 40)
machines = st.fixed_dictionaries({
    "sram_kib": st.sampled_from([8, 12, 20, 64, 512]), "rows": st.sampled_from([2, 4, 8]), "cols": st.sampled_from([2, 4, 8]),
    "arrays": st.integers(1, 3), "lanes": st.sampled_from([1, 8, 64]),
    "widens": st.sampled_from([(), ("int8", "int4", "fp8")]),
})
quick = settings(max_examples=50, deadline=None, derandomize=True)


def alone(op: Operator) -> OperatorGraph:
    builder = GraphBuilder(op.name)
    builder.add(op)
    return builder.graph


def between(op_of: Callable[[Tensor, Tensor], Operator], shape: tuple[int, int], out_shape: tuple[int,
            int] | None = None) -> OperatorGraph:
    """input → copy by an addition → *op_of* → addition → output, so that the operator's operands are activations."""
    builder = GraphBuilder("between")
    out_shape = out_shape or shape
    a, b = Tensor("a", shape, BF16, "input"), Tensor("b", shape, BF16, "input")
    x, y = Tensor("x", shape, BF16, "activation"), Tensor("y", out_shape, BF16, "activation")
    builder.add(Elementwise(name="before", inputs=(a, b), outputs=(x,), function="add", rows=shape[0], cols=shape[1]))
    builder.add(op_of(x, y))
    builder.add(Elementwise(name="after", inputs=(y, y), outputs=(Tensor("z", out_shape, BF16, "output"),), function="add",
                            rows=out_shape[0], cols=out_shape[1]))
    return builder.graph


@quick
@given(m=dims, k=dims, n=dims, batch=st.integers(1, 3), bias=st.booleans(), machine=machines)
def test_gemm_equals_numpy(m: int, k: int, n: int, batch: int, bias: bool, machine: dict[str, Any], toy_target: MakeTarget,
                           equals_numpy: Check) -> None:
    equals_numpy(single.gemm(m, n, k, batch=batch, bias=bias), toy_target(**machine))


@quick
@given(m=dims, k=dims, n=dims, transposed=st.booleans(), machine=machines)
def test_gemm_between_activations_equals_numpy(m: int, k: int, n: int, transposed: bool, machine: dict[str, Any],
                                               toy_target: MakeTarget, equals_numpy: Check) -> None:
    weight = Tensor("w", (n, k) if transposed else (k, n), BF16, "weight")
    equals_numpy(between(lambda x, y: Gemm(name="gemm", inputs=(x, weight), outputs=(y,), m=m, k=k, n=n,
                                           weight_transposed=transposed), (m, k), (m, n)), toy_target(**machine))


@quick
@given(m=dims, groups=st.integers(1, 5), n=dims, weights=st.sampled_from(["int4-g32", "int8-g8", "int8", "int4", "fp8"]),
       machine=machines)
def test_gemm_with_packed_weights_equals_numpy(m: int, groups: int, n: int, weights: str, machine: dict[str, Any],
                                               toy_target: MakeTarget, equals_numpy: Check) -> None:
    k = groups * max(2, parse_dtype(weights).group)
    equals_numpy(single.gemm(m, n, k, weights=weights), toy_target(**machine))


@quick
@given(m=dims, k=dims, n=dims, machine=machines)
def test_product_of_two_activations_equals_numpy(m: int, k: int, n: int, machine: dict[str, Any], toy_target: MakeTarget,
                                                 equals_numpy: Check) -> None:
    other = Tensor("other", (k, n), BF16, "input")
    equals_numpy(between(lambda x, y: Gemm(name="gemm", inputs=(x, other), outputs=(y,), m=m, k=k, n=n), (m, k), (m, n)),
                 toy_target(**machine))


@quick
@given(
    batch=st.integers(1, 3), kv_heads=st.integers(1, 3), group=st.integers(1, 3), head_dim=st.sampled_from([2, 4, 8, 10]),
    q_tokens=st.integers(1, 12), cached=st.integers(0, 30), causal=st.booleans(), window=st.none() | st.integers(1, 40),
    kv=st.sampled_from(["bf16", "int8"]), machine=machines, attention=st.sampled_from(["flash", "unfused"]),
)
def test_attention_equals_numpy(batch: int, kv_heads: int, group: int, head_dim: int, q_tokens: int, cached: int,
                                causal: bool, window: int | None, kv: str, machine: dict[str, Any], attention: str,
                                toy_target: MakeTarget, equals_numpy: Check) -> None:
    graph = single.attention(kv_heads * group, head_dim, q_tokens, q_tokens + cached, batch=batch, kv_heads=kv_heads,
                             causal=causal, window=window if causal else None, kv=kv)
    equals_numpy(graph, toy_target(**machine), attention=attention)


@quick
@given(rows=dims, cols=dims, function=st.sampled_from(["rmsnorm", "layernorm"]), bias=st.booleans(), machine=machines)
def test_norm_equals_numpy(rows: int, cols: int, function: Literal["rmsnorm", "layernorm"], bias: bool, machine: dict[str, Any],
                           toy_target: MakeTarget, equals_numpy: Check) -> None:
    constants = [Tensor(name, (cols,), BF16, "weight") for name in ("gain", "shift")][:1 + bias]
    equals_numpy(between(lambda x, y: Norm(name="norm", inputs=(x, *constants), outputs=(y,), function=function, rows=rows,
                                           cols=cols), (rows, cols)), toy_target(**machine))


@quick
@given(rows=dims, cols=dims, function=st.sampled_from(sorted(POINTWISE)), machine=machines)
def test_elementwise_equals_numpy(rows: int, cols: int, function: str, machine: dict[str, Any], toy_target: MakeTarget,
                                  equals_numpy: Check) -> None:
    operands = [Tensor(name, (rows, cols), BF16, "input") for name in ("a", "b")][:POINTWISE[function].arity]
    out = Tensor("out", (rows, cols), BF16, "output")
    equals_numpy(alone(Elementwise(name="op", inputs=tuple(operands), outputs=(out,), function=function, rows=rows, cols=cols)),
                 toy_target(**machine))


@quick
@given(batch=st.integers(1, 3), tokens=st.integers(1, 9), heads=st.integers(1, 4), head_dim=st.sampled_from([2, 6, 8]),
       position=st.integers(0, 9), machine=machines)
def test_rope_equals_numpy(batch: int, tokens: int, heads: int, head_dim: int, position: int, machine: dict[str, Any],
                           toy_target: MakeTarget, equals_numpy: Check) -> None:
    rows = batch * tokens
    equals_numpy(between(lambda x, y: Rope(name="rope", inputs=(x,), outputs=(y,), rows=rows, heads=heads, head_dim=head_dim,
                                           tokens=tokens, position_start=position), (rows, heads * head_dim)),
                 toy_target(**machine))


@quick
@given(rows=dims, cols=dims, machine=machines)
def test_softmax_equals_numpy(rows: int, cols: int, machine: dict[str, Any], toy_target: MakeTarget,
                              equals_numpy: Check) -> None:
    equals_numpy(between(lambda x, y: Softmax(name="softmax", inputs=(x,), outputs=(y,), rows=rows, cols=cols), (rows, cols)),
                 toy_target(**machine))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rows=st.integers(1, 3), cols=st.integers(300, 2000), bias=st.booleans(),
       function=st.sampled_from(["softmax", "rmsnorm", "layernorm", "add", "silu_mul", "relu"]))
def test_rows_longer_than_the_scratchpad_equal_numpy(rows: int, cols: int, bias: bool, function: str, toy_target: MakeTarget,
                                                     equals_numpy: Check) -> None:
    """Rows of 600 B to 4 kB past pools of 256 B: softmax and norms read each row twice, pointwise functions once."""
    out = Tensor("y", (rows, cols), BF16, "output")
    x = [Tensor(name, (rows, cols), BF16, "input") for name in ("a", "b")][:POINTWISE[function].arity if function in POINTWISE
                                                                            else 1]
    constants = [Tensor(name, (cols,), BF16, "weight") for name in ("gain", "shift")][:1 + bias]
    if function == "softmax":
        op: Operator = Softmax(name="op", inputs=tuple(x), outputs=(out,), rows=rows, cols=cols)
    elif function in ("rmsnorm", "layernorm"):
        op = Norm(name="op", inputs=(*x, *constants), outputs=(out,), function=function, rows=rows, cols=cols)  # type: ignore[arg-type]
    else:
        op = Elementwise(name="op", inputs=tuple(x), outputs=(out,), function=function, rows=rows, cols=cols)
    program = equals_numpy(alone(op), toy_target(sram_kib=4), orders=(1, 2))
    records = program.steps[0].segment.records
    readings = 1 if function in POINTWISE else 2
    assert program.steps[0].segment.notes["readings"] == readings
    loaded = [sum(r.nbytes for r in records if isinstance(r, Load) and r.operand == index) for index in range(len(x))]
    assert loaded == [readings * 2 * rows * cols] * len(x)
    assert sum(r.nbytes for r in records if isinstance(r, Store)) == 2 * rows * cols


@quick
@given(batch=st.integers(1, 4), tokens=st.integers(1, 8), cols=dims, machine=machines)
def test_select_last_equals_numpy(batch: int, tokens: int, cols: int, machine: dict[str, Any], toy_target: MakeTarget,
                                  equals_numpy: Check) -> None:
    equals_numpy(between(lambda x, y: SelectLast(name="last", inputs=(x,), outputs=(y,), batch=batch, tokens=tokens, cols=cols),
                         (batch * tokens, cols), (batch, cols)), toy_target(**machine))


@quick
@given(batch=st.integers(1, 3), tokens=st.integers(1, 8), cols=dims, vocab=st.integers(1, 50), position=st.integers(0, 5),
       has_positions=st.booleans(), machine=machines)
def test_embedding_equals_numpy(batch: int, tokens: int, cols: int, vocab: int, position: int, has_positions: bool,
                                machine: dict[str, Any], toy_target: MakeTarget, equals_numpy: Check) -> None:
    rows = batch * tokens
    inputs = [Tensor("ids", (rows,), INT32, "input"), Tensor("table", (vocab, cols), BF16, "weight")]
    if has_positions:
        inputs.append(Tensor("positions", (position + tokens + 2, cols), BF16, "weight"))
    equals_numpy(alone(Embedding(name="embedding", inputs=tuple(inputs), outputs=(Tensor("out", (rows, cols), BF16, "output"),),
                                 rows=rows, cols=cols, vocab=vocab, tokens=tokens, position_start=position)),
                 toy_target(**machine))


@pytest.mark.parametrize(("capacity", "fewest", "most"), [("32 MiB", 1, 1), ("24 KiB", 2, 12)])
def test_ids_of_many_rows_come_in_one_load_before_them(capacity: str, fewest: int, most: int) -> None:
    rows, cols, vocab = 1000, 768, 5000
    graph = alone(Embedding(
        name="embedding", inputs=(Tensor("ids", (rows,), INT32, "input"), Tensor("table", (vocab, cols), BF16, "weight")),
        outputs=(Tensor("out", (rows, cols), BF16, "output"),), rows=rows, cols=cols, vocab=vocab, tokens=rows))
    segment = map_graph(graph, load_machine("hbm-npu", (f"parts.scratchpad.capacity={capacity}",))).steps[0].segment
    loads = [(at, record) for at, record in enumerate(segment.records) if isinstance(record, Load)]
    ids = {at: record.nbytes for at, record in loads if record.operand == 0}
    assert fewest <= len(ids) <= most
    assert sum(ids.values()) == 4 * rows
    for at, record in loads:
        if record.operand == 1:
            assert segment.waits[at] == (max(one for one in ids if one < at),)


@quick
@given(batch=st.integers(1, 3), tokens=st.integers(1, 6), kv_heads=st.integers(1, 3), head_dim=st.sampled_from([2, 4, 8]),
       before=st.integers(0, 9), after=st.integers(0, 3), kv=st.sampled_from(["bf16", "int8", "int4", "int8-g2"]),
       machine=machines)
def test_kv_append_equals_numpy(batch: int, tokens: int, kv_heads: int, head_dim: int, before: int, after: int, kv: str,
                                machine: dict[str, Any], toy_target: MakeTarget, equals_numpy: Check) -> None:
    rows, kv_tokens = (batch * tokens, kv_heads * head_dim), before + tokens + after
    caches = tuple(Tensor(name, (batch, kv_heads, kv_tokens, head_dim), parse_dtype(kv), "kv") for name in ("kc", "vc"))
    equals_numpy(alone(KvAppend(
        name="append", inputs=tuple(Tensor(name, rows, BF16, "input") for name in ("k", "v")), outputs=caches, batch=batch,
        tokens=tokens, kv_tokens=kv_tokens, kv_heads=kv_heads, head_dim=head_dim, slot=before)), toy_target(**machine))


@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_long_decode_attention_equals_numpy(attention: str, toy_target: MakeTarget, equals_numpy: Check) -> None:
    """One query over many tiles of keys, grouped heads, on a machine whose scratchpad holds few of them."""
    graph = single.attention(8, 16, 1, 300, batch=2, kv_heads=2)
    assert math.isclose(next(iter(graph.nodes.values()))["op"].scale, 0.25)
    equals_numpy(graph, toy_target(sram_kib=16), attention=attention, orders=(1, 2, 3))
