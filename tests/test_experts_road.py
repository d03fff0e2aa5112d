"""Experts on machines of parts: what is read, what must fit, what devices exchange, and the assumption in the report."""

from __future__ import annotations

import pytest
import tilesim
from tilesim.sim.errors import ConfigError
from tilesim.workloads.experts import Experts
from tilesim.workloads.graph import program_order, totals
from tilesim.workloads.model import ModelConfig

MIXTURE = ModelConfig(name="small-mixture", family="mixtral", layers=2, hidden=256, heads=8, kv_heads=4, head_dim=32,
                      intermediate=512, vocab=1024, max_positions=512, mlp="gated", activation="silu", norm="rmsnorm",
                      positions="rotary", experts=8, top_k=2)


def test_a_decode_step_reads_the_experts_that_take_part_and_no_others() -> None:
    workload = tilesim.decode(MIXTURE, batch=2, context=64)
    whole = workload.lower()
    (active,) = {op.active_experts for op in program_order(whole) if isinstance(op, Experts)}
    assert active == 4
    report = tilesim.simulate("hbm-npu", workload)
    assert report.seconds >= report.bounds.roofline_s
    assert sum(op.executed_macs for op in report.operators) == totals(whole).macs
    matrices = 3 * MIXTURE.hidden * MIXTURE.intermediate * 2
    products = [op for op in report.operators if ".experts." in op.name and op.kind == "gemm"]
    assert sum(op.read_bytes for op in products) == MIXTURE.layers * active * matrices
    assert report.memory["hbm"].used_bytes > MIXTURE.parameters * 2
    assert any(text.startswith("experts:") for text in report.assumptions)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_devices_share_every_expert_and_exchange_rows_once(phase: str) -> None:
    workload = tilesim.prefill(MIXTURE, prompt=24) if phase == "prefill" else tilesim.decode(MIXTURE, context=64)
    one = tilesim.simulate("hbm-npu", workload)
    four = tilesim.simulate("hbm-npu", workload, tensor_parallel=4)
    exact = tilesim.simulate("hbm-npu", workload, tensor_parallel=4, exact=True)
    assert four.seconds == pytest.approx(exact.seconds, rel=0.005)
    exchanged = [op.name for op in four.operators if op.kind == "collective" and "mlp" in op.name]
    assert exchanged == [f"layers.{layer}.mlp.experts.combine.allreduce" for layer in range(MIXTURE.layers)]
    experts_one, experts_four = (sum(op.macs for op in report.operators if ".experts." in op.name) for report in (one, four))
    assert experts_one == experts_four


def test_all_experts_must_fit() -> None:
    """Two experts of eight are read by a decode step; the other six take their room all the same."""
    with pytest.raises(ConfigError, match="wants 936"):
        tilesim.simulate("hbm-npu", tilesim.decode("mixtral-8x7b"))
