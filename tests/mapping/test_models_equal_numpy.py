"""Whole small models: the interpreted program equals a transformer written plainly in numpy, prefill and decode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tilesim.mapping.dram_image import decoded_places
from tilesim.mapping.functions import Array
from tilesim.mapping.interpreter import interpret, random_order
from tilesim.mapping.mapper import map_to_target
from tilesim.mapping.target import AttentionStyle, Target
from tilesim.memory.dram import DramConfig
from tilesim.workloads.experts import Experts
from tilesim.workloads.graph import OperatorGraph, program_order, totals
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.phases import Workload, decode, prefill
from tilesim.workloads.routing import spread_experts

MakeTarget = Callable[..., Target]
MakeValues = Callable[[OperatorGraph, int], dict[str, Any]]

LLAMA = ModelConfig(name="tiny-llama", family="llama", layers=2, hidden=24, heads=4, kv_heads=2, head_dim=6, intermediate=40,
                    vocab=50, max_positions=64, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                    tied_embeddings=True)
GPT2 = ModelConfig(name="tiny-gpt2", family="gpt2", layers=2, hidden=20, heads=5, kv_heads=5, head_dim=4, intermediate=44,
                   vocab=33, max_positions=40, mlp="plain", activation="gelu_tanh", norm="layernorm", positions="learned",
                   qkv_bias=True, attention_out_bias=True, mlp_bias=True, tied_embeddings=True)
QWEN = LLAMA.model_copy(update={"name": "tiny-qwen", "qk_norm": True, "qkv_bias": True, "tied_embeddings": False})
MISTRAL = LLAMA.model_copy(update={"name": "tiny-mistral", "window_tokens": 5, "tied_embeddings": False})
MODELS = [LLAMA, GPT2, QWEN, MISTRAL]


def transformer(model: ModelConfig, values: dict[str, Any], ids: Array, start: int) -> tuple[Array, dict[str, Array]]:
    """Logits of the last token of each sequence, and the caches; *ids* [batch, tokens], positions from *start* on."""
    positions = np.arange(start, start + ids.shape[1], dtype=np.int64)
    x = values["embedding.weight"][ids].astype(float)
    if model.positions == "learned":
        x = x + values["embedding.positions"][positions]
    caches: dict[str, Array] = {}
    for layer in range(model.layers):
        at = f"layers.{layer}"
        x = x + attention(model, values, f"{at}.attention", norm(model, values, f"{at}.attention.norm", x), positions, caches,
                          model.window(layer))
        x = x + mlp(model, values, f"{at}.mlp", norm(model, values, f"{at}.mlp.norm", x))
    last = norm(model, values, "final_norm", x)[:, -1]
    head = values["embedding.weight"].T if model.tied_embeddings else values["head.weight"]
    return last @ head, caches


def linear(values: dict[str, Any], name: str, x: Array) -> Array:
    return np.asarray(x @ values[f"{name}.weight"] + values.get(f"{name}.bias", 0))


def norm(model: ModelConfig, values: dict[str, Any], name: str, x: Array) -> Array:
    if model.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return np.asarray(scaled * values[f"{name}.weight"] + values.get(f"{name}.bias", 0))


def mlp(model: ModelConfig, values: dict[str, Any], at: str, x: Array) -> Array:
    if model.mlp == "gated":
        gate = linear(values, f"{at}.gate", x)
        inner = gate / (1 + np.exp(-gate)) * linear(values, f"{at}.up", x)
    else:
        up = linear(values, f"{at}.up", x)
        inner = up / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    return linear(values, f"{at}.down", inner)


def attention(model: ModelConfig, values: dict[str, Any], at: str, x: Array, positions: npt.NDArray[np.int64],
              caches: dict[str, Array], window: int | None) -> Array:
    batch, tokens, _ = x.shape
    q, k, v = (linear(values, f"{at}.{name}", x).reshape(batch, tokens, -1, model.head_dim) for name in "qkv")
    if model.qk_norm:
        q, k = norm(model, values, f"{at}.q_norm", q), norm(model, values, f"{at}.k_norm", k)
    if model.positions == "rotary":
        q, k = (rotate(t, positions) for t in (q, k))
    old = [values[f"{at}.{name}_cache"].transpose(0, 2, 1, 3).astype(float).copy() for name in "kv"]
    slot = positions[0] % old[0].shape[1]
    for cache, new, name in zip(old, (k, v), "kv", strict=True):
        cache[:, slot:slot + tokens] = new
        caches[f"{at}.{name}_cache"] = cache.transpose(0, 2, 1, 3)
    keys, context = old, old[0].shape[1]
    out = np.zeros_like(q)
    for token in range(tokens):
        last = context - tokens + token
        first = 0 if window is None else max(0, last - window + 1)
        for head in range(model.heads):
            shared = head * model.kv_heads // model.heads
            scores = np.einsum("bd,btd->bt", q[:, token, head], keys[0][:, first:last + 1, shared]) / math.sqrt(model.head_dim)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[:, token, head] = np.einsum("bt,btd->bd", weights, keys[1][:, first:last + 1, shared])
    return linear(values, f"{at}.out", out.reshape(batch, tokens, -1))


def rotate(x: Array, positions: npt.NDArray[np.int64]) -> Array:
    half = x.shape[-1] // 2
    angle = (positions[:, None] / 10000.0 ** (np.arange(half) / half))[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def compare(workload: Workload, target: Target, small_integers: MakeValues, attention: AttentionStyle, places: Any = None) -> None:
    graph = spread_experts(workload.lower())
    values = small_integers(graph, 3)
    ids = np.asarray(values["token_ids"]).reshape(workload.batch, workload.tokens)
    program = map_to_target(graph, target, attention=attention, token_ids=ids.ravel().tolist())
    kwargs = {} if places is None else {"places": places[0], "burst_bytes": places[1]}
    found = interpret(program, values, order=random_order(program, 5), sram_bytes=target.sram_bytes, **kwargs)
    logits, caches = transformer(workload.model, values, ids, workload.context - workload.tokens)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-9, atol=1e-8)
    for name, cache in caches.items():
        np.testing.assert_allclose(found[name], cache, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sram_kib", [16, 64, 1024])
@pytest.mark.parametrize("attention", ["flash", "unfused"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_prefill_equals_a_plain_transformer(model: ModelConfig, attention: AttentionStyle, sram_kib: int, toy_target: MakeTarget,
                                            small_integers: MakeValues) -> None:
    compare(prefill(model, prompt=11, batch=2), toy_target(sram_kib=sram_kib), small_integers, attention)


@pytest.mark.parametrize("sram_kib", [16, 64, 1024])
@pytest.mark.parametrize("attention", ["flash", "unfused"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_decode_equals_a_plain_transformer(model: ModelConfig, attention: AttentionStyle, sram_kib: int, toy_target: MakeTarget,
                                           small_integers: MakeValues) -> None:
    """Mistral's window of 5 at context 17 makes its cache a ring whose oldest row is replaced."""
    compare(decode(model, context=17, batch=3), toy_target(sram_kib=sram_kib), small_integers, attention)


@pytest.mark.parametrize("weights", ["int8", "int4-g4", "int8-g8"])
def test_packed_weights_and_cache_equal_a_plain_transformer(weights: str, toy_target: MakeTarget,
                                                            small_integers: MakeValues) -> None:
    for workload in (prefill(LLAMA, prompt=9, weights=weights, kv="int8-g6"), decode(LLAMA, context=9, weights=weights,
                                                                                 kv="int8-g6", batch=2)):
        compare(workload, toy_target(sram_kib=32), small_integers, "auto")


def test_model_behind_the_true_address_map_equals_a_plain_transformer(toy_target: MakeTarget,
                                                                      small_integers: MakeValues) -> None:
    """Every burst stands where HBM3's interleaving puts it: channels, pseudo-channels, banks, rows, columns."""
    places = decoded_places(DramConfig(type="dram", memory="hbm3-6400", stacks=2))
    compare(decode(LLAMA, context=17), toy_target(sram_kib=16), small_integers, "auto", places)


MIXTRAL = LLAMA.model_copy(update={"name": "tiny-mixtral", "experts": 5, "top_k": 2, "tied_embeddings": False})


def mixture(model: ModelConfig, values: dict[str, Any], at: str, x: Array, active: int) -> Array:
    """Row by row, expert by expert; the choices are those that a run assumes."""
    flat = x.reshape(-1, model.hidden)
    scores, out = flat @ values[f"{at}.router.weight"], np.zeros_like(flat)
    weights = [np.concatenate([values[f"{at}.experts.{name}.weight.{g}"] for g in (0, 1)
                               if f"{at}.experts.{name}.weight.{g}" in values]) for name in ("gate", "up", "down")]
    for row, token in enumerate(flat):
        chosen = [(row * model.top_k + choice) % active for choice in range(model.top_k)]
        shares = np.exp(scores[row, chosen])
        for expert, share in zip(chosen, shares / shares.sum(), strict=True):
            gate = token @ weights[0][expert]
            out[row] += share * ((gate / (1 + np.exp(-gate)) * (token @ weights[1][expert])) @ weights[2][expert])
    return out.reshape(x.shape)


@pytest.mark.parametrize("sram_kib", [16, 64, 1024])
@pytest.mark.parametrize(("experts", "top_k", "tokens", "batch"),
                         [(5, 2, 11, 2), (4, 2, 6, 1), (8, 3, 1, 3), (6, 1, 1, 1), (6, 4, 5, 1)])
def test_experts_equal_a_plain_mixture(experts: int, top_k: int, tokens: int, batch: int, sram_kib: int, toy_target: MakeTarget,
                                       small_integers: MakeValues, monkeypatch: pytest.MonkeyPatch) -> None:
    """Periods of the routing that do and do not divide; experts with a row more than others, and experts without rows."""
    model = MIXTRAL.model_copy(update={"experts": experts, "top_k": top_k})
    workload = prefill(model, prompt=tokens, batch=batch) if tokens > 1 else decode(model, context=9, batch=batch)
    whole = workload.lower()
    (active,) = {op.active_experts for op in program_order(whole) if isinstance(op, Experts)}
    monkeypatch.setitem(globals(), "mlp", lambda model, values, at, x: mixture(model, values, at, x, active))
    compare(workload, toy_target(sram_kib=sram_kib), small_integers, "auto")
    spread = spread_experts(whole)
    for counted in ("macs", "flops", "parameters", "kv_bytes", "external_read_bytes"):
        assert getattr(totals(spread), counted) == getattr(totals(whole), counted)
