"""The I/O bounds of attention: closed forms by hand, and laws over shapes and memories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.sim.units import BITS_PER_BYTE
from tilesim.workloads import single
from tilesim.workloads.attention_io import attention_bound, order_elements
from tilesim.workloads.graph import program_order
from tilesim.workloads.operators import Attention


def attention(q: int, context: int, heads: int = 1, kv_heads: int = 1, head_dim: int = 64, batch: int = 1, causal: bool = False,
              window: int | None = None, kv: str = "bf16") -> Attention:
    op = next(program_order(single.attention(heads, head_dim, q, context, batch=batch, kv_heads=kv_heads, causal=causal,
                                             window=window, kv=kv)))
    assert isinstance(op, Attention)
    return op


def test_bounds_by_hand() -> None:
    """1024 × 1024 pairs of 64: four operands of 128 KiB; 1024² · 64² / 65536 elements = 65536 = 128 KiB with M of 128 KiB."""
    bound = attention_bound(attention(1024, 1024), 128 << 10)
    assert bound.compulsory_bytes == 4 * (128 << 10)
    assert bound.order_bytes == 128 << 10
    # Below M = d² = 4096 elements the products' own bound: 1024² · 64 / √1024 elements.
    assert attention_bound(attention(1024, 1024), 2048).order_bytes == 2 * 1024**2 * 64 / 32


def test_masks_and_shared_heads_by_hand() -> None:
    """Causal: 1024 · 1025 / 2 pairs. Eight query heads on two KV heads: eight heads of pairs, two of keys and values."""
    whole, causal = (attention_bound(attention(1024, 1024, causal=c), 1 << 17) for c in (False, True))
    assert causal.compulsory_bytes == whole.compulsory_bytes
    assert causal.order_bytes == whole.order_bytes * 1025 / 2048
    grouped = attention_bound(attention(1024, 1024, heads=8, kv_heads=2), 1 << 17)
    assert grouped.compulsory_bytes == (8 + 2 + 2 + 8) * (128 << 10)
    assert grouped.order_bytes == 8 * whole.order_bytes
    # A window of 100: the one query sees 100 keys, and no others need be read.
    assert attention_bound(attention(1, 1024, causal=True, window=100), 1 << 17).compulsory_bytes == 2 * 64 * (1 + 100 + 100 + 1)
    # Keys of one byte: half the bytes, and the order counts every element as one byte (twice as many fit).
    narrow = attention_bound(attention(1024, 1024, kv="int8"), 1 << 17)
    assert narrow.compulsory_bytes == 3 * (128 << 10)
    assert narrow.order_bytes == whole.order_bytes / 4


shapes = st.builds(lambda q, more, group, kv_heads, head_dim, batch, causal: attention(
    q, q + more, group * kv_heads, kv_heads, head_dim, batch, causal), st.integers(1, 5000), st.integers(0, 5000),
    st.sampled_from([1, 4]), st.integers(1, 3), st.sampled_from([16, 64, 128]), st.integers(1, 2), st.booleans())


@given(shapes, st.integers(64, 1 << 26), st.integers(1, 8))
def test_order_falls_with_the_memory(op: Attention, on_chip_bytes: int, times: int) -> None:
    less, more = (attention_bound(op, nbytes) for nbytes in (on_chip_bytes, times * on_chip_bytes))
    assert more.order_bytes <= less.order_bytes
    assert more.compulsory_bytes == less.compulsory_bytes == sum(op.compulsory_bytes.values())


@given(shapes, st.integers(1, 4))
def test_compulsory_is_all_when_a_head_fits(op: Attention, times: int) -> None:
    """With K or V of one head on chip, N²d²/M is at most the queries: the compulsory bytes are the larger bound."""
    keys_bytes = op.inputs[1].dtype.bits * op.kv_tokens * op.head_dim // BITS_PER_BYTE
    if keys_bytes >= 2 * op.head_dim**2:
        assert attention_bound(op, times * keys_bytes).order_bytes <= op.inputs[0].nbytes


@given(st.integers(1, 10**12), st.integers(1, 512))
def test_the_two_regimes_meet_at_d_squared(pairs: int, head_dim: int) -> None:
    assert order_elements(pairs, head_dim, head_dim**2) == pytest.approx(pairs)
