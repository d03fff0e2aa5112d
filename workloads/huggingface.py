"""Hugging Face ``config.json`` → :class:`ModelConfig`: one entry of :data:`FAMILIES` for each ``model_type``.

Keys, defaults and shapes follow the configuration and modelling files of ``transformers`` (v4.51, ``models/<family>/``). A
key that does not change shapes is ignored; one that does and is not known here is refused, for its counts would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from ..sim.errors import ConfigError
from ..sim.yaml_reader import Document
from .json_text import read_json
from .model import MOST_COUNT, MOST_LAYERS, ModelConfig

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
#: ``transformers.activations.ACT2FN`` names → our function.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}
#: Keys that change shapes or operators, and the values under which they do not; any other value is refused.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "partial_rotary_factor": (1, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "n_routed_experts": (0, None),
    "n_shared_experts": (0, None),
    "shared_expert_intermediate_size": (0, None),
    "decoder_sparse_step": (1, None),
    "mlp_only_layers": ([], None),
}


class _Keys:
    """Typed access to the keys of one document; every complaint carries file, line, key and value."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def has(self, key: str) -> bool:
        """Whether *key* stands there with a value: in these files null means "the default"."""
        return self.document.value.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        if not self.has(key):
            if default is None:
                file, _ = self.document.mark(())
                raise ConfigError(f"lacks the key {key!r}", file=file, line=1, key=key, mend=f"add: {key}")
            return default
        return self.document.value[key]

    def count(self, key: str, default: int | None = None, most: int = MOST_COUNT) -> int:
        value = self.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            self.refuse(key, f"a positive whole number up to {most} is wanted")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if type(value) is not bool:
            self.refuse(key, "true or false is wanted")
        return bool(value)

    def activation(self, key: str, default: str) -> Activation:
        value = self.get(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.refuse(key, "no activation function known here", tuple(ACTIVATIONS))
        return ACTIVATIONS[value]

    def refuse(self, key: str, why: str, allowed: tuple[str, ...] = (), mend: str | None = None) -> NoReturn:
        value = self.document.value.get(key)
        file, line = self.document.mark((key,))
        raise ConfigError(f"{key} is {value!r}: {why}", file=file, line=line, key=key, value=value, allowed=allowed,
                          mend=mend)


def _gpt2(keys: _Keys, name: str) -> ModelConfig:
    hidden, heads = keys.count("n_embd"), keys.count("n_head")
    return ModelConfig(
        name=name, family="gpt2", layers=keys.count("n_layer", most=MOST_LAYERS), hidden=hidden, heads=heads, kv_heads=heads,
        head_dim=_share(keys, hidden, heads, "n_head", "n_embd"), intermediate=keys.count("n_inner", 4 * hidden),
        vocab=keys.count("vocab_size"), max_positions=keys.count("n_positions"), mlp="plain",
        activation=keys.activation("activation_function", "gelu_new"), norm="layernorm", positions="learned",
        qkv_bias=True, attention_out_bias=True, mlp_bias=True, tied_embeddings=keys.flag("tie_word_embeddings", True),
    )


class _ExpertKeys(NamedTuple):
    """Where a family says how many experts there are, how many a token takes, and how wide one is."""

    experts: str
    top_k: str
    width: str


class _Traits(NamedTuple):
    """What the rotary, RMS-normed, gated families differ in; None for a default means that the key is required."""

    kv_heads_default: Literal["heads"] | None = None
    head_dim_default: int | None = None                 # None: hidden / heads
    qkv_bias: bool | None = False                       # None: what ``attention_bias`` says, for q, k, v and out
    has_mlp_bias_key: bool = False
    qk_norm: bool = False
    window_default: int | None = None
    experts: _ExpertKeys | None = None
    window_needs_switch: bool = False                   # ``use_sliding_window`` must be true, from ``max_window_layers`` on


def _decoder(keys: _Keys, name: str, family: str, traits: _Traits) -> ModelConfig:
    hidden, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    # Absence means another number in each family's class; a stated null means multi-head attention in all of them.
    is_multi_head = traits.kv_heads_default == "heads" or "num_key_value_heads" in keys.document.value
    kv_heads = keys.count("num_key_value_heads", heads if is_multi_head else None)
    if heads % kv_heads:
        keys.refuse("num_key_value_heads", f"num_attention_heads ({heads}) is no multiple of it")
    if keys.has("head_dim") or traits.head_dim_default:
        head_dim = keys.count("head_dim", traits.head_dim_default)
    else:
        head_dim = _share(keys, hidden, heads, "num_attention_heads", "hidden_size")
    if head_dim % 2:
        keys.refuse("head_dim" if keys.has("head_dim") else "num_attention_heads",
                    f"it gives heads of {head_dim}, and rotary positions turn pairs of elements")
    layers = keys.count("num_hidden_layers", most=MOST_LAYERS)
    window_tokens, first_window_layer = _window(keys, layers, traits)
    attention_bias = traits.qkv_bias is None and keys.flag("attention_bias", False)
    return ModelConfig(
        name=name, family=family, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        intermediate=keys.count(traits.experts.width if traits.experts else "intermediate_size"), vocab=keys.count("vocab_size"),
        max_positions=keys.count("max_position_embeddings"), mlp="gated", activation=keys.activation("hidden_act", "silu"),
        norm="rmsnorm", positions="rotary", qkv_bias=bool(traits.qkv_bias) or attention_bias,
        attention_out_bias=attention_bias, mlp_bias=traits.has_mlp_bias_key and keys.flag("mlp_bias", False),
        qk_norm=traits.qk_norm, tied_embeddings=keys.flag("tie_word_embeddings", False),
        window_tokens=window_tokens, first_window_layer=first_window_layer, **_experts(keys, traits.experts),
    )


def _experts(keys: _Keys, names: _ExpertKeys | None) -> dict[str, int]:
    if names is None:
        return {}
    experts, top_k = keys.count(names.experts, most=MOST_LAYERS), keys.count(names.top_k)
    if top_k > experts:
        keys.refuse(names.top_k, f"there are {experts} experts ({names.experts})")
    return {"experts": experts, "top_k": top_k}


def _share(keys: _Keys, hidden: int, heads: int, heads_key: str, hidden_key: str) -> int:
    if hidden % heads:
        keys.refuse(heads_key, f"{hidden_key} ({hidden}) is no multiple of it", mend="or give head_dim"
                    if hidden_key == "hidden_size" else None)
    return hidden // heads


def _window(keys: _Keys, layers: int, traits: _Traits) -> tuple[int | None, int]:
    """(window in tokens or None, first layer that has it)."""
    is_on = keys.flag("use_sliding_window", False) if traits.window_needs_switch else traits.window_default is not None
    stated = "sliding_window" in keys.document.value       # null switches it off, absence means the family's default
    if not is_on or (stated and not keys.has("sliding_window")):
        return None, 0
    first = _first_window_layer(keys, layers) if traits.window_needs_switch else 0
    return (keys.count("sliding_window", traits.window_default), first) if first < layers else (None, 0)


def _first_window_layer(keys: _Keys, layers: int) -> int:
    if keys.has("layer_types"):
        kinds = keys.get("layer_types")
        first = kinds.count("full_attention") if isinstance(kinds, list) else -1
        if kinds != ["full_attention"] * first + ["sliding_attention"] * (layers - first):
            keys.refuse("layer_types", "only full_attention layers followed by sliding_attention layers are known here")
        return first
    value = keys.get("max_window_layers")
    if type(value) is not int or value < 0:
        keys.refuse("max_window_layers", "a whole number of layers is wanted")
    return int(value)


_LLAMA = _Traits(kv_heads_default="heads", qkv_bias=None, has_mlp_bias_key=True)
_MISTRAL = _Traits(window_default=4096)
_QWEN2 = _Traits(qkv_bias=True, window_needs_switch=True)
_QWEN3 = _Traits(qkv_bias=None, head_dim_default=128, qk_norm=True, window_needs_switch=True)
_MIXTRAL = _MISTRAL._replace(experts=_ExpertKeys("num_local_experts", "num_experts_per_tok", "intermediate_size"))
_QWEN3_MOE = _Traits(qkv_bias=None, qk_norm=True, window_needs_switch=True,
                     experts=_ExpertKeys("num_experts", "num_experts_per_tok", "moe_intermediate_size"))

FAMILIES: dict[str, Callable[[_Keys, str], ModelConfig]] = {
    "gpt2": _gpt2,
    "llama": lambda keys, name: _decoder(keys, name, "llama", _LLAMA),
    "mistral": lambda keys, name: _decoder(keys, name, "mistral", _MISTRAL),
    "qwen2": lambda keys, name: _decoder(keys, name, "qwen2", _QWEN2),
    "qwen3": lambda keys, name: _decoder(keys, name, "qwen3", _QWEN3),
    "mixtral": lambda keys, name: _decoder(keys, name, "mixtral", _MIXTRAL),
    "qwen3_moe": lambda keys, name: _decoder(keys, name, "qwen3_moe", _QWEN3_MOE),
}
#: Keys of :data:`HARMLESS` that a family does understand.
_UNDERSTOOD = {"mixtral": ("num_local_experts",), "qwen3_moe": ("num_experts",)}


def read_model(path: Path) -> ModelConfig:
    """The model that the ``config.json`` at *path* describes, or a ConfigError with file and line."""
    keys = _Keys(read_json(path))
    family = keys.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        keys.refuse("model_type", "no model family known here", tuple(FAMILIES))
    for key, harmless in HARMLESS.items():
        if keys.has(key) and keys.get(key) not in harmless and key not in _UNDERSTOOD.get(family, ()):
            keys.refuse(key, f"a {family} with this key has shapes that are not modelled",
                        mend="remove the key if it is not meant")
    return FAMILIES[family](keys, path.resolve().parent.name if path.name == "config.json" else path.stem)
