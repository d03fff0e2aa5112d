"""Operators: what is computed on which tensors. They state shapes, formats and operands, never cycles.

Counting
--------
- ``macs``: multiply-accumulates of matrix products; causal attention counts the pairs that the mask lets through, no others.
- ``vector_flops``: every other addition, multiplication, division, comparison, root and transcendental function (exp, tanh,
  erf) counts as one; a sum of n terms counts n. Sines and cosines of rotary positions are a table and count nothing.
- ``flops = FLOPS_PER_MAC · macs + vector_flops``.
- ``read_bytes`` / ``written_bytes``: compulsory bytes by role of tensor: every operand once, however it is tiled. Where an
  operator touches a part of an operand only (gathered rows, appended tokens, a window), that part counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from ..sim.errors import ConfigError
from ..sim.units import FLOPS_PER_MAC
from .tensors import Role, Tensor

_LABELS = frozenset({"name", "inputs", "outputs", "layer", "group"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator(ABC):
    """One step of a model. ``group`` is the part of the model it belongs to: attention, mlp, norm, embedding, head."""

    kind: ClassVar[str]

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layer: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and field.name not in _MAY_BE_ZERO and not (type(value) is int and value > 0):
                raise ConfigError(f"{self.kind} {self.name}: {field.name} is {value!r}; a positive integer is wanted",
                                  key=field.name, value=value)
        wanted_inputs, wanted_outputs = self.operand_elements()
        for side, tensors, wanted in (("input", self.inputs, wanted_inputs), ("output", self.outputs, wanted_outputs)):
            found = tuple(tensor.elements for tensor in tensors)
            if found != wanted:
                raise ConfigError(f"{self.kind} {self.name}: {side}s have {found} elements; its sizes ask for {wanted}",
                                  key=self.name)

    @abstractmethod
    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The number of elements that each input and each output must have."""

    @property
    def macs(self) -> int:
        return 0

    @property
    def vector_flops(self) -> int:
        return 0

    @property
    def flops(self) -> int:
        return FLOPS_PER_MAC * self.macs + self.vector_flops

    def touched_elements(self, tensor: Tensor) -> int:
        """How many elements of the operand *tensor* the operator reads or writes; all of them unless it says otherwise."""
        return tensor.elements

    @property
    def read_bytes(self) -> dict[Role, int]:
        return self._bytes_by_role(self.inputs)

    @property
    def written_bytes(self) -> dict[Role, int]:
        return self._bytes_by_role(self.outputs)

    @property
    def compulsory_bytes(self) -> dict[Role, int]:
        """Bytes read and written, by role; their sum bounds what any mapping of this operator alone must move."""
        return dict(Counter(self.read_bytes) + Counter(self.written_bytes))

    @property
    def signature(self) -> Hashable:
        """Equal for operators that differ in names, layer and group only: they share their mapping."""
        own = tuple(getattr(self, field.name) for field in fields(self) if field.name not in _LABELS)
        names = [tensor.name for tensor in (*self.inputs, *self.outputs)]
        return (
            self.kind, own,
            tuple((t.shape, t.dtype, t.role) for t in self.inputs), tuple((t.shape, t.dtype, t.role) for t in self.outputs),
            tuple(names.index(name) for name in names),
        )

    def _bytes_by_role(self, tensors: Iterable[Tensor]) -> dict[Role, int]:
        total: Counter[Role] = Counter()
        for tensor in dict.fromkeys(tensors):
            total[tensor.role] += tensor.dtype.bytes_for(self.touched_elements(tensor))
        return dict(total)


_MAY_BE_ZERO = frozenset({"position_start", "slot", "pad_top", "pad_left"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(Operator):
    """C [batch, m, n] = A [batch, m, k] · B [batch, k, n] (+ bias [n]).

    inputs: A, B and perhaps the bias. B is stored ``[k, n]``; with ``weight_transposed`` it is stored ``[n, k]``, as is an
    LM head that shares the embedding table.
    """

    kind = "gemm"

    m: int
    n: int
    k: int
    batch: int = 1
    weight_transposed: bool = False

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bias = (self.n,) if self.has_bias else ()
        return ((self.batch * self.m * self.k, self.batch * self.k * self.n, *bias), (self.batch * self.m * self.n,))

    @property
    def has_bias(self) -> bool:
        return len(self.inputs) == 3

    @property
    def macs(self) -> int:
        return self.batch * self.m * self.n * self.k

    @property
    def vector_flops(self) -> int:
        return self.batch * self.m * self.n if self.has_bias else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Operator):
    """softmax(scale · q Kᵀ) V for the last *q_tokens* of *kv_tokens* tokens; unfused or flash is the mapping's choice.

    inputs: q ``[batch · q_tokens, heads · head_dim]``, K and V caches ``[batch, kv_heads, kv_tokens, head_dim]`` (the new
    tokens are in them already); output as q. Query head h reads KV head ``h // (heads // kv_heads)``. With ``causal`` the
    query at position p sees positions ≤ p; with ``window`` only the last *window* of them, itself included (Mistral 7B,
    Jiang et al., 2023, arXiv:2310.06825, §2).
    """

    kind = "attention"

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    q_tokens: int
    kv_tokens: int
    causal: bool = True
    window: int | None = None
    scale: float

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.name}: {self.heads} heads are no multiple of kv_heads, {self.kv_heads}", key="kv_heads",
                              value=self.kv_heads, allowed=tuple(str(n) for n in range(1, self.heads + 1) if self.heads % n == 0))
        if self.q_tokens > self.kv_tokens:
            raise ConfigError(f"{self.name}: {self.q_tokens} query tokens are more than the {self.kv_tokens} tokens attended to, "
                              "of which they are the last", key="q_tokens", value=self.q_tokens)
        if self.window is not None and self.window < 1:
            raise ConfigError(f"attention {self.name}: window is {self.window}; a positive integer or None is wanted",
                              key="window", value=self.window)
        q = self.batch * self.q_tokens * self.heads * self.head_dim
        cache = self.batch * self.kv_heads * self.kv_tokens * self.head_dim
        return (q, cache, cache), (q,)

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one head of one sequence that the mask lets through."""
        if not self.causal:
            return self.q_tokens * self.kv_tokens
        return causal_pairs(self.q_tokens, self.kv_tokens, self.window)

    @property
    def macs(self) -> int:
        """q·Kᵀ and P·V: head_dim MACs each for every pair."""
        return 2 * self.batch * self.heads * self.pairs * self.head_dim

    @property
    def vector_flops(self) -> int:
        """For each pair: scale, maximum, subtract, exp, sum; and one division for each output element (flash order)."""
        return self.batch * self.heads * (5 * self.pairs + self.q_tokens * self.head_dim)

    @property
    def kv_tokens_read(self) -> int:
        """Tokens of the cache that some query sees."""
        if not self.causal or self.window is None:
            return self.kv_tokens
        return min(self.kv_tokens, self.q_tokens + self.window - 1)

    def touched_elements(self, tensor: Tensor) -> int:
        if tensor in self.inputs[1:]:
            return self.batch * self.kv_heads * self.kv_tokens_read * self.head_dim
        return tensor.elements


def causal_pairs(q_tokens: int, kv_tokens: int, window: int | None = None) -> int:
    """Σ min(p + 1, window) over the positions p of the last *q_tokens* of *kv_tokens*, in closed form."""
    fewest, most = kv_tokens - q_tokens + 1, kv_tokens       # keys seen by the first and the last query, without a window
    if window is None or window >= most:
        return (fewest + most) * q_tokens // 2
    if window <= fewest:
        return q_tokens * window
    growing = window - fewest                                # queries that see fewer than *window* keys
    return (fewest + window - 1) * growing // 2 + (q_tokens - growing) * window


@dataclass(frozen=True, slots=True, kw_only=True)
class KvAppend(Operator):
    """Write the K and V rows of *tokens* new tokens into the caches, in place, from token *slot* on.

    inputs: k and v ``[batch · tokens, kv_heads · head_dim]``; outputs: the K and V caches ``[batch, kv_heads, kv_tokens,
    head_dim]``, of which the new tokens' rows alone are written (and quantised, when the cache has another format).
    """

    kind = "kv_append"

    batch: int
    tokens: int
    kv_tokens: int
    kv_heads: int
    head_dim: int
    slot: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not 0 <= self.slot <= self.kv_tokens - self.tokens:
            raise ConfigError(f"kv_append {self.name}: {self.tokens} tokens from {self.slot} on do not fit into "
                              f"{self.kv_tokens}", key=self.name)
        cache = self.batch * self.kv_heads * self.kv_tokens * self.head_dim
        return (self.new_elements,) * 2, (cache,) * 2

    @property
    def new_elements(self) -> int:
        """Elements written to each of the two caches."""
        return self.batch * self.tokens * self.kv_heads * self.head_dim

    def touched_elements(self, tensor: Tensor) -> int:
        return self.new_elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Operator):
    """Gather *rows* rows of a table, and add those of a table of learned positions when there is one.

    inputs: token ids ``[rows]``, table ``[vocab, cols]``, perhaps positions ``[max_positions, cols]``; output ``[rows,
    cols]``. Row r stands at position ``position_start + r % tokens``, so the sequences of a batch share *tokens* position
    rows. A row of the token table counts once for each time it is asked for (repeats are not known here).
    """

    kind = "embedding"

    rows: int
    cols: int
    vocab: int
    tokens: int
    position_start: int = 0

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        positions = (self.inputs[2].elements,) if self.has_positions else ()
        return (self.rows, self.vocab * self.cols, *positions), (self.rows * self.cols,)

    @property
    def has_positions(self) -> bool:
        return len(self.inputs) == 3

    @property
    def vector_flops(self) -> int:
        return self.rows * self.cols if self.has_positions else 0

    def touched_elements(self, tensor: Tensor) -> int:
        if tensor == self.inputs[1]:
            return min(self.rows, self.vocab) * self.cols
        if self.has_positions and tensor == self.inputs[2]:
            return self.tokens * self.cols
        return tensor.elements


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectLast(Operator):
    """Keep the last of every *tokens* rows: ``[batch · tokens, cols]`` → ``[batch, cols]``, for logits of last tokens."""

    kind = "select_last"

    batch: int
    tokens: int
    cols: int

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.batch * self.tokens * self.cols,), (self.batch * self.cols,)

    def touched_elements(self, tensor: Tensor) -> int:
        return self.batch * self.cols
