"""What records cost: worked out once for records of one function, shapes, formats and parameters, and for no others."""

from __future__ import annotations

import pytest
from tilesim.arch.costs import RecordCost, SegmentCosts
from tilesim.arch.machine import load_machine
from tilesim.sim.dtypes import DTYPES
from tilesim.sim.program import Pool, SegmentBuilder, Step, TileProgram, view_of


def costs(function: str, shapes: list[tuple[int, int]], params: list[dict[str, int]], dtypes: list[str]) -> tuple[RecordCost, ...]:
    """Of one record on the lanes for each shape, parameters and format."""
    builder = SegmentBuilder("records", 0)
    for shape, more, dtype in zip(shapes, params, dtypes, strict=True):
        tile = builder.buffer("tile", "vector", shape[0] * shape[1], DTYPES[dtype])
        builder.compute("vpu", function, (view_of(shape, buffer=tile),), (view_of(shape, buffer=tile),), **more)
    step = Step("records", "test", builder.build(), (), ())
    program = TileProgram((), (Pool("vector", "scratchpad", 1 << 20),), {}, (step,))
    return SegmentCosts(load_machine("hbm-npu"), program).of(step.segment).records


def test_equal_records_share_what_they_cost() -> None:
    one, other = costs("softmax", [(8, 64), (8, 64)], [{}, {}], ["bf16", "bf16"])
    assert one.work == other.work
    assert one.cycles == other.cycles


@pytest.mark.parametrize(("function", "shapes", "params", "dtypes"), [
    ("softmax", [(8, 64), (8, 128)], [{}, {}], ["bf16", "bf16"]),
    ("softmax", [(8, 64), (8, 64)], [{}, {}], ["bf16", "fp32"]),
    ("route", [(8, 64), (8, 64)], [{"top_k": 1}, {"top_k": 4}], ["bf16", "bf16"]),
])
def test_records_that_differ_in_what_costs_are_told_apart(
    function: str, shapes: list[tuple[int, int]], params: list[dict[str, int]], dtypes: list[str],
) -> None:
    one, other = costs(function, shapes, params, dtypes)
    assert one.work != other.work
    assert (one.actions, one.sram_read_bytes) != (other.actions, other.sram_read_bytes)
