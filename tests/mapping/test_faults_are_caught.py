"""The interpreter is worth what it catches: planted faults in mappings that were right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tilesim.mapping.dram_image import MappingFault
from tilesim.mapping.functions import Array
from tilesim.mapping.interpreter import interpret, operands_of, program_order, strided
from tilesim.mapping.mapper import map_to_target
from tilesim.mapping.target import Target
from tilesim.sim.program import Compute, Load, Record, Segment, Step, Store, TileProgram, View
from tilesim.workloads import single
from tilesim.workloads.graph import OperatorGraph
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.phases import prefill

MakeTarget = Callable[..., Target]
MakeValues = Callable[[OperatorGraph, int], dict[str, Any]]
Run = tuple[TileProgram, dict[str, Any], dict[str, Array]]

MODEL = ModelConfig(name="small", family="llama", layers=1, hidden=24, heads=4, kv_heads=2, head_dim=6, intermediate=40, vocab=30,
                    max_positions=64, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary", tied_embeddings=True)


@pytest.fixture(scope="module")
def run(toy_target: MakeTarget, small_integers: MakeValues) -> Run:
    """A model's program with spilled and resident activations, its values, and what it computes."""
    graph = prefill(MODEL, prompt=20).lower()
    values = small_integers(graph, 1)
    ids = values["token_ids"].tolist()
    program = map_to_target(graph, toy_target(sram_kib=8), token_ids=ids)
    assert any(t.resident for t in program.tensors)
    assert any(t.role == "activation" and not t.resident for t in program.tensors)
    return program, values, interpret(program, values)


def with_segment(program: TileProgram, index: int, **changes: Any) -> TileProgram:
    """The program with the segment of one step changed."""
    steps = list(program.steps)
    steps[index] = replace(steps[index], segment=replace(steps[index].segment, **changes))
    return replace(program, steps=tuple(steps))


def with_record(program: TileProgram, index: int, number: int, record: Record) -> TileProgram:
    records = list(program.steps[index].segment.records)
    records[number] = record
    return with_segment(program, index, records=tuple(records))


def is_caught(program: TileProgram, values: dict[str, Any], expected: dict[str, Array], order: Any = None) -> bool:
    try:
        found = interpret(program, values, order=order)
    except MappingFault:
        return True
    return any(not np.array_equal(found[name], expected[name], equal_nan=True) for name in expected)


def as_early_as_possible(program: TileProgram, index: int, number: int) -> list[tuple[int, int]]:
    """The order in which that record runs right after what it waits for, and everything else after it."""
    needed, todo = set(), [number]
    while todo:
        one = todo.pop()
        if one not in needed:
            needed.add(one)
            todo += program.steps[index].segment.waits[one]
    before = [(step, record) for step, record in program_order(program) if step < index]
    inside = range(len(program.steps[index].segment.records))
    return [*before, *((index, one) for one in inside if one in needed), *((index, one) for one in inside if one not in needed),
            *((step, record) for step, record in program_order(program) if step > index)]


def as_late_as_possible(program: TileProgram, step: int) -> list[tuple[int, int]]:
    """An order in which a record of that step runs only when no other can."""
    left = dict.fromkeys(program_order(program))
    remaining = [len(one.segment.records) for one in program.steps]
    done, order = set(), []

    def is_ready(index: int, number: int) -> bool:
        one = program.steps[index]
        return all((index, earlier) in done for earlier in one.segment.waits[number]) and not any(
            remaining[producer] for operand in operands_of(one.segment.records[number]) for producer in one.after[operand])

    while left:
        ready = [node for node in left if node[0] != step and is_ready(*node)] or [
            next(node for node in left if node[0] == step and is_ready(*node))]
        for node in ready:
            del left[node]
            done.add(node)
            remaining[node[0]] -= 1
            order.append(node)
    return order


def elements(segment: Segment, program: TileProgram, step: Step, view: View) -> set[tuple[int, int, int]]:
    """Which elements of its buffer or operand a view touches."""
    size = (segment.buffers[view.buffer].elements if view.buffer >= 0
            else program.tensors[step.operands[view.operand]].elements)
    return {(view.buffer, view.operand, int(i)) for i in strided(np.arange(size), view).ravel()}


def data_flows(program: TileProgram, step: Step, earlier: Record, later: Record) -> bool:
    """Whether *later* reads on chip what *earlier* wrote there.

    Two additions to one sum may change places, and so may an addition and a rescale where the maximum did not rise.
    """
    segment = step.segment
    if isinstance(earlier, Compute) and earlier.params.get("accumulate") and isinstance(later, Compute) and (
            later.params.get("accumulate") or later.function == "online_softmax"):
        return False
    if isinstance(later, Load):
        return False
    reads = (later.source,) if isinstance(later, Store) else later.reads + (
        later.writes if later.params.get("accumulate") else ())
    if isinstance(earlier, Load):
        return any(view.buffer == earlier.buffer for view in reads)
    if isinstance(earlier, Store):
        return False
    written = set().union(*(elements(segment, program, step, view) for view in earlier.writes))
    return any(written & elements(segment, program, step, view) for view in reads)


def test_every_missing_wait_for_data_is_caught(run: Run) -> None:
    program, values, expected = run
    planted, missed = 0, []
    for index, step in enumerate(program.steps):
        segment = step.segment
        for number, waits in enumerate(segment.waits):
            for dropped in waits:
                changed = list(segment.waits)
                changed[number] = tuple(one for one in waits if one != dropped)
                mutant = with_segment(program, index, waits=tuple(changed))
                order = as_early_as_possible(mutant, index, number)
                if order.index((index, dropped)) < order.index((index, number)):
                    continue                                            # another wait implies the one that was dropped
                if not data_flows(program, step, segment.records[dropped], segment.records[number]):
                    continue
                if number % 3:
                    continue                                            # a third is plenty
                planted += 1
                if not is_caught(mutant, values, expected, order):
                    missed.append((step.operator, dropped, number))
    assert planted > 100
    assert not missed


def test_a_missing_wait_for_another_step_is_caught(run: Run) -> None:
    """Where another operand's wait does not imply it."""
    program, values, expected = run
    planted = 0
    for index, step in enumerate(program.steps):
        for operand, producers in enumerate(step.after):
            if not producers:
                continue
            steps = list(program.steps)
            steps[index] = replace(step, after=tuple(() if i == operand else a for i, a in enumerate(step.after)))
            mutant = replace(program, steps=tuple(steps))
            for producer in producers:
                order = as_late_as_possible(mutant, producer)
                first = min(order.index((index, n)) for n, r in enumerate(step.segment.records) if operand in operands_of(r))
                if first < max(at for at, (one, _) in enumerate(order) if one == producer):
                    planted += 1
                    assert is_caught(mutant, values, expected, order), step.operator
    assert planted > 10


def test_shifted_ranges_are_caught(run: Run) -> None:
    program, values, expected = run
    planted = 0
    for index, step in enumerate(program.steps):
        for number, record in enumerate(step.segment.records):
            if isinstance(record, Compute) or number % 3:
                continue
            tensor = program.tensors[step.operands[record.operand]]
            ranges = record.ranges.copy()
            ranges[0, 0] += 2 if ranges[0].sum() + 2 <= tensor.nbytes else -2
            if ranges[0, 0] < 0:
                continue
            planted += 1
            assert is_caught(with_record(program, index, number, record._replace(ranges=ranges)), values, expected), step.operator
    assert planted > 30


def test_short_and_split_ranges_are_caught(run: Run) -> None:
    program, values, expected = run
    index, number, record = next((i, n, r) for i, step in enumerate(program.steps) if step.kind == "gemm"
                                 for n, r in enumerate(step.segment.records) if isinstance(r, Load))
    for change in (-2, -1):
        ranges = record.ranges.copy()
        ranges[-1, 1] += change
        assert is_caught(with_record(program, index, number, record._replace(ranges=ranges)), values, expected)


def test_a_wrong_flag_of_accumulation_is_caught(run: Run) -> None:
    program, values, expected = run
    for index, step in enumerate(program.steps):
        for number, record in enumerate(step.segment.records):
            if isinstance(record, Compute) and record.function == "matmul" and number % 4 == 0:
                flipped = record._replace(params={**record.params, "accumulate": not record.params["accumulate"]})
                assert is_caught(with_record(program, index, number, flipped), values, expected), step.operator


def test_a_wrong_view_is_caught(run: Run) -> None:
    program, values, expected = run
    planted = 0
    for index, step in enumerate(program.steps):
        for number, record in enumerate(step.segment.records):
            if isinstance(record, Compute) and record.reads[0].operand >= 0 and number % 3 == 0:
                view = record.reads[0]
                shifted = view._replace(offset=view.offset + 1)
                planted += 1
                assert is_caught(with_record(program, index, number, record._replace(reads=(shifted, *record.reads[1:]))), values,
                                 expected), step.operator
    assert planted > 5


def test_a_store_that_is_left_out_or_done_twice_is_caught(run: Run) -> None:
    program, values, _ = run
    index, number = next((i, n) for i, step in enumerate(program.steps) for n, r in enumerate(step.segment.records)
                         if isinstance(r, Store) and step.kind == "gemm")
    segment = program.steps[index].segment
    twice = with_segment(program, index, records=(*segment.records, segment.records[number]),
                         waits=(*segment.waits, segment.waits[number]))
    with pytest.raises(MappingFault, match="written 2 times"):
        interpret(twice, values)
    with pytest.raises(MappingFault, match="never"):
        interpret(program, values, order=[one for one in program_order(program) if one != (index, number)])


def test_two_bursts_at_one_place_are_caught(run: Run) -> None:
    program, values, _ = run
    with pytest.raises(MappingFault, match="share a place"):
        interpret(program, values, places=lambda burst: burst // 2)


def test_capacity_laws_are_checked(run: Run) -> None:
    program, values, _ = run
    with pytest.raises(MappingFault, match="take"):
        interpret(program, values, sram_bytes=sum(pool.capacity_bytes for pool in program.pools))
    tiny = replace(program, pools=tuple(replace(pool, capacity_bytes=16) for pool in program.pools))
    with pytest.raises(MappingFault, match="owns"):
        interpret(tiny, values, sram_bytes=1 << 20)


def test_records_that_run_before_what_they_wait_for_are_caught(run: Run, toy_target: MakeTarget,
                                                               small_integers: MakeValues) -> None:
    graph = single.gemm(9, 9, 9)
    program = map_to_target(graph, toy_target())
    with pytest.raises(MappingFault, match="ran before"):
        interpret(program, small_integers(graph, 1), order=reversed(list(program_order(program))))
