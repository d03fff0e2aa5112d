"""Small machines, and the question that most mapping tests ask: does the program compute what numpy computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from tilesim.arch.systolic import SystolicConfig
from tilesim.arch.systolic_folds import Dataflow
from tilesim.arch.vector import VectorConfig
from tilesim.mapping.capacity import broken_capacity_laws
from tilesim.mapping.constraints import Constraints
from tilesim.mapping.interpreter import run_checked
from tilesim.mapping.mapper import map_to_target
from tilesim.mapping.reference import run_reference
from tilesim.mapping.target import AttentionStyle, Objective, Target
from tilesim.sim.program import TileProgram
from tilesim.workloads.graph import OperatorGraph, program_order, tensors_of
from tilesim.workloads.operators import Embedding

#: What only adds, multiplies and moves small integers must be equal to the last bit.
EXACT_KINDS = {"gemm", "kv_append", "embedding", "select_last"}
EXACT_FUNCTIONS = {"add", "mul", "relu", "relu_mul"}


def make_target(sram_kib: float = 16, rows: int = 4, cols: int = 4, arrays: int = 2, lanes: int = 8,
                memory_mib: int = 64, dataflow: Dataflow = "weight_stationary", widens: tuple[str, ...] = ()) -> Target:
    """A machine small enough that everything is tiled."""
    array = SystolicConfig(type="systolic", rows=rows, cols=cols, arrays=arrays, clock_hz=1e9,
                           dataflow=dataflow, dtypes=("bf16", "int8"), mac_energy_pj={"bf16": 1.0, "int8": 0.2})
    vector = VectorConfig(type="vector", lanes=lanes, clock_hz=1e9, latency_cycles=4, exp_ops=4, op_energy_pj=1.0,
                          mac_energy_pj=2.0)
    return Target("toy", "dram", memory_mib << 20, 256, "sram", int(sram_kib * 1024), "arrays", array, "lanes", vector,
                  widens=widens)


def make_values(graph: OperatorGraph, seed: int) -> dict[str, np.ndarray]:
    """Small integers for everything that no operator writes, and for the caches; ids within the vocabulary."""
    generator = np.random.default_rng(seed)
    vocab = {op.inputs[0].name: op.vocab for op in program_order(graph) if isinstance(op, Embedding)}
    return {
        name: generator.integers(0, vocab[name], tensor.shape) if name in vocab else generator.integers(-3, 4, tensor.shape)
        for name, tensor in tensors_of(graph).items() if tensor.role in ("weight", "kv", "input")
    }


def _is_exact(graph: OperatorGraph) -> bool:
    return all(op.kind in EXACT_KINDS or getattr(op, "function", "") in EXACT_FUNCTIONS for op in program_order(graph))


def check(graph: OperatorGraph, target: Target, *, attention: AttentionStyle = "auto", seed: int = 0,
          orders: tuple[int, ...] = (1,), objective: Objective = "latency",
          constraints: Constraints | None = None) -> TileProgram:
    """Map, check the capacity laws, interpret in several orders, compare every output and cache with numpy."""
    values = make_values(graph, seed)
    ids = next((values[op.inputs[0].name].ravel().tolist() for op in program_order(graph) if op.kind == "embedding"), None)
    program = map_to_target(graph, target, attention=attention, token_ids=ids, objective=objective, constraints=constraints)
    assert not broken_capacity_laws(program, target.sram_bytes)
    found, wanted = run_checked(program, values, orders), run_reference(graph, values)
    for tensor in program.tensors:
        if tensor.name in wanted and tensor.role != "weight":
            if _is_exact(graph):
                np.testing.assert_array_equal(found[tensor.name], wanted[tensor.name], err_msg=tensor.name)
            else:
                np.testing.assert_allclose(found[tensor.name], wanted[tensor.name], rtol=1e-9, atol=1e-9, err_msg=tensor.name)
    return program


@pytest.fixture(scope="session")
def toy_target() -> Callable[..., Target]:
    return make_target


@pytest.fixture(scope="session")
def equals_numpy() -> Callable[..., TileProgram]:
    return check


@pytest.fixture(scope="session")
def small_integers() -> Callable[[OperatorGraph, int], Mapping[str, np.ndarray]]:
    return make_values
