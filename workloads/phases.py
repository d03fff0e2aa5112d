"""Phases of inference: what a prefill or a decode step of a model asks for, as a value that lowers to operators.

Prefill: *prompt* tokens of each sequence enter an empty KV cache; token p attends to the p + 1 tokens up to itself. Logits
are computed for the last token of each sequence only, as serving does (``logits="all"`` for every token).

Decode at context N: one new token of each sequence, the N-th, attends to N tokens, itself included. The KV rows of N − 1
tokens are read from the cache and that of the new one is appended. It does what the last row of a prefill of N tokens does.

Formats: *dtype* is that of weights, activations and KV cache unless one of them is stated. Quantising weights below 16 bits
leaves norms, biases, embedding tables and the LM head at 16 bits, as GPTQ (Frantar et al., 2023, arXiv:2210.17323: only the
linear layers of the blocks) and AWQ (Lin et al., 2024, arXiv:2306.00978) do; *embedding* sets tables and head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..sim.config import Config
from ..sim.dtypes import DTYPES, DType, parse_dtype
from ..sim.errors import ConfigError
from .decoder import Pass, lower_decoder
from .graph import OperatorGraph
from .model import ModelConfig
from .shipped import load_model
from .tensors import positive_count

Logits = Literal["last", "all"]


class Precision(Config):
    """The number format of each class of tensors."""

    weights: DType
    activations: DType
    kv: DType
    embedding: DType
    norm: DType


class Workload(Config):
    """A model in a phase: *tokens* new tokens of each of *batch* sequences, which end a context of *context* tokens."""

    model: ModelConfig
    phase: Literal["prefill", "decode"]
    batch: int
    tokens: int
    context: int
    precision: Precision
    logits: Logits = "last"

    @property
    def name(self) -> str:
        return f"{self.model.name} {self.phase}, batch {self.batch}, context {self.context}"

    @property
    def new_tokens(self) -> int:
        """Tokens that the phase processes, over all sequences."""
        return self.batch * self.tokens

    def lower(self) -> OperatorGraph:
        """The operator graph of one pass through the model."""
        formats = self.precision
        return lower_decoder(Pass(
            model=self.model, batch=self.batch, tokens=self.tokens, context=self.context, weights=formats.weights,
            activations=formats.activations, kv=formats.kv, embedding=formats.embedding, norm=formats.norm,
            all_logits=self.logits == "all",
        ))


def prefill(
    model: str | Path | ModelConfig, prompt: int = 512, batch: int = 1, *, dtype: str = "bf16", weights: str | None = None,
    activations: str | None = None, kv: str | None = None, embedding: str | None = None, logits: Logits = "last",
    layers: int | None = None,
) -> Workload:
    """The first pass over *prompt* tokens in each of *batch* sequences; see the module's text for what counts.

    *layers*: only the first so many layers of the model, between its embedding and its head.
    """
    config = _first_layers(load_model(model), layers)
    tokens = _within(config, "prompt", positive_count("prompt", prompt))
    return Workload(model=config, phase="prefill", batch=positive_count("batch", batch), tokens=tokens, context=tokens,
                    precision=_precision(config, dtype, weights, activations, kv, embedding), logits=_logits(logits))


def decode(
    model: str | Path | ModelConfig, context: int = 2048, batch: int = 1, *, dtype: str = "bf16", weights: str | None = None,
    activations: str | None = None, kv: str | None = None, embedding: str | None = None, layers: int | None = None,
) -> Workload:
    """One decode step: the *context*-th token of each of *batch* sequences; see the module's text for what counts.

    *layers*: only the first so many layers of the model, between its embedding and its head.
    """
    config = _first_layers(load_model(model), layers)
    return Workload(model=config, phase="decode", batch=positive_count("batch", batch), tokens=1,
                    context=_within(config, "context", positive_count("context", context)),
                    precision=_precision(config, dtype, weights, activations, kv, embedding))


def _first_layers(model: ModelConfig, layers: int | None) -> ModelConfig:
    """*model* cut off after its first *layers* layers, with that in its name; as it is for None."""
    if layers is None or positive_count("layers", layers) == model.layers:
        return model
    if layers > model.layers:
        raise ConfigError(f"layers is {layers}, but {model.name} has {model.layers}", key="layers", value=layers,
                          mend=f"use layers ≤ {model.layers}")
    return model.model_copy(update={"layers": layers, "name": f"{model.name} ({layers} of {model.layers} layers)"})


def _within(model: ModelConfig, key: str, tokens: int) -> int:
    if tokens > model.max_positions:
        raise ConfigError(f"{key} is {tokens}, but {model.name} has positions for {model.max_positions} tokens", key=key,
                          value=tokens, mend=f"use {key} ≤ {model.max_positions}")
    return tokens


def _logits(logits: Logits) -> Logits:
    if logits not in ("last", "all"):
        raise ConfigError(f"logits is {logits!r}", key="logits", value=logits, allowed=("last", "all"))
    return logits


def _precision(
    model: ModelConfig, dtype: str, weights: str | None, activations: str | None, kv: str | None, embedding: str | None,
) -> Precision:
    acts = _format("activations", activations or dtype)
    # What stays out of quantisation takes the format of the activations where that has 16 bits, bf16 otherwise.
    unquantised = acts if acts.bits >= 16 else DTYPES["bf16"]
    matrices, cache = _format("weights", weights or dtype), _format("kv", kv or dtype)
    tables = _format("embedding", embedding) if embedding else (matrices if matrices.bits >= 16 else unquantised)
    for axis, size in (("hidden", model.hidden), ("attention width", model.q_cols), ("intermediate", model.intermediate)):
        _groups_divide("weights", matrices, axis, size)
    _groups_divide("embedding", tables, "hidden", model.hidden)
    _groups_divide("kv", cache, "head_dim", model.head_dim)
    if acts.group:
        raise ConfigError(f"activations are {acts.name!r}; group scales are for weights, KV cache and embeddings",
                          key="activations", value=acts.name, mend="state activations, for instance 'bf16'")
    return Precision(weights=matrices, activations=acts, kv=cache, embedding=tables, norm=unquantised)


def _format(key: str, text: str) -> DType:
    try:
        return parse_dtype(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", key=key, value=error.value, allowed=error.allowed,
                          mend=error.mend) from None


def _groups_divide(key: str, dtype: DType, axis: str, size: int) -> None:
    """Groups run along the reduction axis; one that straddles two rows would need a layout that nobody uses."""
    if dtype.group and size % dtype.group:
        raise ConfigError(f"{key} is {dtype.name!r}, but its groups of {dtype.group} do not divide {axis} ({size})", key=key,
                          value=dtype.name, mend=f"use groups that divide {size}, or {dtype.name.partition('-g')[0]!r}")
