"""The search: as good as looking everywhere, never worse than a fixed rule, right about time, and always a correct mapping."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.engine import Engine
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.arch.systolic import SystolicConfig, gemm_cycles
from tilesim.mapping.constraints import Constraints, GemmConstraints, load_constraints
from tilesim.mapping.gemm_space import GemmTask, every_plan
from tilesim.mapping.gemm_timeline import judge
from tilesim.mapping.mapper import map_graph, target_of
from tilesim.mapping.search import choose_gemm, fixed_rules, timed
from tilesim.mapping.target import Objective, Site, Target, share_out
from tilesim.memory.sram import SramConfig
from tilesim.run import run_graph
from tilesim.sim.dtypes import DTYPES
from tilesim.sim.errors import ConfigError
from tilesim.sim.program import TileProgram
from tilesim.workloads import single
from tilesim.workloads.graph import OperatorGraph

MakeTarget = Callable[..., Target]
Check = Callable[..., TileProgram]

#: Matrix products of transformer layers, (m, k, n): prefill, small batches, decode; narrow and wide.
TRANSFORMER = [(512, 2048, 2048), (512, 2048, 512), (128, 2048, 8192), (128, 8192, 2048), (16, 2048, 2048), (1, 2048, 2048),
               (1, 4096, 1024), (384, 768, 768), (384, 768, 3072), (77, 640, 640)]
#: Rules that people use: the mapper's own, one loop order or the other, big blocks, what fits of one operand held.
FIXED_RULES: dict[str, dict[str, Any]] = {
    "fixed rule": {"search": "heuristic"},
    "m outer, nothing held": {"outer": "m", "hold": "none", "stationary": "b", "split_k": 1, "n_tile": 512},
    "n outer, nothing held": {"outer": "n", "hold": "none", "stationary": "b", "split_k": 1, "n_tile": 512},
    "one tile of 128": {"k_tile": 128, "n_tile": 128, "stationary": "b"},
}


def random_task(generator: random.Random) -> GemmTask:
    bf16, int8 = DTYPES["bf16"], DTYPES["int8"]
    a = generator.choice((bf16, int8))
    return GemmTask(generator.randint(1, 5), generator.randint(1, 5), generator.randint(1, 5), generator.randint(1, 2), a, a, a,
                    generator.random() < 0.5, False, generator.random() < 0.5, True, generator.random() < 0.7, False,
                    generator.random() < 0.3)


@pytest.mark.parametrize(("seed", "spaces"), [(7, 40), pytest.param(11, 250, marks=pytest.mark.slow)])
def test_search_is_within_one_percent_of_exhaustive_search(seed: int, spaces: int, toy_target: MakeTarget) -> None:
    """On small spaces: every tile size, loop order, held strip, stationary operand and split of k, each timed record by record,
    against the pruned search."""
    generator, gaps, sizes = random.Random(seed), [], []
    for _ in range(spaces):
        task = random_task(generator)
        target = toy_target(sram_kib=generator.choice((2, 4, 8)), rows=generator.choice((2, 4)), cols=generator.choice((2, 4)),
                            arrays=generator.randint(1, 2), lanes=generator.choice((1, 4)))
        site = Site(target, share_out(target.sram_bytes, 0, True))
        plans = every_plan(task, site, {})
        best = float(judge(plans, task, site).min())
        gaps.append(choose_gemm(task, site, GemmConstraints()).costs["seconds"] / best - 1)
        sizes.append(len(plans))
    assert min(sizes) >= 1
    assert sum(sizes) / spaces > 300                                  # there is something to choose from
    assert max(gaps) <= 0.01, (max(gaps), sum(gap > 0.01 for gap in gaps))


#: Weights that a decoding step and a prompt multiply, in models from 1 to 175 billion parameters, (m, k, n).
JUDGED = [*TRANSFORMER, (1, 12288, 49152), (16, 4096, 4096), (512, 4096, 14336), (2048, 12288, 12288), (2048, 2048, 2048)]


@pytest.mark.parametrize("chip", ["hbm-npu", "tpu-v4i", "gemmini-default"])
def test_search_is_never_slower_than_the_fixed_rules_by_the_same_timeline(chip: str) -> None:
    target = target_of(load_machine(chip), 1 << 16)
    dtype = DTYPES["int8" if chip == "gemmini-default" else "bf16"]
    for contended in (False, True):
        site = Site(target, share_out(target.sram_bytes, 0, True, target.shares), contended=contended)
        for m, k, n in JUDGED:
            task = GemmTask(m, k, n, 1, dtype, dtype, dtype, False, False, False, True, True, False, False)
            rules = fixed_rules(task, site, {}, last_resort=False)
            if contended:                                              # there one rule for all shapes is the measure
                rules = rules.take(np.arange(min(1, len(rules))))
            found = choose_gemm(task, site, GemmConstraints()).costs["seconds"]
            assert found <= timed(rules, task, site).seconds.min(initial=math.inf), (m, k, n)


def test_a_gemmini_reads_what_its_scratchpad_makes_it_read() -> None:
    """2048 cubed in bytes: a strip of B of 96 columns, 192 KiB, is what stays of 256 KiB beside tiles of A and the lanes' share;
    A is read once for each of 22 strips, B once. A strip that filled all of it (128 columns) would make it 17 x 4 MiB."""
    [step] = map_graph(single.gemm(2048, 2048, 2048, weights="int8", activations="int8"), load_machine("gemmini-default")).steps
    predicted = step.segment.notes["predicted"]["dram_bytes"]
    assert 17 * 4 * 2**20 <= predicted["a"] + predicted["b"] <= 23 * 4 * 2**20


OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "edp")


def simulated_s(machine: MachineConfig, shape: tuple[int, int, int], rule: dict[str, Any]) -> tuple[float, float]:
    """(simulated, predicted) seconds of a product under *rule*."""
    m, k, n = shape
    program = map_graph(single.gemm(m, n, k), machine, constraints=Constraints(gemm=GemmConstraints(**rule)))
    return Engine(machine, program).run().end_ps * 1e-12, program.steps[0].segment.notes["predicted"]["seconds"]


@pytest.mark.parametrize("shape", TRANSFORMER, ids=str)
def test_search_is_never_slower_than_the_best_of_several_fixed_rules(shape: tuple[int, int, int]) -> None:
    """Simulated on the shipped machine. Half a per cent is what runs differ by refresh that meets another tile."""
    machine = load_machine("hbm-npu")
    found, predicted = simulated_s(machine, shape, {})
    others = {}
    for name, rule in FIXED_RULES.items():
        try:
            others[name] = simulated_s(machine, shape, rule)[0]
        except ConfigError:                                            # the rule's tiles do not fit
            continue
    assert found <= 1.005 * min(others.values()), others
    assert predicted == pytest.approx(found, rel=0.1)


machines = st.fixed_dictionaries({
    "sram_kib": st.sampled_from([8, 12, 20, 64]), "rows": st.sampled_from([2, 4]), "cols": st.sampled_from([2, 4, 8]),
    "arrays": st.integers(1, 3), "lanes": st.sampled_from([1, 8]),
    "widens": st.sampled_from([(), ("int8", "int4", "fp8")]),
})


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 30), k=st.integers(1, 30), n=st.integers(1, 30), bias=st.booleans(), machine=machines,
       loops=st.sampled_from([("m", None), ("m", "none"), ("m", "a"), ("n", None), ("n", "none"), ("n", "b")]),
       dataflow=st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"]),
       stationary=st.sampled_from(["a", "b"]),
       split_k=st.integers(1, 3), unit=st.sampled_from(["arrays", "lanes"]))
def test_every_structure_of_the_map_space_equals_numpy(
    m: int, k: int, n: int, bias: bool, machine: dict[str, Any], loops: tuple[str, str | None], dataflow: str, stationary: str,
    split_k: int, unit: str, toy_target: MakeTarget, equals_numpy: Check,
) -> None:
    """The interpreter computes A·B by the records of each mapping, whatever the order and the unit."""
    outer, hold = loops
    rule: dict[str, Any] = {"outer": outer, "hold": hold, "stationary": stationary if unit == "arrays" else "b", "split_k": split_k,
                            "unit": unit}
    constraints = Constraints(gemm=GemmConstraints(**rule))
    try:
        program = equals_numpy(single.gemm(m, n, k, bias=bias), toy_target(**machine, dataflow=dataflow), constraints=constraints)
    except ConfigError:
        return                                                         # nothing to hold or to split, or no room for it
    notes = program.steps[0].segment.notes
    assert (notes["outer"], notes["split_k"]) == (outer, split_k)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 40), k=st.integers(1, 40), n=st.integers(1, 40), machine=machines,
       objective=st.sampled_from(["latency", "energy", "edp"]), weights=st.sampled_from(["bf16", "int8", "int4-g8"]),
       dataflow=st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"]), batch=st.integers(1, 3))
def test_every_objective_gives_a_correct_mapping(
    m: int, k: int, n: int, machine: dict[str, Any], objective: str, weights: str, dataflow: str, batch: int,
    toy_target: MakeTarget, equals_numpy: Check,
) -> None:
    k *= 8 if weights == "int4-g8" else 1                              # groups of eight along k share a scale
    equals_numpy(single.gemm(m, n, k, batch=batch, weights=weights), toy_target(**machine, dataflow=dataflow), objective=objective)


def test_objectives_do_what_they_say() -> None:
    machine = load_machine("hbm-npu")
    costs = {}
    for objective in ("latency", "energy", "edp"):
        program = map_graph(single.gemm(256, 1024, 1024), machine, objective=objective)
        costs[objective] = program.steps[0].segment.notes["predicted"]
    assert costs["latency"]["seconds"] <= 1.005 * min(cost["seconds"] for cost in costs.values())
    assert costs["energy"]["energy_j"] <= 1.005 * min(cost["energy_j"] for cost in costs.values())
    edp = {objective: cost["energy_j"] * cost["seconds"] for objective, cost in costs.items()}
    assert edp["edp"] <= 1.005 * min(edp.values())


def test_impossible_constraints_are_refused() -> None:
    with pytest.raises(ConfigError, match="no mapping"):
        map_graph(single.gemm(4096, 4096, 4096), load_machine("hbm-npu"),
                  constraints=Constraints(gemm=GemmConstraints(m_tile=4096, n_block=4096)))


def test_constraints_that_name_no_operator_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("operators:\n  gem:\n    gemm: {k_tile: 128}\n")
    with pytest.raises(ConfigError, match=r"(?s)mapping.yaml:2: operators.gem: no matrix product.*Did you mean 'gemm'"):
        map_graph(single.gemm(4, 4, 4), load_machine("hbm-npu"), constraints=load_constraints(path))
    path.write_text("gemm:\n  k_til: 128\n")
    with pytest.raises(ConfigError, match=r"(?s)mapping.yaml:2.*k_tile"):
        load_constraints(path)


@pytest.mark.parametrize(("text", "said"), [
    ("gemm: {hold: b, outer: m}\n", r"(?s)mapping.yaml:1.*hold: b wants outer: n"),
    ("gemm: {n_tile: 128, n_block: 200}\n", r"(?s)mapping.yaml:1.*n_block is 200: must be a multiple of n_tile, 128"),
    ("gemm: {unit: lanes, stationary: a}\n", r"(?s)mapping.yaml:1.*stationary: a"),
    ("gemm:\n  search: heuristic\n  k_tile: 8\n", r"mapping.yaml:2: gemm.search.*k_tile cannot be given beside it"),
    ("gemm: {outer: x}\n", r"(?s)mapping.yaml:1.*outer is 'x'.*m, n"),
    ("# all of C at once\ngemm:\n  m_tile: 4096\n  n_block: 4096\n", r"mapping.yaml:2: gemm: no mapping of"),
    ("gemm: {search: exhaustive}\n", r"mapping.yaml:1: gemm: an exhaustive search"),
])
def test_constraints_that_cannot_be_kept_are_refused_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        map_graph(single.gemm(4096, 4096, 4096), load_machine("hbm-npu"), constraints=load_constraints(path))


def test_constraints_of_products_are_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match="there is no matrix product"):
        map_graph(single.softmax(8, 64), load_machine("hbm-npu"), constraints=Constraints(gemm=GemmConstraints(k_tile=64)))


@pytest.mark.parametrize("search", ["pruned", "exhaustive"])
@pytest.mark.parametrize(("given", "taken"), [
    ({"m_tile": 64}, {"m_tile": 5}), ({"k_tile": 100}, {"k_tile": 6}), ({"n_tile": 32}, {"n_tile": 8, "n_block": 8}),
    ({"n_block": 4096}, {"n_block": 8}), ({"n_tile": 3, "n_block": 600}, {"n_tile": 3, "n_block": 9}),
])
def test_a_tile_larger_than_its_extent_is_all_of_it(search: str, given: dict[str, int], taken: dict[str, int]) -> None:
    """One file of constraints serves products of many sizes."""
    rule: dict[str, Any] = {"search": search, **given}
    [step] = map_graph(single.gemm(5, 8, 6), load_machine("hbm-npu"),
                       constraints=Constraints(gemm=GemmConstraints(**rule))).steps
    assert {key: step.segment.notes[key] for key in taken} == taken


def test_constraints_are_kept(tmp_path: Path) -> None:
    given: dict[str, Any] = {"outer": "m", "k_tile": 256, "n_tile": 128, "n_block": 256, "stationary": "a"}
    [step] = map_graph(single.gemm(512, 1024, 1024), load_machine("hbm-npu"),
                       constraints=Constraints(gemm=GemmConstraints(**given))).steps
    assert {key: step.segment.notes[key] for key in given} == given


@pytest.mark.parametrize("timing", ["physical", "scalesim"])
@pytest.mark.parametrize("dataflow", ["weight_stationary", "output_stationary", "input_stationary"])
@pytest.mark.parametrize("shape", [(4096, 16, 4096), (300, 700, 500)], ids=str)
def test_tiles_do_not_beat_the_whole_product_on_the_arrays(shape: tuple[int, int, int], dataflow: str, timing: str) -> None:
    """Tiles overlap as folds do, and no more: a product cut up keeps the arrays for as long as one in one piece, but for the drain
    of the last fold (in compatibility mode that of each round, which a cut into rounds does not change)."""
    machine = load_machine("hbm-npu", (f"parts.mxu.dataflow={dataflow}", f"parts.mxu.timing={timing}"))
    array = machine.parts["mxu"]
    assert isinstance(array, SystolicConfig)
    cycles = gemm_cycles(*shape, array)
    whole_s = (cycles.total - cycles.drain) / array.clock_hz
    assert simulated_s(machine, shape, {"unit": "arrays"})[0] >= whole_s


@pytest.mark.parametrize("shape", [(200, 64, 64), (64, 256, 64), (48, 64, 64), (197, 192, 192)], ids=str)
def test_search_knows_what_short_rows_cost(shape: tuple[int, int, int]) -> None:
    """Rows shorter than a burst of DDR4 move whole bursts; simulated, the search is no slower than the fixed rule."""
    machine, (m, k, n) = load_machine("gemmini-default"), shape
    graph = single.gemm(m, n, k, weights="int8", activations="int8")
    found_s, rule_s = (run_graph(machine, graph, "gemm", 1, {}, constraints=Constraints(gemm=rule)).seconds
                       for rule in (GemmConstraints(), GemmConstraints(search="heuristic")))
    assert found_s <= rule_s


@pytest.mark.parametrize(("chip", "shape"), [("gemmini-default", (256, 512, 256)), ("gemmini-default", (128, 128, 512)),
                                             ("hbm-npu", (1024, 1024, 1024)), ("hbm-npu", (256, 1024, 1024))])
def test_least_energy_is_least_when_simulated(chip: str, shape: tuple[int, int, int]) -> None:
    """Within a per cent, which is what the memory's commands differ by; and the scratchpad moves the bytes that were predicted."""
    machine, dtype, (m, k, n) = load_machine(chip), "bf16" if chip == "hbm-npu" else "int8", shape
    graph = single.gemm(m, n, k, weights=dtype, activations=dtype)
    joules = {}
    for objective in OBJECTIVES:
        report = run_graph(machine, graph, "gemm", 1, {}, objective=objective)
        predicted = map_graph(graph, machine, objective=objective).steps[0].segment.notes["predicted"]
        scratchpad = report.memory[machine.only(SramConfig, "sram")[0]]
        joules[objective] = report.energy_j
        assert predicted["sram_bytes"] == scratchpad.read_bytes + scratchpad.written_bytes
        assert predicted["energy_j"] == pytest.approx(report.energy_j, rel=0.1)
    assert joules["energy"] <= 1.01 * min(joules.values())


@pytest.mark.parametrize("graph", [single.gemm(64, 64, 64), single.lstm(2, 5, 6)], ids=["gemm", "lstm"])
@pytest.mark.filterwarnings("error")
def test_a_product_of_which_no_tile_fits_is_refused_with_the_capacity_that_mends_it(graph: OperatorGraph) -> None:
    machine = load_machine("hbm-npu", ("parts.scratchpad.capacity=200 B",))
    with pytest.raises(ConfigError, match=r"smallest tiles want .*\n.*set parts.scratchpad.capacity to at least"):
        run_graph(machine, graph, "case", 0, {})


@pytest.mark.filterwarnings("error")
def test_what_no_memory_could_hold_is_refused_before_any_search() -> None:
    """Sizes whose products pass 64 bits never reach the arithmetic of the search."""
    with pytest.raises(ConfigError, match="the run wants 600000000098304 bytes of 'hbm'"):
        map_graph(single.gemm(10**7, 10**7, 10**7), load_machine("hbm-npu"))
