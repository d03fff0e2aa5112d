"""Lower a decoder-only transformer to its operators, one forward pass over the new tokens of each sequence.

Activations are two-dimensional, ``[rows, cols]`` with rows = batch · new tokens, sequence by sequence. The projections of q,
k and v, and of gate and up, are operators of their own, as in the published checkpoints; one matrix holds the same weights
(GPT-2's ``c_attn`` is q, k, v side by side). Whether they run as one is the mapping's choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..sim.dtypes import DTYPES, DType
from .experts import Experts
from .graph import GraphBuilder, OperatorGraph
from .model import ModelConfig
from .operators import Attention, Embedding, Gemm, KvAppend, SelectLast
from .tensors import Role, Tensor
from .vector import Elementwise, Norm, Rope


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass needs to know: *tokens* new tokens end a context of *context* in each of *batch* sequences."""

    model: ModelConfig
    batch: int
    tokens: int
    context: int
    weights: DType
    activations: DType
    kv: DType
    embedding: DType
    norm: DType
    all_logits: bool

    @property
    def rows(self) -> int:
        return self.batch * self.tokens

    @property
    def position_start(self) -> int:
        return self.context - self.tokens


def lower_decoder(run: Pass) -> OperatorGraph:
    """The operator graph of *run*, in program order."""
    return _Lowering(run).lower()


class _Lowering:
    def __init__(self, run: Pass) -> None:
        self.run, self.model = run, run.model
        self.builder = GraphBuilder(run.model.name)

    def lower(self) -> OperatorGraph:
        table = self._weight("embedding.weight", (self.model.vocab, self.model.hidden), self.run.embedding)
        x = self._embed(table)
        for layer in range(self.model.layers):
            x = self._attention(x, layer)
            x = self._mlp(x, layer)
        self._head(self._norm("final_norm", x, None), table)
        return self.builder.graph

    # -- parts of the model

    def _embed(self, table: Tensor) -> Tensor:
        run, model = self.run, self.model
        ids = Tensor("token_ids", (run.rows,), DTYPES["int32"], "input")
        inputs: tuple[Tensor, ...] = (ids, table)
        if model.positions == "learned":
            inputs += (self._weight("embedding.positions", (model.max_positions, model.hidden), run.embedding),)
        out = self._activation("embedding", model.hidden)
        self.builder.add(Embedding(name="embedding", inputs=inputs, outputs=(out,), group="embedding", rows=run.rows,
                                   cols=model.hidden, vocab=model.vocab, tokens=run.tokens,
                                   position_start=run.position_start))
        return out

    def _attention(self, x: Tensor, layer: int) -> Tensor:
        model, at = self.model, f"layers.{layer}.attention"
        normed = self._norm(f"{at}.norm", x, layer)
        q = self._gemm(f"{at}.q", normed, model.q_cols, model.qkv_bias, layer, "attention")
        k = self._gemm(f"{at}.k", normed, model.kv_cols, model.qkv_bias, layer, "attention")
        v = self._gemm(f"{at}.v", normed, model.kv_cols, model.qkv_bias, layer, "attention")
        if model.qk_norm:
            q = self._head_norm(f"{at}.q_norm", q, layer)
            k = self._head_norm(f"{at}.k_norm", k, layer)
        if model.positions == "rotary":
            q = self._rope(f"{at}.q_rope", q, model.heads, layer)
            k = self._rope(f"{at}.k_rope", k, model.kv_heads, layer)
        mixed = self._attend(at, q, k, v, layer)
        out = self._gemm(f"{at}.out", mixed, model.hidden, model.attention_out_bias, layer, "attention")
        return self._elementwise(f"{at}.residual", "add", (x, out), layer, "attention")

    def _attend(self, at: str, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        run, model, window = self.run, self.model, self.model.window(layer)
        # One new token sees `window` tokens at most: the cache of a windowed layer is a ring of that many (Mistral 7B, §2).
        is_ring = run.tokens == 1 and window is not None and run.context > window
        kv_tokens = window if is_ring and window is not None else run.context
        slot = (run.context - 1) % kv_tokens if is_ring else run.position_start
        shape = (run.batch, model.kv_heads, kv_tokens, model.head_dim)
        caches = (Tensor(f"{at}.k_cache", shape, run.kv, "kv"), Tensor(f"{at}.v_cache", shape, run.kv, "kv"))
        self.builder.add(KvAppend(name=f"{at}.kv_append", inputs=(k, v), outputs=caches, layer=layer, group="attention",
                                  batch=run.batch, tokens=run.tokens, kv_tokens=kv_tokens, kv_heads=model.kv_heads,
                                  head_dim=model.head_dim, slot=slot))
        out = self._activation(f"{at}.mix", model.q_cols)
        self.builder.add(Attention(name=f"{at}.mix", inputs=(q, *caches), outputs=(out,), layer=layer, group="attention",
                                   batch=run.batch, heads=model.heads, kv_heads=model.kv_heads, head_dim=model.head_dim,
                                   q_tokens=run.tokens, kv_tokens=kv_tokens, causal=True, window=window,
                                   scale=1 / math.sqrt(model.head_dim)))
        return out

    def _mlp(self, x: Tensor, layer: int) -> Tensor:
        model, at = self.model, f"layers.{layer}.mlp"
        normed = self._norm(f"{at}.norm", x, layer)
        if model.experts:
            down = self._experts(at, normed, layer)
            return self._elementwise(f"{at}.residual", "add", (x, down), layer, "mlp")
        if model.mlp == "gated":
            gate = self._gemm(f"{at}.gate", normed, model.intermediate, model.mlp_bias, layer, "mlp")
            up = self._gemm(f"{at}.up", normed, model.intermediate, model.mlp_bias, layer, "mlp")
            inner = self._elementwise(f"{at}.activation", f"{model.activation}_mul", (gate, up), layer, "mlp")
        else:
            up = self._gemm(f"{at}.up", normed, model.intermediate, model.mlp_bias, layer, "mlp")
            inner = self._elementwise(f"{at}.activation", model.activation, (up,), layer, "mlp")
        down = self._gemm(f"{at}.down", inner, model.hidden, model.mlp_bias, layer, "mlp")
        return self._elementwise(f"{at}.residual", "add", (x, down), layer, "mlp")

    def _experts(self, at: str, normed: Tensor, layer: int) -> Tensor:
        model, run = self.model, self.run
        scores = self._gemm(f"{at}.router", normed, model.experts, False, layer, "router")
        inward, outward = (model.experts, model.hidden, model.intermediate), (model.experts, model.intermediate, model.hidden)
        weights = tuple(self._weight(f"{at}.experts.{name}.weight", shape, run.weights)
                        for name, shape in (("gate", inward), ("up", inward), ("down", outward)))
        out = self._activation(f"{at}.experts", model.hidden)
        self.builder.add(Experts(name=f"{at}.experts", inputs=(normed, scores, *weights), outputs=(out,), layer=layer, group="mlp",
                                 rows=run.rows, hidden=model.hidden, intermediate=model.intermediate, experts=model.experts,
                                 top_k=model.top_k, function=f"{model.activation}_mul"))
        return out

    def _head(self, x: Tensor, table: Tensor) -> None:
        run, model = self.run, self.model
        rows = run.rows
        if not run.all_logits and run.tokens > 1:
            rows = run.batch
            last = self._activation("select_last", model.hidden, rows)
            self.builder.add(SelectLast(name="select_last", inputs=(x,), outputs=(last,), group="head", batch=run.batch,
                                        tokens=run.tokens, cols=model.hidden))
            x = last
        tied = model.tied_embeddings
        weight = table if tied else self._weight("head.weight", (model.hidden, model.vocab), run.embedding)
        logits = Tensor("logits", (rows, model.vocab), run.activations, "output")
        self.builder.add(Gemm(name="head", inputs=(x, weight), outputs=(logits,), group="head", m=rows, n=model.vocab,
                              k=model.hidden, weight_transposed=tied))

    # -- single operators

    def _gemm(self, name: str, x: Tensor, n: int, bias: bool, layer: int, group: str) -> Tensor:
        rows, k = x.shape
        inputs: tuple[Tensor, ...] = (x, self._weight(f"{name}.weight", (k, n), self.run.weights))
        if bias:
            inputs += (self._weight(f"{name}.bias", (n,), self.run.norm),)
        out = self._activation(name, n)
        self.builder.add(Gemm(name=name, inputs=inputs, outputs=(out,), layer=layer, group=group, m=rows, n=n, k=k))
        return out

    def _norm(self, name: str, x: Tensor, layer: int | None) -> Tensor:
        inputs: tuple[Tensor, ...] = (x, self._weight(f"{name}.weight", (self.model.hidden,), self.run.norm))
        if self.model.norm == "layernorm":
            inputs += (self._weight(f"{name}.bias", (self.model.hidden,), self.run.norm),)
        out = self._activation(name, self.model.hidden)
        self.builder.add(Norm(name=name, inputs=inputs, outputs=(out,), layer=layer, group="norm", function=self.model.norm,
                              rows=self.run.rows, cols=self.model.hidden))
        return out

    def _head_norm(self, name: str, x: Tensor, layer: int) -> Tensor:
        rows, cols = x.shape
        head_dim = self.model.head_dim
        weight = self._weight(f"{name}.weight", (head_dim,), self.run.norm)
        out = self._activation(name, cols)
        self.builder.add(Norm(name=name, inputs=(x, weight), outputs=(out,), layer=layer, group="norm", function="rmsnorm",
                              rows=rows * cols // head_dim, cols=head_dim))
        return out

    def _rope(self, name: str, x: Tensor, heads: int, layer: int) -> Tensor:
        out = self._activation(name, x.shape[1])
        self.builder.add(Rope(name=name, inputs=(x,), outputs=(out,), layer=layer, group="attention", rows=self.run.rows,
                              heads=heads, head_dim=self.model.head_dim, tokens=self.run.tokens,
                              position_start=self.run.position_start))
        return out

    def _elementwise(self, name: str, function: str, inputs: tuple[Tensor, ...], layer: int, group: str) -> Tensor:
        rows, cols = inputs[0].shape
        out = self._activation(name, cols)
        self.builder.add(Elementwise(name=name, inputs=inputs, outputs=(out,), layer=layer, group=group, function=function,
                                     rows=rows, cols=cols))
        return out

    # -- tensors

    def _weight(self, name: str, shape: tuple[int, ...], dtype: DType) -> Tensor:
        return Tensor(name, shape, dtype, "weight")

    def _activation(self, name: str, cols: int, rows: int | None = None, role: Role = "activation") -> Tensor:
        return Tensor(f"{name}.out", (rows or self.run.rows, cols), self.run.activations, role)
