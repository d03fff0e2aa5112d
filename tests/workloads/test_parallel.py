"""Tensor parallelism as a graph: what devices share adds up to the model, and what cannot be shared is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.sim.errors import ConfigError
from tilesim.workloads.collective import Collective
from tilesim.workloads.graph import program_order, tensors_of, totals
from tilesim.workloads.parallel import shard
from tilesim.workloads.phases import decode, prefill
from tilesim.workloads.single import attention, gemm, norm

models = st.sampled_from(["llama-3.2-1b", "qwen3-0.6b", "gpt2", "mistral-7b-v0.1"])


@settings(max_examples=20, deadline=None)
@given(model=models, ranks=st.sampled_from([2, 4]), tokens=st.sampled_from([1, 33]))
def test_macs_and_caches_of_all_devices_are_the_models(model: str, ranks: int, tokens: int) -> None:
    whole = (decode(model, context=64) if tokens == 1 else prefill(model, prompt=tokens)).lower()
    own = shard(whole, ranks)
    padded = (-50257 % ranks) * 768 if model == "gpt2" else 0            # columns of the head that no token has
    assert ranks * totals(own.graph).macs == totals(whole).macs + padded
    assert ranks * totals(own.graph).kv_bytes == totals(whole).kv_bytes


def test_a_decoder_layer_sums_twice_and_the_head_gathers() -> None:
    own = shard(decode("llama-3.2-1b", context=64).lower(), 4)
    found = [(op.layer, op.function) for op in program_order(own.graph) if isinstance(op, Collective)]
    assert found == [(layer, "allreduce") for layer in range(16) for _ in range(2)] + [(None, "allgather")]
    assert {op.ranks for op in program_order(own.graph) if isinstance(op, Collective)} == {4}


def test_columns_first_rows_second() -> None:
    """llama-3.2-1b on four: q keeps all 2048 rows and a quarter of the columns, out a quarter of the rows and all columns."""
    tensors = tensors_of(shard(decode("llama-3.2-1b", context=64).lower(), 4).graph)
    assert tensors["layers.0.attention.q.weight"].shape == (2048, 512)
    assert tensors["layers.0.attention.out.weight"].shape == (512, 2048)
    assert tensors["layers.0.attention.k_cache"].shape == (1, 2, 64, 64)
    assert tensors["layers.0.mlp.norm.weight"].shape == (2048,)
    assert tensors["embedding.weight"].shape == (128256, 2048)          # the gather needs it whole
    assert tensors["embedding.weight.part"].shape == (32064, 2048)      # tied: the head's rows of it


def test_one_device_runs_the_model_itself() -> None:
    graph = decode("llama-3.2-1b", context=64).lower()
    assert shard(graph, 1).graph is graph


def test_a_single_product_and_a_single_attention_are_gathered() -> None:
    for graph in (gemm(8, 32, 16), attention(8, 16, 1, 64)):
        kinds = [op.kind for op in program_order(shard(graph, 4).graph)]
        assert kinds[-1] == "collective"
        assert len(kinds) == 2


@pytest.mark.parametrize(("graph", "ranks", "words"), [
    (lambda: decode("llama-3.2-1b", context=64).lower(), 16, r"layers\.0\.attention\.k_rope: heads = 8, which 16 devices"),
    (lambda: attention(6, 16, 1, 64), 4, r"attention: KV heads = 6, which 4 devices cannot share evenly"),
    (lambda: norm(4, 64), 2, r"no matrix product and no attention"),
    (lambda: decode("llama-3.2-1b", context=64, weights="int4-g128").lower(), 0, r"0 devices"),
])
def test_what_cannot_be_shared_is_named(graph, ranks: int, words: str) -> None:        # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words):
        shard(graph(), ranks)
