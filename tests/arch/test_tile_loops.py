"""The reduction of tile loops: what it finds in a segment, what it counts exactly, and how far its time is from the exact run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilesim.arch.costs import SegmentCosts
from tilesim.arch.engine import Engine
from tilesim.arch.layer_memo import run_program
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.arch.run_counts import ProgramRun
from tilesim.arch.tile_loops import LoopFinder, TileLoop, least_times
from tilesim.mapping.mapper import map_graph
from tilesim.sim.dtypes import DTYPES
from tilesim.sim.program import Pool, Segment, SegmentBuilder, Step, TensorPlace, TileProgram, view_of, whole
from tilesim.workloads.graph import OperatorGraph
from tilesim.workloads.single import single_operator

BF16 = DTYPES["bf16"]
UNREFRESHED = "parts.hbm.controller.refresh=none"


def machine(rows: int = 16, lanes: int = 256, sram_kib: int = 128, shadow: bool = True, *more: str) -> MachineConfig:
    return load_machine("hbm-npu", (
        f"parts.mxu.rows={rows}", f"parts.mxu.cols={rows}", "parts.mxu.arrays=2", f"parts.vpu.lanes={lanes}",
        f"parts.scratchpad.capacity={sram_kib} KiB", "parts.hbm.stacks=1",
        f"parts.mxu.double_buffered_weights={str(shadow).lower()}", *more))


def gemm(m: int, n: int, k: int, batch: int = 1) -> OperatorGraph:
    return single_operator("gemm", {"m": m, "n": n, "k": k, "batch": batch, "dtype": "bf16"})[0]


def attention(heads: int, tokens: int, batch: int) -> OperatorGraph:
    return single_operator("attention", {"heads": heads, "kv_heads": heads, "head_dim": 16, "q": tokens, "context": tokens,
                                         "batch": batch, "full": False, "dtype": "bf16"})[0]


def gemm8(m: int, n: int, k: int) -> OperatorGraph:
    return single_operator("gemm", {"m": m, "n": n, "k": k, "batch": 1, "dtype": "int8"})[0]


def loops(program: TileProgram, config: MachineConfig) -> tuple[Segment, tuple[TileLoop, ...]]:
    segment = program.steps[0].segment
    return segment, LoopFinder(64).find(segment, SegmentCosts(config, program).of(segment))


def left(run: ProgramRun) -> Mapping[str, Any] | None:
    return next((reduction for reduction in run.reductions if reduction["name"] == "tile loops"), None)


def memory_pj(run: ProgramRun) -> float:
    return sum(count * pj for count, pj in run.memory.energy_actions(run.end_ps).values())


def check_equal(config: MachineConfig, program: TileProgram) -> Mapping[str, Any] | None:
    """What the program fixes is equal, time is as near as the reduction says, and all that follows from it; gives the reduction."""
    reduced, whole = run_program(config, program), Engine(config, program).run()
    found = left(reduced)
    near = 0.003 + (found["error_estimate_pct"] / 100 if found else 0.0)
    assert reduced.end_ps == pytest.approx(whole.end_ps, rel=near)
    assert reduced.ledger.counts == whole.ledger.counts
    assert (reduced.sram_read_bytes, reduced.sram_write_bytes) == (whole.sram_read_bytes, whole.sram_write_bytes)
    assert reduced.link_bytes == whole.link_bytes
    for ours, theirs in zip(reduced.operators, whole.operators, strict=True):
        assert (ours.read_bytes, ours.write_bytes, ours.read_burst_bytes, ours.write_burst_bytes) == (
            theirs.read_bytes, theirs.write_bytes, theirs.read_burst_bytes, theirs.write_burst_bytes)
        assert ours.end_ps == pytest.approx(theirs.end_ps, rel=near)
    for name, unit in whole.units.items():
        assert (reduced.units[name].records, reduced.units[name].macs) == (unit.records, unit.macs)
        if not name.startswith("dma"):                  # how long transfers in flight wait for each other is an approximation
            assert reduced.units[name].busy_ps == pytest.approx(unit.busy_ps, abs=0.003 * whole.end_ps)
            assert reduced.units[name].busy_ps <= reduced.end_ps
            waited = sum(reduced.units[name].stalled_ps.values())
            assert waited == pytest.approx(sum(unit.stalled_ps.values()), abs=0.01 * whole.end_ps)
    assert (reduced.memory.read_bytes, reduced.memory.written_bytes) == (whole.memory.read_bytes, whole.memory.written_bytes)
    assert memory_pj(reduced) == pytest.approx(memory_pj(whole), rel=0.01)
    details, wanted = reduced.memory.details(reduced.end_ps), whole.memory.details(whole.end_ps)
    for count in ("reads", "writes", "read_burst_bytes", "written_burst_bytes"):
        assert details.get(count) == wanted.get(count)
    refreshes = [sum(count for name, count in d.get("commands", {}).items() if name.startswith("REF")) for d in (details, wanted)]
    assert refreshes[0] == pytest.approx(refreshes[1], rel=0.01 + near, abs=2 * wanted.get("channels", 0))
    return found


DDR = ("parts.hbm.memory=ddr4-3200", "parts.hbm.controller.refresh=all_bank")
IDEAL = ("parts.hbm={type: ideal, capacity: 1 GiB, bandwidth: 100 GB/s, latency: 100 ns, read_energy: 4 pJ/bit, "
         "write_energy: 4 pJ/bit, source: a test}",)
LONG = [
    pytest.param(machine(8, 256, 64), gemm(48, 48, 48, 200), id="batch"),
    pytest.param(machine(8, 256, 64, False, UNREFRESHED), gemm(40, 64, 64, 120), id="unrefreshed"),
    pytest.param(machine(16, 16), attention(80, 64, 1), id="attention"),
    pytest.param(machine(8, 64, 64, True, *IDEAL), gemm(64, 64, 64, 40), id="ideal memory"),
    pytest.param(load_machine("gemmini-default"), gemm8(2048, 256, 1024), id="two loops"),
    pytest.param(machine(8, 16, 128), attention(60, 170, 1), id="few long periods"),
]


@pytest.mark.parametrize(("config", "graph"), LONG)
def test_loops_are_left_and_nothing_else_changes(config: MachineConfig, graph: OperatorGraph) -> None:
    found = check_equal(config, map_graph(graph, config))
    assert found is not None
    assert found["simulated"] < found["periods"]
    assert found["error_estimate_pct"] <= 0.3


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(machine, st.sampled_from([8, 16]), st.sampled_from([16, 256]), st.sampled_from([64, 128]), st.booleans(),
              st.sampled_from(["parts.hbm.controller.refresh=all_bank", UNREFRESHED, "parts.dma.max_in_flight=4", IDEAL[0],
                               "parts.hbm.controller.refresh_phases=4", "parts.hbm.controller.page_policy=closed"])),
    st.one_of(st.builds(gemm, st.integers(20, 200), st.integers(100, 500), st.integers(100, 400)),
              st.builds(gemm, st.integers(1, 4), st.integers(500, 3000), st.integers(500, 1500)),
              st.builds(gemm, st.integers(16, 64), st.integers(16, 64), st.integers(16, 64), st.integers(30, 100)),
              st.builds(attention, st.integers(30, 80), st.integers(20, 80), st.just(1))),
)
def test_any_reduced_run_is_that_of_every_tile(config: MachineConfig, graph: OperatorGraph) -> None:
    check_equal(config, map_graph(graph, config))


def test_long_periods_are_seen_for_long() -> None:
    """Two refreshes of this machine meet twice in 25 periods of 5 µs, which costs half a percent: the first periods do not tell."""
    config = machine(8, 256, 16, False, "parts.mxu.dataflow=input_stationary", "parts.hbm.memory=hbm2-2000",
                     "parts.hbm.controller.refresh=per_bank", "parts.hbm.controller.refresh_postponed_max=0")
    check_equal(config, map_graph(gemm(128, 400, 256), config, objective="energy"))


def test_exact_and_traced_runs_leave_no_loop() -> None:
    config = machine(8, 64, 64, True, *IDEAL)
    program = map_graph(gemm(64, 64, 64, 40), config)
    assert left(run_program(config, program))
    assert not left(run_program(config, program, exact=True))
    assert not left(run_program(config, program, trace=True))


def test_a_loop_is_known_again_in_a_later_operator() -> None:
    """The second of two equal products takes the time of a period from the first, and is left sooner."""
    config = machine(8, 64, 64, True, *DDR)
    program = map_graph(gemm(64, 64, 64, 100), config)
    twice = replace(program, steps=(program.steps[0], program.steps[0]))
    one, two = left(run_program(config, program)), run_program(config, twice)
    both = left(two)
    assert one is not None
    assert both is not None
    assert both["loops"] == 2
    assert both["simulated"] < 1.7 * one["simulated"]
    assert two.end_ps == pytest.approx(Engine(config, twice).run().end_ps, rel=0.003 + both["error_estimate_pct"] / 100)


def test_records_of_a_loop_are_alike_a_period_apart() -> None:
    """Unit, kind and bytes of each record are those of the one a period before; loops are disjoint, inner ones lie in a period."""
    config = load_machine("gemmini-default")
    segment, found = loops(map_graph(gemm8(1024, 2048, 256), config), config)

    def check(found: tuple[TileLoop, ...], base: int, extent: int) -> int:
        at = deepest = 0
        for loop in found:
            assert at <= loop.first < loop.end <= extent
            assert loop.times >= least_times(loop.period)
            at = loop.end
            for index in range(base + loop.first, base + loop.end - loop.period):
                ours, theirs = segment.records[index], segment.records[index + loop.period]
                assert (type(ours), ours.unit) == (type(theirs), theirs.unit)
                assert getattr(ours, "nbytes", 0) == getattr(theirs, "nbytes", 0)
            deepest = max(deepest, 1 + check(loop.inner, base + loop.first, loop.period))
        return deepest

    assert check(found, 0, len(segment.records)) >= 1


def test_few_tiles_are_no_loop() -> None:
    config = machine(sram_kib=1024)
    assert loops(map_graph(gemm(64, 64, 64), config), config)[1] == ()


def streamed(periods: int, read_late: int) -> TileProgram:
    """A tile loaded, copied by the lanes and stored, so many times; behind them the lanes read result *read_late* again."""
    size, builder = 64, SegmentBuilder("streamed", 2)
    results = []
    for _ in range(periods):
        tile = builder.buffer("tile", "stream", size, BF16)
        results.append(builder.buffer("result", "vector", size, BF16))
        builder.load("dma.stream", 0, whole(2 * size), tile)
        builder.compute("vpu", "copy", (view_of((size,), buffer=tile),), (view_of((size,), buffer=results[-1]),))
        builder.store("dma.store", 1, whole(2 * size), view_of((size,), buffer=results[-1]))
    again = builder.buffer("again", "vector", size, BF16)
    builder.compute("vpu", "copy", (view_of((size,), buffer=results[read_late]),), (view_of((size,), buffer=again),))
    tensors = (TensorPlace("x", (size,), BF16, "input", "hbm", 0, 2 * size),
               TensorPlace("y", (size,), BF16, "output", "hbm", 1 << 20, 2 * size))
    pools = (Pool("stream", "scratchpad", 1 << 20), Pool("vector", "scratchpad", 1 << 20))
    return TileProgram(tensors, pools, {"scratchpad": 0}, (Step("streamed", "elementwise", builder.build(), (0, 1), ((), ())),))


@pytest.mark.parametrize(("read_late", "is_loop"), [(99, True), (98, True), (96, False), (60, False)])
def test_a_loop_holds_no_buffer_that_is_read_long_behind_it(read_late: int, is_loop: bool) -> None:
    """Buffers of the last periods stand in for those left out; which of them an older one would be could not be told."""
    _, found = loops(streamed(100, read_late), load_machine("hbm-npu"))
    assert bool(found) == is_loop
    assert all(loop.times >= 99 for loop in found)
