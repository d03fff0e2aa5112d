"""Prefill and decode: do FLOPs, weights and KV bytes equal their closed forms, and is what cannot be refused?"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from tilesim.sim.errors import ConfigError
from tilesim.workloads import KvAppend, decode, load_model, prefill, program_order, tensors_of, totals

#: Weights of one Llama-3.2-1B layer that multiply: q, k, v, out; gate, up, down. Its head is the embedding table.
LLAMA_1B_LAYER = 2048 * (2048 + 512 + 512 + 2048) + 3 * 2048 * 8192
LLAMA_1B_HEAD = 2048 * 128256


def test_prefill_macs_are_the_closed_form() -> None:
    """Each token passes every matrix once; p tokens make p (p + 1) / 2 causal pairs; the head sees the last token only."""
    attention = 16 * 2 * 32 * 64 * (512 * 513 // 2)
    whole = totals(prefill("llama-3.2-1b", prompt=512, batch=2).lower())
    assert whole.macs == 2 * (512 * 16 * LLAMA_1B_LAYER + attention + LLAMA_1B_HEAD)


def test_all_logits_cost_the_head_for_every_token() -> None:
    last, every = (totals(prefill("llama-3.2-1b", prompt=512, logits=which).lower()).macs for which in ("last", "all"))
    assert every - last == 511 * LLAMA_1B_HEAD


def test_decode_macs_are_the_closed_form() -> None:
    whole = totals(decode("llama-3.2-1b", context=2048, batch=4).lower())
    assert whole.macs == 4 * (16 * LLAMA_1B_LAYER + 16 * 2 * 32 * 64 * 2048 + LLAMA_1B_HEAD)


@pytest.mark.parametrize("name", ["gpt2", "llama-2-7b", "llama-3.1-70b", "qwen2.5-7b", "qwen3-8b"])
@pytest.mark.parametrize(("kv", "bytes_per_element"), [("bf16", 2), ("int8", 1), ("int4", 0.5)])
def test_kv_bytes_are_the_closed_form(name: str, kv: str, bytes_per_element: float) -> None:
    """2 (K and V) × layers × kv_heads × head_dim × tokens × batch; a step reads those of the past and adds one token's."""
    model, context, batch = load_model(name), 1000, 3
    per_token = 2 * model.layers * model.kv_heads * model.head_dim * bytes_per_element
    whole = totals(decode(model, context=context, batch=batch, kv=kv).lower())
    assert whole.kv_bytes == per_token * context * batch
    assert whole.external_read_bytes["kv"] == per_token * (context - 1) * batch
    assert whole.external_written_bytes["kv"] == per_token * batch


def test_prefill_reads_no_kv_from_outside_and_writes_that_of_its_prompt() -> None:
    whole = totals(prefill("llama-3.2-1b", prompt=100, batch=2).lower())
    assert whole.external_read_bytes["kv"] == 0
    assert whole.external_written_bytes["kv"] == 2 * 100 * load_model("llama-3.2-1b").kv_elements_per_token * 2


def test_a_windowed_layer_keeps_a_ring_of_its_window() -> None:
    at_window, beyond = (totals(decode("mistral-7b-v0.1", context=n).lower()) for n in (4096, 9000))
    assert beyond.kv_bytes == at_window.kv_bytes == 2 * 32 * 8 * 128 * 4096 * 2
    assert beyond.macs == at_window.macs
    appends = [op for op in program_order(decode("mistral-7b-v0.1", context=9000).lower()) if isinstance(op, KvAppend)]
    assert {op.slot for op in appends} == {(9000 - 1) % 4096}


def test_decode_reads_every_weight_once() -> None:
    model = load_model("llama-3.1-8b")
    whole = totals(decode(model, context=10).lower())
    gathered, table = model.hidden, model.vocab * model.hidden
    assert whole.external_read_bytes["weight"] == 2 * (model.parameters - table + gathered)


def test_a_tied_table_is_stored_once_and_read_transposed_by_the_head() -> None:
    graph = decode("llama-3.2-1b").lower()
    head = graph.nodes["head"]["op"]
    assert head.inputs[1] == graph.nodes["embedding"]["op"].inputs[1]
    assert head.weight_transposed
    untied = decode("llama-3.1-8b").lower().nodes["head"]["op"]
    assert (untied.weight_transposed, untied.inputs[1].shape) == (False, (4096, 128256))


def test_quantised_weights_leave_norms_tables_and_head_at_16_bits() -> None:
    graph = decode("llama-3.1-8b", weights="int4-g128").lower()
    formats = {tensor.dtype.name for tensor in tensors_of(graph).values() if tensor.role == "weight" and tensor.dtype.bits < 16}
    kept = {t.name for t in tensors_of(graph).values() if t.role == "weight" and t.dtype.name == "bf16" and t.elements > 4096}
    assert formats == {"int4-g128"}
    assert kept == {"embedding.weight", "head.weight"}
    quantised = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
    others = load_model("llama-3.1-8b").parameters - quantised
    assert totals(graph).weight_bytes == quantised // 2 + quantised // 128 * 2 + others * 2


def test_embedding_format_can_be_asked_for() -> None:
    graph = decode("llama-3.1-8b", weights="int8", embedding="int8").lower()
    assert tensors_of(graph)["head.weight"].dtype.name == "int8"
    assert tensors_of(graph)["final_norm.weight"].dtype.name == "bf16"


def test_each_class_of_tensors_has_its_own_format() -> None:
    found = tensors_of(decode("gpt2", context=8, weights="int8", activations="fp16", kv="fp8").lower())
    assert found["layers.0.attention.q.weight"].dtype.name == "int8"
    assert found["layers.0.attention.q.bias"].dtype.name == "fp16"
    assert found["layers.0.attention.k_cache"].dtype.name == "fp8"
    assert found["layers.0.mlp.up.out"].dtype.name == "fp16"


def test_counts_from_numpy_are_accepted() -> None:
    assert prefill("gpt2", prompt=cast(Any, np.int64(8)), batch=cast(Any, np.int32(2))) == prefill("gpt2", prompt=8, batch=2)


def test_a_workload_travels_to_another_process_and_into_json() -> None:
    workload = decode("mistral-7b-v0.1", context=8, weights="int4-g128")
    assert pickle.loads(pickle.dumps(workload)) == workload
    assert json.loads(workload.model_dump_json())["precision"]["weights"]["group"] == 128
    assert hash(workload) == hash(decode("mistral-7b-v0.1", context=8, weights="int4-g128"))


BAD_WORKLOADS: list[tuple[Callable[[], object], str, str]] = [
    (lambda: prefill("gpt2", prompt=0), "prompt", "positive whole number"),
    (lambda: prefill("gpt2", prompt=cast(Any, 1.5)), "prompt", "positive whole number"),
    (lambda: prefill("gpt2", prompt=True), "prompt", "positive whole number"),
    (lambda: prefill("gpt2", prompt=8, batch=-1), "batch", "positive whole number"),
    (lambda: decode("gpt2", context=cast(Any, "8")), "context", "positive whole number"),
    (lambda: decode("gpt2", context=2048), "context", "use context ≤ 1024"),
    (lambda: prefill("gpt2", prompt=1025), "prompt", "use prompt ≤ 1024"),
    (lambda: prefill("gpt2", prompt=8, logits=cast(Any, "first")), "logits", "allowed: last, all"),
    (lambda: decode("gpt2", context=8, dtype="bf61"), "activations", "Did you mean 'bf16'?"),
    (lambda: decode("gpt2", context=8, weights="int4-g100"), "weights", "do not divide hidden (768)"),
    (lambda: decode("gpt2", context=8, kv="int4-g128"), "kv", "do not divide head_dim (64)"),
    (lambda: decode("gpt2", context=8, activations="int8-g128"), "activations", "group scales are for"),
    (lambda: decode("gpt4", context=8), "model", "no shipped model"),
]


@pytest.mark.parametrize(("build", "key", "words"), BAD_WORKLOADS)
def test_a_workload_that_cannot_be_is_refused_with_its_mend(build: Callable[[], object], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.key == key
    assert words in str(caught.value)


def test_importing_the_room_loads_neither_networkx_nor_pydantic() -> None:
    code = "import sys, tilesim.workloads; print([m for m in ('networkx', 'pydantic', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
