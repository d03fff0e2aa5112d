"""The timeline by which the search judges: the engine's own times on an ideal memory, and a memory's rates as it gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tilesim.arch.engine import Engine
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.mapping.constraints import Constraints, GemmConstraints
from tilesim.mapping.gemm_timeline import records_at_most
from tilesim.mapping.mapper import map_graph, target_of
from tilesim.mapping.memory_rates import rates_of_memory
from tilesim.memory.ideal import IdealMemoryConfig
from tilesim.sim.errors import ConfigError
from tilesim.workloads import single

RULES: list[dict[str, Any]] = [
    {}, {"search": "heuristic"}, {"outer": "m", "hold": "none"}, {"outer": "n", "hold": "b"}, {"hold": "a"},
    {"k_tile": 128, "n_tile": 128}, {"unit": "lanes"}, {"split_k": 2}, {"stationary": "a"},
]


def on_ideal_memory(chip: str) -> MachineConfig:
    """The chip with a memory that has no rows: a rate and a latency, as the timeline assumes."""
    machine = load_machine(chip)
    name, _ = machine.main_memory()
    ideal = IdealMemoryConfig(type="ideal", capacity_bytes=1 << 36, bandwidth_bytes_per_s=1.5e12, latency_ps=100_000,
                              read_energy_pj_per_bit=1.0, write_energy_pj_per_bit=1.0, source="a test")
    return machine.model_copy(update={"parts": {**machine.parts, name: ideal}})


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(512, 2048, 512), (16, 2048, 2048), (384, 768, 768), (1, 2048, 1024)], ids=str)
@pytest.mark.parametrize("weights", ["bf16", "int8", "fp4-g32"])         # as they are, widened at the ports, unpacked by the lanes
def test_timeline_is_the_engine_on_an_ideal_memory(shape: tuple[int, int, int], rule: dict[str, Any], weights: str) -> None:
    """Within 1.5 % (the ports, which the engine shares out piece by piece), and the latency of the last store."""
    machine, (m, k, n) = on_ideal_memory("hbm-npu"), shape
    graph = single.gemm(m, n, k, weights=weights)
    try:
        program = map_graph(graph, machine, constraints=Constraints(gemm=GemmConstraints(**rule)))
    except ConfigError:
        assert rule.get("hold") == "b"                                 # nothing to hold for one block, or what the lanes unpack
        return
    predicted_s = program.steps[0].segment.notes["predicted"]["seconds"]
    simulated_s = Engine(machine, program).run().end_ps * 1e-12
    assert predicted_s == pytest.approx(simulated_s - 100e-9, rel=0.015)


def test_memory_gives_the_rates_that_its_commands_give() -> None:
    """HBM3: 95 to 100 % of the pins in whole tiles. Rows of 256 B 8 KiB apart meet four bursts of every 128 and one bank group
    after the other waits: half the rate; whole rows lose nothing. An ideal memory is as it says."""
    memory = load_machine("hbm-npu").main_memory()[1]
    rates = rates_of_memory(memory)
    assert 0.95 < rates.bytes_per_s / memory.peak_bytes_per_s < 1.0
    assert 60e-9 < rates.latency_s < 150e-9
    assert rates.windows.share(8192, 8192, False) == 1.0
    assert 0.3 < rates.windows.share(256, 8192, False) < 0.6
    assert rates.windows.share(256, 8192, False, alone=True) < rates.windows.share(256, 8192, False)
    ideal = rates_of_memory(on_ideal_memory("hbm-npu").main_memory()[1])
    assert (ideal.bytes_per_s, ideal.latency_s, ideal.windows.share(2, 8192, False)) == (1.5e12, 100e-9, 1.0)


def test_arrays_are_long_enough_for_every_record() -> None:
    from tilesim.mapping.gemm_space import GemmTask, candidates
    from tilesim.mapping.target import Site, share_out
    from tilesim.sim.dtypes import DTYPES

    target = target_of(load_machine("hbm-npu"), 1 << 16)
    bf16 = DTYPES["bf16"]
    task = GemmTask(300, 500, 700, 1, bf16, bf16, bf16, False, False, False, True, True, False, False)
    site = Site(target, share_out(target.sram_bytes, 0, True))
    plans = candidates(task, site, {})
    most = records_at_most(plans, task, site)
    assert len(plans) > 100
    assert np.all(most > 0)
