"""The reduction by layers: what it finds, what it counts exactly, and how far its time is from the exact run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tilesim
from tilesim.arch.layer_memo import Repeat, find_repeat, shortened
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.mapping.mapper import map_graph
from tilesim.sim.program import TileProgram
from tilesim.sim.report import Report
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.phases import Workload

SMALL = ("parts.scratchpad.capacity=512 KiB", "parts.hbm.stacks=1", "parts.mxu.rows=16", "parts.mxu.cols=16")
MACHINE = load_machine("hbm-npu", SMALL)
#: A layer of 2 µs meets a refresh interval of 3.9 µs in other phases each time, which is what keeps it from being replayed.
UNREFRESHED = load_machine("hbm-npu", (*SMALL, "parts.hbm.controller.refresh=none"))
WORKLOADS = {"decode": lambda model: tilesim.decode(model, context=900, batch=4),
             "prefill": lambda model: tilesim.prefill(model, prompt=48)}


def model(layers: int) -> ModelConfig:
    return ModelConfig(name="deep", family="llama", layers=layers, hidden=256, heads=8, kv_heads=4, head_dim=32, intermediate=512,
                       vocab=512, max_positions=1024, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                       tied_embeddings=True)


def program(layers: int) -> TileProgram:
    return map_graph(WORKLOADS["decode"](model(layers)).lower(), MACHINE)


def memo(report: Report) -> list[str]:
    return [reduction["name"] for reduction in report.reductions if reduction["name"] == "layer memo"]


@pytest.mark.parametrize(("phase", "machine"), [("decode", UNREFRESHED), ("prefill", MACHINE)])
def test_replayed_layers_are_within_half_a_percent_of_the_exact_run(phase: str, machine: MachineConfig) -> None:
    workload = WORKLOADS[phase](model(20))
    reduced, exact = tilesim.simulate(machine, workload), tilesim.simulate(machine, workload, exact=True)
    assert memo(reduced)
    assert not memo(exact)
    assert reduced.seconds == pytest.approx(exact.seconds, rel=0.005)
    assert reduced.energy_j == pytest.approx(exact.energy_j, rel=0.005)
    assert [op.name for op in reduced.operators] == [op.name for op in exact.operators]
    assert sum(op.seconds for op in reduced.operators) == pytest.approx(reduced.seconds)
    # What the program fixes is counted, not estimated.
    for ours, theirs in zip(reduced.operators, exact.operators, strict=True):
        assert (ours.read_bytes, ours.write_bytes, ours.executed_macs) == (theirs.read_bytes, theirs.write_bytes,
                                                                           theirs.executed_macs)
    for name, level in exact.memory.items():
        assert (reduced.memory[name].read_bytes, reduced.memory[name].written_bytes) == (level.read_bytes, level.written_bytes)
        assert reduced.memory[name].used_bytes == level.used_bytes
    for name, unit in exact.units.items():
        assert (reduced.units[name].records, reduced.units[name].macs) == (unit.records, unit.macs)
        if not name.startswith("dma"):                   # how long transfers wait for each other is the approximation
            assert reduced.units[name].busy_s == pytest.approx(unit.busy_s, rel=0.001)
    assert reduced.links_bytes == exact.links_bytes
    details, wanted_details = (run.memory["hbm"].details for run in (reduced, exact))
    for command in ("RD", "WR"):
        assert details["commands"][command] == wanted_details["commands"][command]
    assert details["commands"]["REFpb"] == pytest.approx(wanted_details["commands"]["REFpb"], rel=0.02)
    assert (wanted_details["commands"]["REFpb"] > 0) is (machine is MACHINE)
    for kind in ("row_hits", "row_misses", "row_conflicts"):
        assert details[kind] == pytest.approx(wanted_details[kind], rel=0.05, abs=50)
    rows = sum(details[kind] for kind in ("row_hits", "row_misses", "row_conflicts"))
    assert rows == details["commands"]["RD"] + details["commands"]["WR"]
    state = {line.action: line.count for line in reduced.energy_lines if line.action.startswith("standby")}
    wanted = {line.action: line.count for line in exact.energy_lines if line.action.startswith("standby")}
    assert sum(state.values()) == pytest.approx(sum(wanted.values()), rel=0.005)
    for line, picoseconds in wanted.items():
        assert state[line] == pytest.approx(picoseconds, abs=0.02 * sum(wanted.values()))
    for name in ("mxu", "vpu"):
        waited, wanted_waits = (sum(run.units[name].stalled_s.values()) for run in (reduced, exact))
        assert waited == pytest.approx(wanted_waits, rel=0.02, abs=0.005 * exact.seconds)


def test_layers_that_take_different_times_are_simulated_whole() -> None:
    assert not memo(tilesim.simulate(MACHINE, WORKLOADS["decode"](model(20))))


def test_few_layers_and_traced_runs_are_simulated_whole() -> None:
    assert not memo(tilesim.simulate(MACHINE, WORKLOADS["decode"](model(8))))
    report = tilesim.simulate(MACHINE, WORKLOADS["decode"](model(12)), trace=True)
    assert not memo(report)
    assert report.timeline is not None


def test_first_layer_is_no_period() -> None:
    """It waits for the embedding and the others for the layer before them; in steps back that is not the same."""
    found = find_repeat(program(12))
    assert found is not None
    per_layer = (len(program(12).steps) - len(program(10).steps)) // 2
    assert found.period == per_layer
    assert found.times in (11, 12)
    assert found.end == found.first + found.times * found.period


def test_layers_of_two_kinds_in_turn_make_one_period() -> None:
    whole = program(40)
    other = {id(step.segment): replace(step.segment, name="other") for step in whole.steps}
    steps = tuple(replace(step, segment=other[id(step.segment)]) if step.layer is not None and step.layer % 2 else step
                  for step in whole.steps)
    single, double = find_repeat(whole), find_repeat(replace(whole, steps=steps))
    assert single is not None
    assert double is not None
    assert double.period == 2 * single.period
    assert double.times in (19, 20)


def test_layers_that_all_differ_are_not_reduced() -> None:
    whole = program(12)
    steps = tuple(replace(step, segment=replace(step.segment, name=f"{step.layer}")) for step in whole.steps)
    assert find_repeat(replace(whole, steps=steps)) is None


def test_shortened_program_is_the_one_of_a_shallower_model() -> None:
    """Nothing behind the layers still points at what was left out; the steps are those of the model with fewer layers."""
    whole = program(14)
    found = find_repeat(whole)
    assert found is not None
    short = shortened(whole, found, 9)
    assert short is not None
    shallow = program(14 - (found.times - 9))
    assert [step.operator.split(".")[-1] for step in short.steps] == [step.operator.split(".")[-1] for step in shallow.steps]
    assert [step.after for step in short.steps] == [step.after for step in shallow.steps]
    names = {whole.tensors[t].name for step in short.steps[found.first + 9 * found.period:] for t in step.operands}
    assert not any(f"layers.{layer}." in name for name in names for layer in range(10, 14))


def test_what_follows_may_need_a_layer_that_is_left_out() -> None:
    whole = program(12)
    found = find_repeat(whole)
    assert found is not None
    middle = next(step for step in whole.steps if step.layer == 9)
    last = whole.steps[-1]
    asks_back = replace(last, operands=(middle.operands[-1], *last.operands[1:]))
    assert shortened(replace(whole, steps=(*whole.steps[:-1], asks_back)), found, 8) is None


def test_repeat_ends_behind_its_last_period() -> None:
    assert Repeat(first=3, period=5, times=4).end == 23


@pytest.mark.slow
@pytest.mark.parametrize("workload", [tilesim.decode("llama-3.2-1b", context=2048), tilesim.prefill("llama-3.2-1b", prompt=512)],
                         ids=["decode", "prefill"])
def test_whole_model_with_refresh_is_within_half_a_percent(workload: Workload) -> None:
    """The agreement of the halves is no error bound: of this decode it is 0.07 %, and the time 0.36 % under the exact run."""
    reduced, exact = tilesim.simulate("hbm-npu", workload), tilesim.simulate("hbm-npu", workload, exact=True)
    assert memo(reduced)
    assert reduced.seconds == pytest.approx(exact.seconds, rel=0.005)
    assert reduced.energy_j == pytest.approx(exact.energy_j, rel=0.005)
