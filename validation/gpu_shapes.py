"""Shapes of decoder stacks in plain numbers, and which one a table means by a name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from ..workloads.model import ModelConfig
from ..workloads.shipped import load_model, shipped_models


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder (or encoder) stack in plain numbers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    gated: bool = True                      # three FFN matrices and act(gate)·up, else two and act(x)
    experts: int = 0                        # routed experts of width `ffn` in place of the FFN; 0: a dense FFN
    top_k: int = 0
    shared_ffn: int = 0                     # width of an expert that every token takes beside the routed ones
    dense_layers: int = 0                   # layers of these that have no experts but an FFN of `dense_ffn`
    dense_ffn: int = 0
    parallel_block: bool = False            # attention and FFN side by side: one all-reduce a layer (GPT-J, Falcon)

    @property
    def weights(self) -> float:
        """Parameters without the embedding look-up."""
        qkv = self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim
        out = self.heads * self.head_dim * self.hidden
        matrices = (3 if self.gated else 2) * self.hidden
        ffn = matrices * (self.ffn * max(1, self.experts) + self.shared_ffn)
        mlps = (self.layers - self.dense_layers) * ffn + self.dense_layers * matrices * self.dense_ffn
        return float(self.layers * (qkv + out) + mlps + self.hidden * self.vocabulary)

    @property
    def dense_part(self) -> Shape:
        """The stack of its layers that have no experts."""
        return replace(self, layers=self.dense_layers, ffn=self.dense_ffn, experts=0, top_k=0, shared_ffn=0, dense_layers=0)

    @property
    def stored_weights(self) -> float:
        """Parameters in memory: with the embedding table (no shipped model of this size ties it to the head)."""
        return self.weights + float(self.hidden * self.vocabulary)


#: Published shapes: model cards and `config.json` files of the models.
SHAPES = {
    "llama-7b": Shape(32, 4096, 32, 32, 128, 11008, 32000),
    "llama-13b": Shape(40, 5120, 40, 40, 128, 13824, 32000),
    "llama-30b": Shape(60, 6656, 52, 52, 128, 17920, 32000),
    "code-llama-34b": Shape(48, 8192, 64, 8, 128, 22016, 32000),
    "mistral-7b": Shape(32, 4096, 32, 8, 128, 14336, 32000),
    "yi-34b": Shape(60, 7168, 56, 8, 128, 20480, 64000),
    "qwen1.5-72b": Shape(80, 8192, 64, 64, 128, 24576, 152064),
    "llama-70b": Shape(80, 8192, 64, 8, 128, 28672, 32000),
    "llama-3-8b": Shape(32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3-70b": Shape(80, 8192, 64, 8, 128, 28672, 128256),
    "llama-3-405b": Shape(126, 16384, 128, 8, 128, 53248, 128256),
    "bloom-176b": Shape(70, 14336, 112, 112, 128, 57344, 250880, gated=False),
    "gpt-j-6b": Shape(28, 4096, 16, 16, 256, 16384, 50400, gated=False, parallel_block=True),
    "falcon-180b": Shape(80, 14848, 232, 8, 64, 59392, 65024, gated=False, parallel_block=True),
    "qwen2.5-1.5b": Shape(28, 1536, 12, 2, 128, 8960, 151936),
    "qwen2.5-14b": Shape(48, 5120, 40, 8, 128, 13824, 152064),
    "qwen3-30b-a3b": Shape(48, 2048, 32, 4, 128, 768, 151936, experts=128, top_k=8),
    "qwen3-32b": Shape(64, 5120, 64, 8, 128, 25600, 151936),
    "mixtral-8x7b": Shape(32, 4096, 32, 8, 128, 14336, 32000, experts=8, top_k=2),
    "mixtral-8x22b": Shape(56, 6144, 48, 8, 128, 16384, 32768, experts=8, top_k=2),
    "qwen3-235b-a22b": Shape(94, 4096, 64, 4, 128, 1536, 151936, experts=128, top_k=8),
    "llama-4-scout": Shape(48, 5120, 40, 8, 128, 8192, 202048, experts=16, top_k=1, shared_ffn=8192),
    "llama-4-maverick": Shape(48, 5120, 40, 8, 128, 8192, 202048, experts=128, top_k=1, shared_ffn=8192, dense_layers=24,
                              dense_ffn=16384),
    # Its latent attention as multi-query: projections a quarter too large, a cache of 256 instead of 576 elements a token.
    "deepseek-v3": Shape(61, 7168, 128, 1, 128, 2048, 129280, experts=256, top_k=8, shared_ffn=2048, dense_layers=3,
                         dense_ffn=18432),
    "qwen3-coder-480b-a35b": Shape(62, 6144, 96, 8, 128, 2560, 151936, experts=160, top_k=8),
    # Sliding windows are not in a shape.
    "gpt-oss-20b": Shape(24, 2880, 64, 8, 64, 2880, 201088, experts=32, top_k=4),
    "gpt-oss-120b": Shape(36, 2880, 64, 8, 64, 2880, 201088, experts=128, top_k=4),
    "gemma-3-12b": Shape(48, 3840, 16, 8, 256, 15360, 262208),
    "gemma-3-27b": Shape(62, 5376, 32, 16, 128, 21504, 262208),
    "gpt2-large": Shape(36, 1280, 20, 20, 64, 5120, 50257, gated=False),
    "bert-large": Shape(24, 1024, 16, 16, 64, 4096, 30522, gated=False),
    "gpt3-xl": Shape(24, 2048, 24, 24, 128, 8192, 50257, gated=False),
    "gpt3-175b": Shape(96, 12288, 96, 96, 128, 49152, 50257, gated=False),
    "gpt3-2.7b": Shape(32, 2560, 32, 32, 80, 10240, 50257, gated=False),
}

#: Other names that tables have for them, as letters and digits alone.
_ALIASES = {"llama27b": "llama-7b", "llama213b": "llama-13b", "llama270b": "llama-70b", "llama38b": "llama-3-8b",
            "llama318b": "llama-3-8b", "llama3170b": "llama-3-70b", "llama3370b": "llama-3-70b", "llama3x70b": "llama-3-70b",
            "llama31405b": "llama-3-405b", "llama3x405b": "llama-3-405b", "codellama7b": "llama-7b", "llama33b": "llama-30b",
            "codellama34b": "code-llama-34b", "dsr1llama8b": "llama-3-8b", "dsr1qwen15b": "qwen2.5-1.5b",
            "dsr1qwen14b": "qwen2.5-14b", "deepseekr1": "deepseek-v3", "deepseekv31": "deepseek-v3",
            "llama4scout17b": "llama-4-scout", "llama4maverick17b": "llama-4-maverick", "qwen3coder30ba3b": "qwen3-30b-a3b",
            "gpt327": "gpt3-2.7b", "gpt3": "gpt3-175b"}


@cache
def shape_named(name: str) -> Shape | None:
    """The shape of the model that a table calls *name*, whatever its spelling, owner and suffix; None for others. The shipped
    models of the workloads serve too; a shape of this table comes first."""
    known = {_letters(key): key for key in (*shipped_models(), *SHAPES)} | _ALIASES
    printed = name.rpartition("/")[2].lower()
    wanted = _letters(printed)
    begins = [key for key in known if wanted == key or (wanted.startswith(key) and not _is_resized(printed, len(key)))]
    if not begins:
        return None
    found = known[max(begins, key=len)]
    return SHAPES.get(found) or _shape_of(load_model(found))


def _shape_of(model: ModelConfig) -> Shape:
    return Shape(model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.intermediate, model.vocab,
                 gated=model.mlp == "gated", experts=model.experts, top_k=model.top_k)


def _is_resized(printed: str, letters: int) -> bool:
    """Whether what follows the first *letters* letters and digits of *printed* makes another model of them: more digits of the last
    number, or a size ("gpt3-13b"). A date or a version is neither ("-2507")."""
    place = next(i for i in range(len(printed)) if len(_letters(printed[: i + 1])) == letters) + 1
    return re.match(r"\d|\.\d|[-_ ]*\d+(\.\d+)?[bm](?![a-z0-9])", printed[place:]) is not None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
