"""Shipped models: do their sizes give the published numbers of parameters?"""

from __future__ import annotations

import json

import pytest
from tilesim.workloads import load_model, prefill, shipped_models, totals

#: Parameters of the published checkpoints: the safetensors metadata on the Hugging Face page that each file names. Tied
#: embeddings count once (the Qwen3-0.6B page counts a stored copy of its head, 155 582 464 more).
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
}


@pytest.mark.published
@pytest.mark.parametrize("name", PUBLISHED)
def test_graph_holds_the_published_number_of_parameters(name: str) -> None:
    assert totals(prefill(name, prompt=2).lower()).parameters == PUBLISHED[name]


@pytest.mark.published
def test_gpt3_has_the_175_billion_parameters_of_its_paper() -> None:
    """Brown et al., 2020, table 2.1 rounds to 175.0 billion; the shapes given there make 174.6."""
    assert totals(prefill("gpt3-175b", prompt=2).lower()).parameters == pytest.approx(175.0e9, rel=0.003)


@pytest.mark.parametrize("name", shipped_models())
def test_closed_form_of_the_model_equals_the_count_over_its_graph(name: str) -> None:
    model = load_model(name)
    assert totals(prefill(model, prompt=1).lower()).parameters == model.parameters


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_states_its_source_and_is_named_as_its_file(name: str) -> None:
    assert json.loads(shipped_models()[name].read_text())["_source"]
    assert load_model(name).name == name


def test_every_shipped_model_is_held_to_a_published_count() -> None:
    assert set(shipped_models()) == {*PUBLISHED, "gpt3-175b"}


@pytest.mark.parametrize(
    ("name", "heads", "kv_heads", "mlp", "norm", "tied"),
    [
        ("gpt2", 12, 12, "plain", "layernorm", True),
        ("llama-2-7b", 32, 32, "gated", "rmsnorm", False),
        ("llama-3.2-1b", 32, 8, "gated", "rmsnorm", True),
        ("qwen2.5-0.5b", 14, 2, "gated", "rmsnorm", True),
    ],
)
def test_families_are_read_with_their_traits(name: str, heads: int, kv_heads: int, mlp: str, norm: str, tied: bool) -> None:
    model = load_model(name)
    assert (model.heads, model.kv_heads, model.mlp, model.norm, model.tied_embeddings) == (heads, kv_heads, mlp, norm, tied)


def test_head_dim_may_differ_from_hidden_over_heads() -> None:
    model = load_model("qwen3-32b")
    assert (model.hidden, model.q_cols, model.head_dim, model.qk_norm) == (5120, 8192, 128, True)


def test_qwen_window_is_off_unless_switched_on() -> None:
    assert load_model("qwen2.5-7b").window_tokens is None
    assert load_model("mistral-7b-v0.1").window_tokens == 4096
    assert load_model("mistral-7b-v0.3").window_tokens is None
