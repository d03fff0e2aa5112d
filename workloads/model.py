"""The model as a value: the sizes of a decoder-only transformer, whatever file they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..sim.config import Config

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "configs" / "models"

#: Beyond any model; they keep a slip of the pen from filling the memory with operators.
MOST_COUNT, MOST_LAYERS = 2**31 - 1, 10_000

Count = Annotated[int, Field(ge=1, le=MOST_COUNT, strict=True)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS, strict=True)]


class ModelConfig(Config):
    """A decoder-only transformer: ``layers`` blocks of attention and MLP with a norm before each (pre-norm).

    ``kv_heads`` = ``heads`` is multi-head attention, 1 multi-query, between them grouped-query. A ``gated`` MLP computes
    down(f(gate(x)) · up(x)), a ``plain`` one down(f(up(x))). ``window_tokens`` is a sliding attention window, of the layers
    from ``first_window_layer`` on. With ``experts``, a router sends each token through ``top_k`` of so many gated MLPs.
    """

    name: str
    family: str
    layers: Layers
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count                     # of each expert, where there are experts
    vocab: Count
    max_positions: Count
    mlp: Literal["gated", "plain"]
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"]
    norm: Literal["rmsnorm", "layernorm"]
    positions: Literal["rotary", "learned"]
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    window_tokens: Count | None = None
    first_window_layer: Annotated[int, Field(ge=0)] = 0
    experts: Annotated[int, Field(ge=0, le=MOST_LAYERS, strict=True)] = 0
    top_k: Annotated[int, Field(ge=0, strict=True)] = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs of elements")
        if self.experts and not (1 <= self.top_k <= self.experts and self.mlp == "gated" and not self.mlp_bias):
            raise ValueError(f"{self.experts} experts want a top_k of 1 to {self.experts} and gated MLPs without bias")
        return self

    @property
    def q_cols(self) -> int:
        """Width of all query heads together; equals ``hidden`` unless ``head_dim`` says otherwise."""
        return self.heads * self.head_dim

    @property
    def kv_cols(self) -> int:
        return self.kv_heads * self.head_dim

    def window(self, layer: int) -> int | None:
        """The attention window of *layer*, or None where it sees everything."""
        return self.window_tokens if layer >= self.first_window_layer else None

    @property
    def parameters(self) -> int:
        """Weights in closed form; the graph's own count must equal it. Tied embeddings count once."""
        norm = self.hidden * (2 if self.norm == "layernorm" else 1)
        attention = self.hidden * (2 * self.q_cols + 2 * self.kv_cols) + (2 * self.head_dim if self.qk_norm else 0)
        attention += self.q_cols + 2 * self.kv_cols if self.qkv_bias else 0
        attention += self.hidden if self.attention_out_bias else 0
        matrices = 3 if self.mlp == "gated" else 2
        mlp = matrices * self.hidden * self.intermediate
        mlp += (matrices - 1) * self.intermediate + self.hidden if self.mlp_bias else 0
        mlp = self.experts * (mlp + self.hidden) if self.experts else mlp       # with a row of the router each
        tables = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        tables += self.max_positions * self.hidden if self.positions == "learned" else 0
        return self.layers * (attention + mlp + 2 * norm) + norm + tables

    @property
    def kv_elements_per_token(self) -> int:
        """K and V elements that one token adds to the cache, over all layers."""
        return 2 * self.layers * self.kv_cols
