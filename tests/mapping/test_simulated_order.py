"""The records in the order in which a simulation ended them compute what numpy computes: timing and values share one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tilesim.arch.engine import Engine
from tilesim.arch.machine import load_machine
from tilesim.mapping.dram_image import decoded_places
from tilesim.mapping.interpreter import interpret
from tilesim.mapping.mapper import map_graph
from tilesim.mapping.reference import run_reference
from tilesim.mapping.target import AttentionStyle
from tilesim.memory.dram import DramConfig
from tilesim.workloads.graph import OperatorGraph
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.phases import Workload, decode, prefill

MakeValues = Callable[[OperatorGraph, int], dict[str, Any]]

MODEL = ModelConfig(name="small", family="llama", layers=2, hidden=48, heads=6, kv_heads=2, head_dim=8, intermediate=96, vocab=60,
                    max_positions=128, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary", tied_embeddings=True)


@pytest.mark.parametrize("attention", ["flash", "unfused"])
@pytest.mark.parametrize("capacity", ["16 KiB", "256 KiB"])
@pytest.mark.parametrize("workload", [decode(MODEL, context=70, batch=2), prefill(MODEL, prompt=40)], ids=lambda w: w.phase)
def test_completion_order_of_a_simulation_computes_the_same(workload: Workload, capacity: str, attention: AttentionStyle,
                                                            small_integers: MakeValues) -> None:
    machine = load_machine("hbm-npu", (f"parts.scratchpad.capacity={capacity}", "parts.mxu.rows=8", "parts.mxu.cols=8",
                                       "parts.vpu.lanes=16"))
    graph = workload.lower()
    values = small_integers(graph, 2)
    program = map_graph(graph, machine, attention=attention, token_ids=np.asarray(values["token_ids"]).tolist())
    run = Engine(machine, program).run()
    _, dram = machine.only(DramConfig, "dram")
    places, burst_bytes = decoded_places(dram)
    found = interpret(program, values, order=run.completion_order, places=places, burst_bytes=burst_bytes)
    wanted = run_reference(graph, values)
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-9, atol=1e-9)
