"""What every mapping obeys: MACs and bytes conserved, capacities respected, layers share segments, prefetch never blocked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.machine import load_machine
from tilesim.mapping.capacity import broken_capacity_laws
from tilesim.mapping.dram_image import MappingFault
from tilesim.mapping.interpreter import interpret
from tilesim.mapping.mapper import map_graph, map_to_target
from tilesim.mapping.storage import Blocked, storage_unit
from tilesim.mapping.target import AttentionStyle, Target
from tilesim.run import run_graph
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.errors import ConfigError
from tilesim.sim.program import Compute, Load, Store, TileProgram
from tilesim.workloads import single
from tilesim.workloads.graph import program_order, totals
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.phases import Workload, decode, prefill

MakeTarget = Callable[..., Target]
MakeValues = Callable[..., dict[str, np.ndarray]]

MODEL = ModelConfig(name="small", family="llama", layers=3, hidden=96, heads=6, kv_heads=2, head_dim=16, intermediate=160,
                    vocab=200, max_positions=256, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                    tied_embeddings=True)
UNTIED = MODEL.model_copy(update={"tied_embeddings": False})


def times_moved(program: TileProgram, name: str, kind: type[Load] | type[Store] = Load) -> Any:
    """How often each byte of the tensor is loaded (or stored)."""
    number = next(i for i, tensor in enumerate(program.tensors) if tensor.name == name)
    counts = np.zeros(program.tensors[number].nbytes, dtype=int)
    for step in program.steps:
        for record in step.segment.records:
            if isinstance(record, kind) and step.operands[record.operand] == number:
                for start, size in record.ranges:
                    counts[start:start + size] += 1
    return counts


@pytest.mark.parametrize("sram_kib", [24, 128, 4096])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_decode_loads_every_weight_byte_exactly_once(batch: int, sram_kib: int, toy_target: MakeTarget) -> None:
    program = map_to_target(decode(UNTIED, context=100, batch=batch).lower(), toy_target(sram_kib=sram_kib))
    for tensor in program.tensors:
        if tensor.role == "weight":
            counts = times_moved(program, tensor.name)
            if tensor.name == "embedding.weight":
                assert counts.sum() == batch * MODEL.hidden * 2
            else:
                assert (counts == 1).all(), tensor.name


def test_tied_table_is_loaded_once_by_the_head_and_by_row_by_the_gather(toy_target: MakeTarget) -> None:
    program = map_to_target(decode(MODEL, context=100).lower(), toy_target(sram_kib=64), token_ids=[7])
    counts = times_moved(program, "embedding.weight").reshape(MODEL.vocab, -1)
    assert (counts[7] == 2).all()
    assert (np.delete(counts, 7, axis=0) == 1).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_decode_loads_cached_rows_once_and_stores_the_new_row_once(batch: int, toy_target: MakeTarget) -> None:
    program = map_to_target(decode(MODEL, context=100, batch=batch).lower(), toy_target(sram_kib=64))
    for name in ("layers.1.attention.k_cache", "layers.2.attention.v_cache"):
        shape = (batch, MODEL.kv_heads, 100, -1)
        loaded, stored = (times_moved(program, name, kind).reshape(shape) for kind in (Load, Store))
        assert (loaded[:, :, :99] == 1).all()
        assert not loaded[:, :, 99].any()
        assert (stored[:, :, 99] == 1).all()
        assert not stored[:, :, :99].any()


@pytest.mark.parametrize("workload", [decode(MODEL, context=100), decode(MODEL, context=100, batch=5),
                                      prefill(MODEL, prompt=100, batch=2)], ids=lambda w: w.name)
@pytest.mark.parametrize("sram_kib", [24, 1024])
def test_macs_of_the_program_are_those_of_the_workload(workload: Workload, sram_kib: int, toy_target: MakeTarget) -> None:
    """Causal prefill executes the masked part of tiles on the diagonal besides: at least the counted pairs, at most all."""
    graph = workload.lower()
    program = map_to_target(graph, toy_target(sram_kib=sram_kib))
    counted = {op.name: op.macs for op in program_order(graph)}
    for step in program.steps:
        if step.kind == "attention" and workload.phase == "prefill":
            rectangle = 2 * workload.batch * MODEL.heads * workload.tokens * workload.context * MODEL.head_dim
            assert counted[step.operator] <= step.segment.macs <= rectangle
            assert step.segment.notes["counted_macs"] == counted[step.operator]
        else:
            assert step.segment.macs == counted[step.operator]
    if workload.phase == "decode":
        assert program.macs == totals(graph).macs


def test_wholly_masked_tiles_are_skipped(toy_target: MakeTarget) -> None:
    graph = single.attention(4, 8, 64, 64)
    op = next(program_order(graph))
    executed = map_to_target(graph, toy_target(sram_kib=64)).macs
    assert executed < 1.4 * op.macs
    assert map_to_target(graph, toy_target(sram_kib=64), attention="unfused").macs == 2 * 4 * 64 * 64 * 8


def test_layers_share_their_segments(toy_target: MakeTarget) -> None:
    program = map_to_target(decode(MODEL, context=50).lower(), toy_target(sram_kib=64))
    by_name = {step.operator: step.segment for step in program.steps}
    assert by_name["layers.0.attention.mix"] is by_name["layers.2.attention.mix"]
    assert by_name["layers.0.mlp.down"] is by_name["layers.1.mlp.down"]


def test_no_load_of_the_stream_queue_waits_in_decode(toy_target: MakeTarget) -> None:
    """Else it would hold up every prefetch behind it; only the gather waits, for the ids that steer it."""
    program = map_to_target(decode(MODEL, context=100).lower(), toy_target(sram_kib=64))
    for step in program.steps:
        for record, waits in zip(step.segment.records, step.segment.waits, strict=True):
            if isinstance(record, Load) and record.unit == "dma.stream" and step.kind != "embedding":
                assert not waits
                assert not step.after[record.operand]


def test_mapping_twice_gives_the_same_program(toy_target: MakeTarget) -> None:
    def text() -> str:
        return repr(map_to_target(prefill(MODEL, prompt=40).lower(), toy_target(sram_kib=64)))
    assert text() == text()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(prompt=st.integers(1, 60), batch=st.integers(1, 3), sram_kib=st.integers(24, 600), arrays=st.integers(1, 4),
       style=st.sampled_from(["flash", "unfused"]))
def test_pools_and_residents_fit_into_the_scratchpad(prompt: int, batch: int, sram_kib: int, arrays: int, style: AttentionStyle,
                                                     toy_target: MakeTarget) -> None:
    target = toy_target(sram_kib=sram_kib, arrays=arrays)
    program = map_to_target(prefill(MODEL, prompt=prompt, batch=batch).lower(), target, attention=style)
    assert broken_capacity_laws(program, target.sram_bytes) == []
    assert sum(pool.capacity_bytes for pool in program.pools) + sum(program.resident_bytes.values()) <= target.sram_bytes


def test_dram_tensors_are_aligned_and_disjoint(toy_target: MakeTarget) -> None:
    target = toy_target(sram_kib=24)
    program = map_to_target(prefill(MODEL, prompt=30).lower(), target)
    places = sorted((t.address, t.nbytes) for t in program.tensors if not t.resident)
    assert all(address % target.alignment_bytes == 0 for address, _ in places)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(places))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batch=st.integers(1, 2), k=st.integers(1, 20), n=st.integers(1, 20), k_tile=st.integers(1, 20),
       n_tile=st.integers(1, 20), tiles=st.integers(1, 4), transposed=st.booleans())
def test_tiles_of_a_weight_follow_each_other_in_the_order_of_loading(
    batch: int, k: int, n: int, k_tile: int, n_tile: int, tiles: int, transposed: bool,
) -> None:
    n_block = tiles * n_tile
    layout = Blocked(batch, k, n, k_tile, n_tile, n_block, transposed)
    bf16, order = parse_dtype("bf16"), layout.order()
    assert sorted(order.tolist()) == list(range(batch * k * n))
    next_byte = 0
    for b, strip in product(range(batch), range(0, n, n_block)):
        for k0, n0 in product(range(0, k, k_tile), range(strip, min(strip + n_block, n), n_tile)):
            [[start, size]] = layout.block(b, k0, n0, bf16).tolist()
            assert start == next_byte
            next_byte += size
            first = b * k * n + (n0 * k + k0 if transposed else k0 * n + n0)
            assert order[start // 2] == first
    assert next_byte == 2 * batch * k * n


@pytest.mark.parametrize(("name", "unit"), [("bf16", (1, 2)), ("int4", (2, 1)), ("int8-g32", (32, 34)), ("int4-g128", (128, 66))])
def test_storage_units_hold_whole_groups_and_whole_bytes(name: str, unit: tuple[int, int]) -> None:
    assert storage_unit(parse_dtype(name)) == unit


# -- refusals ------------------------------------------------------------------------------------------------------------


def test_tiles_that_cannot_fit_are_refused_with_a_mend_that_helps(toy_target: MakeTarget) -> None:
    graph = decode(MODEL, context=100).lower()
    with pytest.raises(ConfigError, match=r"bytes of the .* share") as refused:
        map_to_target(graph, toy_target(sram_kib=1))
    kib = 1.0
    for _ in range(12):
        try:
            map_to_target(graph, toy_target(sram_kib=kib))
            break
        except ConfigError as error:
            kib = int(str(error.mend).split("at least ")[1].split(" B")[0]) / 1024
    assert 1 < kib < 64
    assert refused.value.key == "parts.sram.capacity"


def test_a_model_larger_than_the_memory_is_refused_with_both_numbers(toy_target: MakeTarget) -> None:
    with pytest.raises(ConfigError, match=r"wants \d+ bytes .* has 1048576 there") as refused:
        map_to_target(decode("gpt2", context=10).lower(), toy_target(sram_kib=1024, memory_mib=1))
    assert "at least" in str(refused.value.mend)


def test_a_format_that_the_arrays_lack_is_refused_with_those_they_have(toy_target: MakeTarget) -> None:
    with pytest.raises(ConfigError, match="cannot multiply fp16") as refused:
        map_to_target(decode(MODEL, context=10, dtype="fp16").lower(), toy_target())
    assert refused.value.allowed == ("bf16", "int8")


def test_groups_that_do_not_divide_the_rows_are_refused(toy_target: MakeTarget) -> None:
    with pytest.raises(ConfigError, match="packs them by 32"):
        map_to_target(single.gemm(4, 8, 40, weights="int4-g32"), toy_target())


def test_token_ids_beyond_the_vocabulary_are_refused(toy_target: MakeTarget) -> None:
    with pytest.raises(ConfigError, match="vocabulary 200"):
        map_to_target(decode(MODEL, context=10).lower(), toy_target(sram_kib=64), token_ids=[200])


def test_llama_on_the_shipped_chip_streams_its_weights_once_and_fits() -> None:
    from tilesim.arch.machine import load_machine
    workload = decode("llama-3.2-1b", context=2048)
    graph = workload.lower()
    program = map_graph(graph, load_machine("hbm-npu"))
    assert broken_capacity_laws(program, 32 << 20) == []
    loaded = sum(r.nbytes for step in program.steps for r in step.segment.records if isinstance(r, Load))
    assert loaded == sum(totals(graph).external_read_bytes.values()) + 2048 * 2      # the gathered row, besides the head's own
    assert sum(len(step.segment.records) for step in program.steps) < 6000


def test_packed_operands_are_multiplied_only_where_ports_widen_them(toy_target: MakeTarget, small_integers: MakeValues) -> None:
    """Nothing unpacks them then, nothing else changes, and a program for such ports is wrong on a machine without."""
    graph = single.gemm(8, 32, 64, weights="int8-g8")
    widened = map_to_target(graph, toy_target(widens=("int8",)))
    functions = {record.function for record in widened.steps[0].segment.records if isinstance(record, Compute)}
    assert "dequantize" not in functions
    assert widened.macs == map_to_target(graph, toy_target()).macs
    values = small_integers(graph, 0)
    interpret(widened, values)
    with pytest.raises(MappingFault, match="packed"):
        interpret(replace(widened, widens=()), values)


def gemv_s(weights: str, *sets: str) -> float:
    graph = single.gemm(1, 4096, 4096, weights=weights)
    return run_graph(load_machine("hbm-npu", sets), graph, "gemv", 1, {}).seconds


def test_fewer_bits_of_weight_take_less_time_where_ports_widen_them() -> None:
    """A decode step's products move fewer bytes; unpacking on the lanes would take longer than the bytes that it saves."""
    seconds = {weights: gemv_s(weights) for weights in ("bf16", "int8", "int4-g128")}
    assert seconds["int4-g128"] < seconds["int8"] < 0.7 * seconds["bf16"]
    assert gemv_s("int8", "parts.scratchpad.widens=[]") > seconds["bf16"]
