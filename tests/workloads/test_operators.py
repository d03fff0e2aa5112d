"""Operators: do their counts equal the closed forms, and do operators refuse operands that do not fit?"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.sim.dtypes import DTYPES, DType, parse_dtype
from tilesim.sim.errors import ConfigError
from tilesim.workloads import (
    Attention,
    Elementwise,
    Embedding,
    Gemm,
    KvAppend,
    Norm,
    Operator,
    OperatorGraph,
    Tensor,
    program_order,
    single,
)
from tilesim.workloads.experts import Experts
from tilesim.workloads.operators import causal_pairs

BF16 = DTYPES["bf16"]
sizes = st.integers(1, 40)


def only(graph: OperatorGraph) -> Operator:
    (op,) = program_order(graph)
    return op


def visible(q_tokens: int, kv_tokens: int, window: int | None) -> npt.NDArray[np.bool_]:
    """The attention mask, pair by pair: the plain reference of the closed form."""
    query = np.arange(kv_tokens - q_tokens, kv_tokens)[:, None]
    key = np.arange(kv_tokens)[None, :]
    mask = key <= query
    return mask if window is None else mask & (query - key < window)


@given(q=sizes, cached=st.integers(0, 40), window=st.none() | sizes)
def test_causal_pairs_equal_the_mask_counted_pair_by_pair(q: int, cached: int, window: int | None) -> None:
    assert causal_pairs(q, q + cached, window) == visible(q, q + cached, window).sum()


@given(q=sizes, cached=st.integers(0, 40), window=st.none() | sizes)
def test_attention_reads_the_cache_rows_that_some_query_sees(q: int, cached: int, window: int | None) -> None:
    op = only(single.attention(2, 4, q, q + cached, window=window))
    assert isinstance(op, Attention)
    assert op.kv_tokens_read == visible(q, q + cached, window).any(axis=0).sum()


def test_attention_counts_two_products_for_each_pair() -> None:
    op = only(single.attention(8, 64, 512, 512, batch=3, kv_heads=2))
    assert op.macs == 2 * 3 * 8 * 64 * (512 * 513 // 2)
    assert only(single.attention(8, 64, 512, 512, causal=False)).macs == 2 * 8 * 64 * 512 * 512


def test_attention_reads_each_kv_head_once_however_many_queries_share_it() -> None:
    op = only(single.attention(32, 128, 1, 1000, kv_heads=8))
    assert op.read_bytes == {"input": 32 * 128 * 2, "kv": 2 * 8 * 128 * 1000 * 2}
    assert op.written_bytes == {"output": 32 * 128 * 2}


@given(m=sizes, n=sizes, k=sizes, batch=st.integers(1, 3), bias=st.booleans())
def test_gemm_counts_and_bytes_are_the_closed_form(m: int, n: int, k: int, batch: int, bias: bool) -> None:
    op = only(single.gemm(m, n, k, batch=batch, bias=bias))
    assert op.macs == batch * m * n * k
    assert op.flops == 2 * op.macs + (batch * m * n if bias else 0)
    weights = 2 * (batch * k * n + (n if bias else 0))
    assert op.compulsory_bytes == {"input": 2 * batch * m * k, "weight": weights, "output": 2 * batch * m * n}


def test_four_bit_weights_carry_their_group_scales() -> None:
    op = only(single.gemm(1, 64, 256, weights="int4-g128"))
    assert op.read_bytes["weight"] == 64 * 256 // 2 + 2 * (64 * 256 // 128)


def test_embedding_reads_the_gathered_rows_only() -> None:
    ids, table = Tensor("ids", (6,), DTYPES["int32"], "input"), Tensor("table", (1000, 8), BF16, "weight")
    positions, out = Tensor("positions", (64, 8), BF16, "weight"), Tensor("out", (6, 8), BF16, "activation")
    op = Embedding(name="e", inputs=(ids, table, positions), outputs=(out,), rows=6, cols=8, vocab=1000, tokens=3)
    assert op.read_bytes == {"input": 24, "weight": 2 * (6 * 8 + 3 * 8)}


def test_append_writes_the_new_rows_only() -> None:
    new = tuple(Tensor(name, (2, 16), BF16, "activation") for name in "kv")
    caches = tuple(Tensor(name, (2, 2, 100, 8), parse_dtype("int8"), "kv") for name in ("K", "V"))
    op = KvAppend(name="a", inputs=new, outputs=caches, batch=2, tokens=1, kv_tokens=100, kv_heads=2, head_dim=8, slot=99)
    assert op.read_bytes == {"activation": 2 * 2 * 16 * 2}
    assert op.written_bytes == {"kv": 2 * 2 * 16}


def test_an_operand_used_twice_is_read_once() -> None:
    x, out = Tensor("x", (4, 4), BF16, "activation"), Tensor("y", (4, 4), BF16, "activation")
    assert Elementwise(name="e", inputs=(x, x), outputs=(out,), function="mul", rows=4, cols=4).read_bytes == {"activation": 32}


def test_norms_count_each_operation_of_their_formula() -> None:
    x, y, w, b = (Tensor(name, (3, 8) if name in "xy" else (8,), BF16, "activation") for name in "xywb")
    rms = Norm(name="n", inputs=(x, w), outputs=(y,), function="rmsnorm", rows=3, cols=8)
    layer = Norm(name="n", inputs=(x, w, b), outputs=(y,), function="layernorm", rows=3, cols=8)
    # rmsnorm: 8 squares, 8 sums, mean, + eps, 1/root, 8 × root, 8 × weight. layernorm: 8 sums and 8 subtractions of the mean,
    # which is one more division, and 8 biases.
    assert rms.flops == 3 * (4 * 8 + 3)
    assert layer.flops == 3 * (7 * 8 + 4)


def test_signature_forgets_names_and_layers_but_not_shapes_formats_or_sharing() -> None:
    def add(name: str, layer: int, cols: int = 8, dtype: DType = BF16, same: bool = False) -> Hashable:
        a, b, c = (Tensor(f"{name}.{i}", (2, cols), dtype, "activation") for i in range(3))
        return Elementwise(name=name, inputs=(a, a if same else b), outputs=(c,), function="add", rows=2, cols=cols,
                           layer=layer).signature

    assert add("x", 1) == add("y", 2)
    assert hash(add("x", 1)) == hash(add("y", 2))
    assert len({add("x", 1), add("x", 1, cols=9), add("x", 1, dtype=DTYPES["fp32"]), add("x", 1, same=True)}) == 4


BAD_OPERATORS: list[tuple[Callable[[], object], str]] = [
    (lambda: single.gemm(0, 4, 4), "m is 0"),
    (lambda: single.gemm(4, -4, 4), "n is -4"),
    (lambda: single.attention(6, 8, 1, 4, kv_heads=4), "6 heads are no multiple of kv_heads, 4"),
    (lambda: single.attention(4, 8, 9, 4), "9 query tokens are more than the 4"),
    (lambda: single.attention(4, 8, 1, 4, window=0), "window"),
    (lambda: single.gemm(4, 4, 4, weights="int5"), "no number format"),
    (lambda: Gemm(name="g", inputs=(Tensor("a", (2, 2), BF16, "input"),) * 2, outputs=(Tensor("c", (2, 2), BF16, "output"),),
                  m=2, n=2, k=3), "its sizes ask for"),
    (lambda: Elementwise(name="e", inputs=(), outputs=(), function="gleu", rows=1, cols=1), "Did you mean 'gelu'?"),
]


@pytest.mark.parametrize(("build", "words"), BAD_OPERATORS)
def test_an_operator_that_cannot_be_is_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        build()


def test_experts_count_the_tokens_that_pass_and_the_weights_that_they_touch() -> None:
    """Two of four experts a row, one row: two experts' matrices; many rows: all of them. MACs go with rows × top_k."""
    def experts(rows: int) -> Experts:
        x, out = (Tensor(name, (rows, 8), DTYPES["bf16"], "activation") for name in ("x", "out"))
        scores = Tensor("scores", (rows, 4), DTYPES["bf16"], "activation")
        weights = tuple(Tensor(name, (4, 8, 6), DTYPES["bf16"], "weight") for name in ("gate", "up", "down"))
        return Experts(name="e", inputs=(x, scores, *weights), outputs=(out,), rows=rows, hidden=8, intermediate=6, experts=4,
                       top_k=2)

    assert experts(1).macs == 2 * 3 * 8 * 6
    assert experts(50).macs == 50 * experts(1).macs
    assert experts(1).read_bytes["weight"] == 2 * (3 * 8 * 6) * 2
    assert experts(50).read_bytes["weight"] == 4 * (3 * 8 * 6) * 2
    assert experts(1).vector_flops == 4 * (3 + 2) + 2 * 6 * 5 + 2 * 2 * 8
