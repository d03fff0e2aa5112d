"""The I/O bounds beside what was simulated: no run moves less, on any machine, by any design."""

from __future__ import annotations

import io
import json

import pytest
import tilesim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tilesim.arch.families import find_machine
from tilesim.arch.machine import load_machine
from tilesim.run import AttentionMapping, run_graph, simulate
from tilesim.sim import tables
from tilesim.sim.report import Report
from tilesim.workloads import single
from tilesim.workloads.model import ModelConfig

TINY = ModelConfig(name="tiny", family="llama", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=160,
                   vocab=96, max_positions=512, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                   tied_embeddings=True)
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def check(report: Report) -> None:
    """Both bounds stand below what each attention moved. The order's constant is not known; with 1 none of our schedules, which
    read keys and values at least once for each M / d queries, comes near it."""
    bounded = [op for op in report.operators if op.io_bound is not None]
    assert [op.name for op in bounded] == [op.name for op in report.operators if op.kind == "attention"]
    for op in bounded:
        assert op.io_bound is not None
        moved = op.read_bytes + op.write_bytes
        assert op.io_bound.compulsory_bytes <= moved
        if op.io_bound.compulsory_bytes:                            # with operands on chip the order speaks of another problem
            assert op.io_bound.order_bytes <= moved


def text_of(report: Report) -> str:
    stream = io.StringIO()
    tables.render(report, Console(file=stream, width=240))
    return stream.getvalue()


@few
@given(st.integers(1, 3), st.sampled_from([1, 4]), st.sampled_from([16, 64]), st.integers(1, 60), st.integers(0, 100),
       st.booleans(), st.none() | st.integers(1, 80), st.sampled_from([128, 4096]), st.sampled_from(["flash", "unfused"]))
def test_operators_on_parts(kv_heads: int, group: int, head_dim: int, q: int, more: int, causal: bool, window: int | None,
                            sram_kib: int, style: AttentionMapping) -> None:
    graph = single.attention(kv_heads * group, head_dim, q, q + more, kv_heads=kv_heads, causal=causal,
                             window=window if causal else None)
    config = load_machine("hbm-npu", ("parts.mxu.rows=16", "parts.mxu.cols=16", f"parts.scratchpad.capacity={sram_kib} KiB"))
    report = run_graph(config, graph, "case", 0, {}, attention=style)
    check(report)
    bound = report.operators[0].io_bound
    assert bound is not None
    assert bound.on_chip_bytes == sram_kib << 10
    assert bound.compulsory_bytes == report.bounds.compulsory_bytes


@few
@given(st.integers(1, 2), st.integers(1, 60), st.booleans(), st.sampled_from([64, 2048]), st.sampled_from(["flash", "unfused"]))
def test_whole_models(batch: int, tokens: int, is_prefill: bool, sram_kib: int, style: AttentionMapping) -> None:
    config = load_machine("hbm-npu", ("parts.mxu.rows=16", "parts.mxu.cols=16", f"parts.scratchpad.capacity={sram_kib} KiB"))
    check(simulate(config, tilesim.prefill(TINY, prompt=tokens, batch=batch) if is_prefill
                   else tilesim.decode(TINY, context=tokens, batch=batch), attention=style))


def test_a_decode_step_must_read_the_tokens_that_were_cached() -> None:
    """Two layers, 40 tokens in context of which the last is new: 39 rows of two heads of 16, K and V, bf16; the rest is on chip."""
    report = simulate("hbm-npu", tilesim.decode(TINY, context=40))
    bounds = [op.io_bound.compulsory_bytes for op in report.operators if op.io_bound is not None]
    assert bounds == [2 * 2 * 39 * 2 * 16] * TINY.layers
    assert "attention moved" in text_of(report)
    assert "1.000 × compulsory" in text_of(report)


@pytest.mark.parametrize("tokens", [256, 4096, 65536])
@pytest.mark.parametrize("chip", ["unfused", "flat", "fusemax"])
def test_designs(chip: str, tokens: int) -> None:
    report = simulate_einsum(chip, tokens)
    check(report)
    bound = report.operators[0].io_bound
    assert bound is not None
    assert bound.compulsory_bytes == 4 * 12 * tokens * 64 * 2
    found = json.loads(report.to_json())["operators"][0]["io_bound"]
    assert found == {"compulsory_bytes": bound.compulsory_bytes, "order_bytes": bound.order_bytes,
                     "on_chip_bytes": bound.on_chip_bytes}


def test_what_needs_no_memory_prints_no_line() -> None:
    """Without attention, and where attention's operands never leave the chip."""
    assert "attention moved" not in text_of(run_graph(load_machine("hbm-npu"), single.gemm(8, 64, 32), "case", 0, {}))
    assert "attention moved" not in text_of(simulate("hbm-npu", tilesim.prefill(TINY, prompt=20)))


def test_an_order_of_less_than_a_byte_is_said_in_words() -> None:
    text = text_of(run_graph(load_machine("hbm-npu"), single.attention(4, 64, 1, 1), "case", 0, {}))
    assert "asymptotic: below 1 B, M " in text


def simulate_einsum(chip: str, tokens: int) -> Report:
    return run_graph(find_machine(chip), single.attention(12, 64, tokens, tokens, causal=False), "case", 0, {})
