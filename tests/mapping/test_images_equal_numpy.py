"""Convolutions, poolings and LSTM cells: the interpreted program equals the definition, and its traffic is what is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.mapping.target import Target
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.errors import ConfigError
from tilesim.sim.program import Compute, Load, Segment, TileProgram
from tilesim.workloads import single
from tilesim.workloads.graph import GraphBuilder, OperatorGraph
from tilesim.workloads.images import Convolution, Pool, output_extent
from tilesim.workloads.recurrent import LstmFormats, add_lstm_layer
from tilesim.workloads.tensors import Tensor
from tilesim.workloads.vector import Elementwise

MakeTarget = Callable[..., Target]
Check = Callable[..., TileProgram]
BF16 = parse_dtype("bf16")
quick = settings(max_examples=60, deadline=None, derandomize=True)
machines = st.fixed_dictionaries({
    "sram_kib": st.sampled_from([8, 16, 24, 64, 512]), "rows": st.sampled_from([2, 4, 8]), "cols": st.sampled_from([2, 4, 8]),
    "arrays": st.integers(1, 2), "lanes": st.sampled_from([1, 8, 64]),
})


@st.composite
def images(draw: st.DrawFn) -> dict[str, int]:
    """Batch, image and windows; the output may stop early or hang over the bottom and right edges."""
    window = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    extent = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    stride, pads = draw(st.integers(1, 3)), tuple(draw(st.integers(0, w - 1)) for w in window)
    outs = tuple(draw(st.integers(1, (e + p - 1) // stride + 1)) for e, p in zip(extent, pads, strict=True))
    return {"batch": draw(st.integers(1, 3)), "height": extent[0], "width": extent[1], "filter_height": window[0],
            "filter_width": window[1], "stride": stride, "pad_top": pads[0], "pad_left": pads[1], "out_height": outs[0],
            "out_width": outs[1]}


def conv(sizes: dict[str, Any], channels: int, filters: int, groups: int, *, bias: bool = False, activation: str = "",
         weights: str = "bf16", between: bool = False) -> OperatorGraph:
    """A convolution of the host's image, or (*between*) of an activation that another operator made."""
    builder = GraphBuilder("conv")
    shape = (sizes["batch"], sizes["height"], sizes["width"], channels)
    image = Tensor("image", shape, BF16, "activation" if between else "input")
    if between:
        flat = {"rows": sizes["batch"] * sizes["height"] * sizes["width"], "cols": channels}
        given_ = Tensor("given", shape, BF16, "input")
        builder.add(Elementwise(name="before", inputs=(given_, given_), outputs=(image,), function="add", rows=flat["rows"],
                                cols=flat["cols"]))
    k = sizes["filter_height"] * sizes["filter_width"] * (channels // groups)
    operands = [image, Tensor("filters", (groups, k, filters // groups), parse_dtype(weights), "weight")]
    operands += [Tensor("bias", (filters,), BF16, "weight")] if bias else []
    out = Tensor("out", (sizes["batch"], sizes["out_height"], sizes["out_width"], filters), BF16, "output")
    builder.add(Convolution(name="conv", inputs=tuple(operands), outputs=(out,), channels=channels, filters=filters, groups=groups,
                            activation=activation, **sizes))
    return builder.graph


@quick
@given(sizes=images(), groups=st.integers(1, 3), each=st.integers(1, 5), filters=st.integers(1, 6), bias=st.booleans(),
       activation=st.sampled_from(["", "relu"]), between=st.booleans(), machine=machines)
def test_convolution_equals_its_definition(
    sizes: dict[str, Any], groups: int, each: int, filters: int, bias: bool, activation: str, between: bool,
    machine: dict[str, Any], toy_target: MakeTarget, equals_numpy: Check,
) -> None:
    graph = conv(sizes, groups * each, groups * filters, groups, bias=bias, activation=activation, between=between)
    equals_numpy(graph, toy_target(**machine))


@quick
@given(sizes=images(), channels=st.integers(1, 6), bias=st.booleans(), machine=machines, weights=st.sampled_from(["bf16", "int8"]))
def test_depthwise_convolution_equals_its_definition(
    sizes: dict[str, Any], channels: int, bias: bool, machine: dict[str, Any], weights: str, toy_target: MakeTarget,
    equals_numpy: Check,
) -> None:
    equals_numpy(conv(sizes, channels, channels, channels, bias=bias, weights=weights), toy_target(**machine))


@quick
@given(sizes=images(), channels=st.sampled_from([2, 4, 8]), filters=st.sampled_from([2, 4, 8]), machine=machines,
       weights=st.sampled_from(["int8", "fp8", "int4"]))
def test_convolution_with_packed_filters_equals_its_definition(
    sizes: dict[str, Any], channels: int, filters: int, machine: dict[str, Any], weights: str, toy_target: MakeTarget,
    equals_numpy: Check,
) -> None:
    equals_numpy(conv(sizes, channels, filters, 1, weights=weights), toy_target(**machine))


@quick
@given(sizes=images(), channels=st.integers(1, 6), function=st.sampled_from(["max", "average"]), machine=machines)
def test_pooling_equals_its_definition(sizes: dict[str, Any], channels: int, function: str, machine: dict[str, Any],
                                       toy_target: MakeTarget, equals_numpy: Check) -> None:
    builder = GraphBuilder("pool")
    image = Tensor("image", (sizes["batch"], sizes["height"], sizes["width"], channels), BF16, "input")
    out = Tensor("out", (sizes["batch"], sizes["out_height"], sizes["out_width"], channels), BF16, "output")
    builder.add(Pool(name="pool", inputs=(image,), outputs=(out,), function=function, channels=channels, **sizes))
    equals_numpy(builder.graph, toy_target(**machine))


@pytest.mark.parametrize("function", ["max", "average"])
@pytest.mark.parametrize(("window", "stride", "padding"), [(7, 7, 0), (5, 3, 2)])
def test_a_pooling_whose_window_does_not_fit_takes_some_channels_at_a_time(
    function: str, window: int, stride: int, padding: int, toy_target: MakeTarget, equals_numpy: Check,
) -> None:
    """7 × 7 × 60 elements are 5880 bytes; spilled activations have 1 KiB."""
    positions = (7 + 2 * padding - window) // stride + 1
    builder = GraphBuilder("pool")
    image = Tensor("image", (4, 7, 7, 60), BF16, "input")
    out = Tensor("out", (4, positions, positions, 60), BF16, "output")
    builder.add(Pool(name="pool", inputs=(image,), outputs=(out,), function=function, channels=60, batch=4, height=7, width=7,
                     filter_height=window, filter_width=window, out_height=positions, out_width=positions, stride=stride,
                     pad_top=padding, pad_left=padding))
    program = equals_numpy(builder.graph, toy_target(sram_kib=16))
    assert program.steps[0].segment.notes["channels_tile"] < 60
    assert (loaded_bytes(program, "input") == 2 * 4 * 7 * 7 * 60) == (stride == window)


@quick
@given(batch=st.integers(1, 4), width=st.integers(1, 9), hidden=st.integers(1, 9), steps=st.integers(1, 3), machine=machines)
def test_a_chain_of_lstm_steps_equals_numpy(batch: int, width: int, hidden: int, steps: int, machine: dict[str, Any],
                                            toy_target: MakeTarget, equals_numpy: Check) -> None:
    """Two layers; each step of the second reads the first's of the same step."""
    builder = GraphBuilder("lstm")
    xs = tuple(Tensor(f"x{t}", (batch, width), BF16, "input") for t in range(steps))
    formats = LstmFormats(BF16, BF16)
    below = add_lstm_layer(builder, "below", xs, batch, width, hidden, formats)
    add_lstm_layer(builder, "above", below, batch, hidden, hidden, formats, is_last=True)
    equals_numpy(builder.graph, toy_target(**machine))


def loaded_bytes(program: TileProgram, role: str) -> int:
    """Bytes that the program loads of tensors of that role."""
    return sum(record.nbytes for step in program.steps for record in step.segment.records if isinstance(record, Load)
               and program.tensors[step.operands[record.operand]].role == role)


def sizes_of(height: int, width: int, window: int, stride: int, padding: int = 0, batch: int = 1) -> dict[str, int]:
    return {"batch": batch, "height": height, "width": width, "filter_height": window, "filter_width": window, "stride": stride,
            "pad_top": padding, "pad_left": padding, "out_height": output_extent(height, window, stride, padding),
            "out_width": output_extent(width, window, stride, padding)}


def test_an_image_that_fits_is_read_once_not_nine_times(toy_target: MakeTarget, equals_numpy: Check) -> None:
    """3×3 windows overlap nine-fold; the image still crosses DRAM once, and so do the filters."""
    program = equals_numpy(conv(sizes_of(14, 14, 3, 1, 1), 4, 8, 1), toy_target(sram_kib=512))
    assert loaded_bytes(program, "input") == 2 * 14 * 14 * 4
    assert loaded_bytes(program, "weight") == 2 * 9 * 4 * 8


def test_tiles_of_an_image_share_filter_minus_stride_rows(toy_target: MakeTarget, equals_numpy: Check) -> None:
    """A room of 1 KiB for spilled activations, half of it a tile: 512 B hold 8 rows of 16 pixels of 2 channels, 6 output rows."""
    program = equals_numpy(conv(sizes_of(32, 16, 3, 1), 2, 4, 1), toy_target(sram_kib=16))
    segment: Segment = program.steps[0].segment
    tiles = -(-30 // segment.notes["rows_piece"])
    assert tiles > 1
    assert loaded_bytes(program, "input") == 2 * 16 * 2 * (32 + 2 * (tiles - 1))


def test_rows_that_no_window_sees_are_not_read(toy_target: MakeTarget, equals_numpy: Check) -> None:
    """1×1 windows with stride 2: every other row stays in DRAM, and the last column (columns between windows are read)."""
    program = equals_numpy(conv(sizes_of(16, 16, 1, 2), 4, 8, 1), toy_target(sram_kib=512))
    assert loaded_bytes(program, "input") == 2 * 8 * 15 * 4


def test_executed_macs_are_those_of_the_layer(toy_target: MakeTarget, equals_numpy: Check) -> None:
    graph = conv(sizes_of(13, 11, 3, 2, 1, batch=2), 6, 10, 2)
    op = next(iter(graph.nodes.values()))["op"]
    program = equals_numpy(graph, toy_target(sram_kib=32))
    assert program.macs == op.macs == 2 * 7 * 6 * 10 * 9 * 3


def test_a_shared_recurrent_weight_is_stored_in_blocks(toy_target: MakeTarget) -> None:
    """Every step's product has one shape, so the weight lies in the order in which each of them streams it."""
    from tilesim.mapping.mapper import map_to_target

    graph, _ = single.single_operator("lstm", {"batch": 3, "input": 8, "hidden": 8, "steps": 3, "layers": 1, "dtype": "bf16"})
    program = map_to_target(graph, toy_target())
    assert {t.name: t.order is not None for t in program.tensors if t.name.endswith((".w_x", ".w_h"))} == {
        "layer0.w_x": True, "layer0.w_h": True}


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="groups"):
        conv(sizes_of(8, 8, 3, 1), 4, 9, 3)


def test_a_window_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="wholly outside"):
        conv(sizes_of(8, 8, 3, 1) | {"out_height": 9}, 4, 8, 1)


@pytest.mark.parametrize(("filters", "parts"), [(64, 2), (512, 1)])
def test_few_filters_leave_arrays_to_positions(filters: int, parts: int) -> None:
    """Four arrays of 128×128: 576×64 filters are five folds, two rounds of all positions; dealt to two parts, ten folds are three
    rounds of half of them. 4608×512 filters fill every round."""
    from tilesim.arch.machine import load_machine
    from tilesim.arch.systolic import SystolicConfig, gemm_cycles
    from tilesim.mapping.mapper import map_graph

    machine = load_machine("hbm-npu")
    channels = filters
    program = map_graph(conv(sizes_of(28, 28, 3, 1, 1), channels, filters, 1), machine)
    records = [r for r in program.steps[0].segment.records if isinstance(r, Compute) and r.function == "conv"]
    assert {record.params["split"] for record in records} == {parts}
    array = machine.only(SystolicConfig, "systolic")[1]
    patches = records[0].params["patches"]
    m, k, n = patches.positions, patches.depth, records[0].writes[0].shape[1]
    assert gemm_cycles(-(-m // parts), k, n, array, parts).total <= gemm_cycles(m, k, n, array).total
