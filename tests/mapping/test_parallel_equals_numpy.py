"""Devices that share a model: the interpreted programs, exchanges included, equal numpy on the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from tilesim.mapping.dram_image import MappingFault
from tilesim.mapping.interpreter import interpret, random_order
from tilesim.mapping.interpreter_ranks import interpret_ranks, values_of
from tilesim.mapping.mapper import map_to_target
from tilesim.mapping.reference import run_reference
from tilesim.mapping.target import Target
from tilesim.sim.dtypes import DTYPES
from tilesim.workloads.graph import GraphBuilder, OperatorGraph
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.operators import Gemm
from tilesim.workloads.parallel import shard
from tilesim.workloads.phases import decode, prefill
from tilesim.workloads.routing import spread_experts
from tilesim.workloads.tensors import Tensor

MakeValues = Callable[[OperatorGraph, int], Mapping[str, np.ndarray]]

LLAMA = ModelConfig(name="tiny-llama", family="llama", layers=2, hidden=24, heads=8, kv_heads=4, head_dim=6, intermediate=40,
                    vocab=48, max_positions=64, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                    tied_embeddings=True)
QWEN = LLAMA.model_copy(update={"name": "tiny-qwen", "qk_norm": True, "qkv_bias": True, "tied_embeddings": False})
GPT2 = ModelConfig(name="tiny-gpt2", family="gpt2", layers=1, hidden=16, heads=4, kv_heads=4, head_dim=4, intermediate=48,
                   vocab=33, max_positions=40, mlp="plain", activation="gelu_tanh", norm="layernorm", positions="learned",
                   qkv_bias=True, attention_out_bias=True, mlp_bias=True, tied_embeddings=True)


MIXTRAL = LLAMA.model_copy(update={"name": "tiny-mixtral", "experts": 7, "top_k": 2, "tied_embeddings": False})


def two_products(rows: int, k: int, inner: int, n: int) -> OperatorGraph:
    """y = (x · A) · B: A is divided by columns, B by rows."""
    dtype, builder = DTYPES["bf16"], GraphBuilder("two")
    x, a = Tensor("x", (rows, k), dtype, "input"), Tensor("a", (k, inner), dtype, "weight")
    b, middle = Tensor("b", (inner, n), dtype, "weight"), Tensor("middle", (rows, inner), dtype, "activation")
    builder.add(Gemm(name="first", inputs=(x, a), outputs=(middle,), m=rows, n=inner, k=k))
    builder.add(Gemm(name="second", inputs=(middle, b), outputs=(Tensor("y", (rows, n), dtype, "output"),), m=rows, n=n, k=inner))
    return builder.graph


def ran(graph: OperatorGraph, ranks: int, target: Target, values: Mapping[str, np.ndarray], token_ids: list[int] | None = None,
        seed: int | None = None) -> list[dict[str, np.ndarray]]:
    own = shard(graph, ranks)
    program = map_to_target(own.graph, target, token_ids=token_ids)
    order = None if seed is None else random_order(program, seed)
    return interpret_ranks(program, values_of(own, values, ranks), order=order)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("sram_kib", [4, 16, 1024])
def test_columns_then_rows_then_a_sum_is_the_product(ranks: int, sram_kib: int, toy_target: Callable[..., Target],
                                                     small_integers: MakeValues) -> None:
    """Small integers: equal to the last bit, on every device."""
    graph = two_products(9, 20, 48, 28)
    values = small_integers(graph, 1)
    for found in ran(graph, ranks, toy_target(sram_kib=sram_kib), values, seed=7):
        np.testing.assert_array_equal(found["y"], values["x"] @ values["a"] @ values["b"])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("model", [LLAMA, QWEN, GPT2, MIXTRAL], ids=lambda model: model.name)
def test_a_divided_decoder_equals_the_whole_one(model: ModelConfig, ranks: int, toy_target: Callable[..., Target],
                                                small_integers: MakeValues) -> None:
    for workload in (prefill(model, prompt=7, batch=2), decode(model, context=9, batch=3)):
        graph = spread_experts(workload.lower())
        values = small_integers(graph, 5)
        ids = np.asarray(values["token_ids"]).ravel().tolist()
        wanted = run_reference(graph, values)
        found = ran(graph, ranks, toy_target(sram_kib=32), values, ids)
        for one in found:
            np.testing.assert_allclose(one["logits"], wanted["logits"], rtol=1e-9, atol=1e-8)
        caches = np.concatenate([one["layers.0.attention.k_cache"] for one in found], axis=1)
        np.testing.assert_allclose(caches, wanted["layers.0.attention.k_cache"], rtol=1e-9, atol=1e-9)


def test_a_device_alone_cannot_exchange(toy_target: Callable[..., Target], small_integers: MakeValues) -> None:
    graph = two_products(4, 8, 8, 8)
    own = shard(graph, 2)
    program = map_to_target(own.graph, toy_target())
    with pytest.raises(MappingFault, match="one device alone"):
        interpret(program, values_of(own, small_integers(graph, 1), 2)[0])
