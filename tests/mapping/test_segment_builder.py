"""The builder of segments: what it makes records wait for, and when buffers are owned."""

from __future__ import annotations

import numpy as np
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.program import SegmentBuilder, View, view_of, whole

BF16 = parse_dtype("bf16")


def builder() -> SegmentBuilder:
    return SegmentBuilder("segment", operands=3)


def test_a_product_waits_for_both_loads_and_the_loads_for_nothing() -> None:
    build = builder()
    a, b, c = (build.buffer(name, "pool", 4, BF16) for name in "abc")
    build.load("dma", 0, whole(8), a)
    build.load("dma", 1, whole(8), b)
    build.compute("mxu", "matmul", (view_of((2, 2), buffer=a), view_of((2, 2), buffer=b)), (view_of((2, 2), buffer=c),))
    segment = build.build()
    assert segment.waits == ((), (), (0, 1))
    assert segment.macs == 8


def test_a_product_waits_for_every_load_that_fills_a_part_of_its_tile() -> None:
    build = builder()
    a, c = build.buffer("a", "pool", 4, BF16), build.buffer("c", "pool", 4, BF16)
    build.load("dma", 0, whole(4), a, offset=0)
    build.load("dma", 0, whole(4), a, offset=2)
    build.compute("vpu", "copy", (view_of((4,), buffer=a),), (view_of((4,), buffer=c),))
    assert build.build().waits == ((), (), (0, 1))


def test_an_overwriting_record_waits_for_the_readers_of_what_it_overwrites() -> None:
    build = builder()
    a, c = build.buffer("a", "pool", 4, BF16), build.buffer("c", "pool", 4, BF16)
    build.load("dma", 0, whole(8), a)
    build.compute("vpu", "copy", (view_of((4,), buffer=a),), (view_of((4,), buffer=c),))
    build.load("dma", 0, whole(8), a)
    build.compute("vpu", "copy", (view_of((4,), buffer=a),), (view_of((4,), buffer=c),))
    segment = build.build()
    assert segment.waits[2] == (1,)
    assert {1, 2} <= set(segment.waits[3])


def test_an_accumulating_product_follows_the_one_before_it() -> None:
    build = builder()
    a, b, c = (build.buffer(name, "pool", 4, BF16) for name in "abc")
    views = (view_of((2, 2), buffer=a), view_of((2, 2), buffer=b)), (view_of((2, 2), buffer=c),)
    build.compute("mxu", "matmul", *views, accumulate=False)
    build.compute("mxu", "matmul", *views, accumulate=True)
    assert build.build().waits[1] == (0,)


def test_a_store_waits_for_what_it_stores_and_a_load_of_those_bytes_for_the_store() -> None:
    build = builder()
    a, b = build.buffer("a", "pool", 4, BF16), build.buffer("b", "pool", 4, BF16)
    build.load("dma", 0, whole(8), a)
    build.store("store", 1, np.array([[0, 8]]), view_of((4,), buffer=a))
    build.load("dma", 1, np.array([[6, 2]]), b)
    build.load("dma", 1, np.array([[8, 2]]), b)
    assert build.build().waits == ((), (0,), (1,), ())


def test_resident_operands_are_tracked_like_buffers() -> None:
    build = builder()
    build.compute("vpu", "copy", (view_of((4,), operand=0),), (view_of((4,), operand=1),))
    build.compute("vpu", "copy", (view_of((4,), operand=1),), (view_of((4,), operand=2),))
    assert build.build().waits == ((), (0,))


def test_a_gathered_load_waits_for_the_record_that_decides_its_ranges() -> None:
    build = builder()
    ids, rows = build.buffer("ids", "pool", 1, BF16), build.buffer("rows", "pool", 4, BF16)
    steered = build.load("dma", 0, whole(2), ids)
    build.load("dma", 1, whole(8), rows, after=(steered,))
    assert build.build().waits == ((), (0,))
    assert len(build) == 2


def test_a_buffer_is_owned_from_its_first_record_to_its_last() -> None:
    build = builder()
    a, b = build.buffer("a", "pool", 4, BF16), build.buffer("b", "pool", 4, BF16)
    build.load("dma", 0, whole(8), a)
    build.load("dma", 0, whole(8), b)
    build.compute("vpu", "add", (view_of((4,), buffer=a), view_of((4,), buffer=b)), (View((4,), (1,), operand=2),))
    build.compute("vpu", "copy", (view_of((4,), buffer=b),), (view_of((4,), operand=1),))
    segment = build.build(tile=4)
    assert segment.first_use == (0, 1)
    assert segment.last_use == (2, 3)
    assert segment.notes == {"tile": 4}
