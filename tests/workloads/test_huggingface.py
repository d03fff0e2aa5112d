"""Foreign config.json files: what is read, what is ignored, and what each bad one says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilesim.sim.errors import ConfigError
from tilesim.workloads import ModelConfig, load_model

Write: TypeAlias = Callable[[str | Mapping[str, object]], Path]

LLAMA: dict[str, object] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 128, "max_position_embeddings": 256,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(content: str | Mapping[str, object]) -> Path:
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return path

    return put


def error_of(path: str | Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_model(str(path))
    return caught.value


def test_unknown_keys_are_ignored(write: Write) -> None:
    assert load_model(write(LLAMA | {"rope_scaling": {"factor": 8.0}, "torch_dtype": "bfloat16", "max_length": 20})).layers == 3


def test_a_model_is_named_after_the_folder_of_its_config(write: Write, tmp_path: Path) -> None:
    assert load_model(write(LLAMA)).name == tmp_path.name


@pytest.mark.parametrize("kv_heads", [{"num_key_value_heads": None}, {}])
def test_llama_without_kv_heads_is_multi_head(write: Write, kv_heads: dict[str, object]) -> None:
    content = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | kv_heads
    assert load_model(write(content)).kv_heads == 4


def test_one_kv_head_is_multi_query(write: Write) -> None:
    model = load_model(write(LLAMA | {"num_key_value_heads": 1}))
    assert (model.kv_heads, model.kv_cols, model.q_cols) == (1, 16, 64)


def test_llama_biases_follow_their_keys(write: Write) -> None:
    model = load_model(write(LLAMA | {"attention_bias": True, "mlp_bias": True}))
    assert (model.qkv_bias, model.attention_out_bias, model.mlp_bias) == (True, True, True)


def test_qwen2_biases_its_q_k_v_only(write: Write) -> None:
    model = load_model(write(LLAMA | {"model_type": "qwen2"}))
    assert (model.qkv_bias, model.attention_out_bias, model.mlp_bias) == (True, False, False)


def test_gpt2_inner_width_defaults_to_four_times_hidden(write: Write) -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 100}
    assert load_model(write(gpt2)).intermediate == 256
    assert load_model(write(gpt2 | {"n_inner": 100})).intermediate == 100


def test_qwen2_window_begins_at_max_window_layers(write: Write) -> None:
    model = load_model(write(QWEN2))
    assert [model.window(layer) for layer in range(3)] == [None, None, 16]


def test_layer_types_say_where_the_window_begins(write: Write) -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    model = load_model(write(QWEN2 | {"layer_types": kinds}))
    assert [model.window(layer) for layer in range(3)] == [None, 16, 16]


@pytest.mark.parametrize(("stated", "window"), [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 8}, 8)])
def test_mistral_window_defaults_to_its_class_and_null_switches_it_off(
    write: Write, stated: dict[str, object], window: int | None,
) -> None:
    assert load_model(write(LLAMA | {"model_type": "mistral"} | stated)).window_tokens == window


#: (change to the good file, key that the error names, words that it says).
BAD_VALUES: list[tuple[dict[str, object], str, str]] = [
    ({"model_type": "lama"}, "model_type", "Did you mean 'llama'?"),
    ({"model_type": ["llama"]}, "model_type", "no model family"),
    ({"hidden_size": -64}, "hidden_size", "hidden_size is -64: a positive whole number"),
    ({"hidden_size": 0}, "hidden_size", "positive"),
    ({"hidden_size": 64.0}, "hidden_size", "whole number"),
    ({"hidden_size": True}, "hidden_size", "whole number"),
    ({"hidden_size": "64"}, "hidden_size", "whole number"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers", "positive whole number"),
    ({"intermediate_size": [96, 96, 64]}, "intermediate_size", "whole number"),
    ({"hidden_size": 66}, "num_attention_heads", "no multiple"),
    ({"head_dim": 15}, "head_dim", "pairs"),
    ({"num_key_value_heads": 3}, "num_key_value_heads", "no multiple"),
    ({"hidden_act": "sillu"}, "hidden_act", "Did you mean 'silu'?"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "true or false"),
    ({"num_local_experts": 8}, "num_local_experts", "not modelled"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder", "not modelled"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "not modelled"),
]


@pytest.mark.parametrize(("change", "key", "words"), BAD_VALUES)
def test_a_wrong_value_is_refused_with_file_line_and_key(write: Write, change: dict[str, object], key: str, words: str) -> None:
    path = write(LLAMA | change)
    error = error_of(path)
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if f'"{key}"' in text)
    assert (error.file, error.line, error.key) == (str(path), line, key)
    assert words in str(error)


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "num_key_value_heads"])
def test_a_missing_key_is_named(write: Write, key: str) -> None:
    path = write({name: value for name, value in LLAMA.items() if name != key})
    error = error_of(path)
    assert (error.file, error.key) == (str(path), key)
    assert f"lacks the key '{key}'" in str(error)


def test_mistral_must_state_its_kv_heads(write: Write) -> None:
    path = write({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"model_type": "mistral"})
    assert error_of(path).key == "num_key_value_heads"


def test_layers_beyond_any_model_are_refused(write: Write) -> None:
    assert "num_hidden_layers" in str(error_of(write(LLAMA | {"num_hidden_layers": 10_001})))


def test_alternating_windows_are_refused(write: Write) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert error_of(write(QWEN2 | {"layer_types": kinds})).key == "layer_types"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{"model_type": "llama",\n "hidden_size": 64', 2, "truncated"),
        ('{"model_type": "lla', 1, "truncated"),
        ("", 1, "too early"),
        ('{"model_type": "llama",\n "hidden_size" 64}', 2, "Expecting ':'"),
        ('{"a": 1,\n "b": [{"c": 1, "a": 2}],\n "a": 3}', 3, "key 'a' stands twice (first on line 1)"),
        ('{"a": [1, {"b": "x,y{",\n "b": 2}]}', 2, "key 'a.1.b' stands twice"),
        ("[1, 2]", 1, "object"),
    ],
)
def test_broken_json_is_refused_with_its_line(write: Write, text: str, line: int, words: str) -> None:
    path = write(text)
    error = error_of(path)
    assert (error.file, error.line) == (str(path), line)
    assert words in str(error)


def test_a_directory_is_refused_and_the_config_in_it_is_offered(write: Write) -> None:
    folder = write(LLAMA).parent
    error = error_of(folder)
    assert "is a directory" in str(error)
    assert str(folder / "config.json") in str(error)


def test_an_unknown_name_offers_the_nearest_model() -> None:
    assert "Did you mean 'llama-3.2-1b'?" in str(error_of("llama-3.2-1B-it"))


def test_a_shipped_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("gpt2").family == "gpt2"


def test_a_config_in_the_working_folder_is_named_after_it(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(LLAMA)
    monkeypatch.chdir(tmp_path)
    assert load_model("config.json").name == tmp_path.name


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4,
)
keys = st.sampled_from([*QWEN2, "head_dim", "layer_types", "hidden_act", "tie_word_embeddings", "num_experts", "attention_bias"])


@given(changes=st.dictionaries(keys, anything, max_size=3), family=st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_key_holds_the_answer_is_a_model_or_one_clear_error(
    write: Write, changes: dict[str, object], family: str,
) -> None:
    path = write(QWEN2 | {"model_type": family} | changes)
    answer: ModelConfig | ConfigError
    try:
        answer = load_model(path)
    except ConfigError as error:
        answer = error
    assert answer.file == str(path) if isinstance(answer, ConfigError) else answer.parameters > 0


@given(cut=st.integers(0, 400))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_is_refused_with_its_line(write: Write, cut: int) -> None:
    text = json.dumps(LLAMA, indent=1)
    path = write(text[: min(cut, len(text) - 1)])
    error = error_of(path)
    assert error.line is not None
    assert "is no JSON" in str(error)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "no such file" in str(error_of(tmp_path / "none.json"))


MIXTRAL = LLAMA | {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2}


def test_experts_are_read_where_the_family_has_them(write: Write) -> None:
    model = load_model(write(MIXTRAL))
    assert (model.experts, model.top_k) == (8, 2)
    assert load_model(write(LLAMA)).experts == 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_experts_per_tok": 9}, "there are 8 experts"),
    ({"n_shared_experts": 1}, "shapes that are not modelled"),
    ({"num_local_experts": 0}, "a positive whole number"),
])
def test_experts_that_cannot_be_are_refused_with_their_line(write: Write, changes: dict[str, object], words: str) -> None:
    assert words in str(error_of(write(MIXTRAL | changes)))
