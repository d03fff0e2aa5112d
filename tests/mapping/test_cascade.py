"""Fused attention on two arrays: bounds that no schedule beats, shortened against exact runs, FLAT's traffic by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.einsum_arrays import FLAT, FUSEMAX, FlatMemory
from tilesim.mapping import cascade
from tilesim.mapping.cascade import Design, run
from tilesim.mapping.flat import AttentionShape, FlatMapping, best_mapping, mappings, traffic
from tilesim.mapping.flat_run import run_flat, run_unfused, unfused_bytes

DESIGNS: tuple[Design, ...] = ("binding", "architecture", "cascade")


@settings(max_examples=200, deadline=None)
@given(tiles=st.integers(1, 9), heads=st.integers(1, 40), width=st.sampled_from([32, 64, 128]), design=st.sampled_from(DESIGNS))
def test_no_design_beats_its_arrays_or_its_memory(tiles: int, heads: int, width: int, design: Design) -> None:
    found = run(AttentionShape(heads, tiles * 256, tiles * 256, width, width), FUSEMAX, design)
    memory = found.dram_bytes * FUSEMAX.clock_hz / FUSEMAX.memory.bytes_per_s
    assert found.cycles >= max(found.busy_2d, found.busy_1d, memory)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_shortened_run_equals_the_whole_one(design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = AttentionShape(9, 16 * 256, 16 * 256, 64, 64)
    short = run(shape, FUSEMAX, design).cycles
    monkeypatch.setattr(cascade, "KEY_PROBE", 20)
    monkeypatch.setattr(cascade, "BLOCK_PROBE", 9)
    cascade._block_ends.cache_clear()
    whole = run(shape, FUSEMAX, design).cycles
    cascade._block_ends.cache_clear()
    assert short == pytest.approx(whole, rel=1e-3)


def test_the_binding_hides_what_the_architecture_alone_waits_for() -> None:
    shape = AttentionShape(64, 2048, 2048, 64, 64)
    cycles = {design: run(shape, FUSEMAX, design).cycles for design in DESIGNS}
    assert cycles["binding"] < cycles["architecture"] < cycles["cascade"]


def test_flat_traffic_by_hand() -> None:
    """1024 × 1024, e = f = 64, all operands streamed: q 4 times, K and V 4 times, outputs once."""
    shape = AttentionShape(768, 1024, 1024, 64, 64)
    mapping = FlatMapping(False, False, True, False, False, "output", 1024)
    moved = traffic(shape, mapping, FLAT)
    assert moved.spilled == 0
    assert moved.total_bytes == 13 * 768 * 1024 * 64 * 2


def test_what_does_not_fit_is_spilled_in_proportion() -> None:
    """4096² scores take the whole 32 MiB; the operands' staging, 256 KiB, is what spills: 1/129."""
    moved = traffic(AttentionShape(1, 4096, 4096, 64, 64), FlatMapping(False, False, True, False, False, "output", 4096), FLAT)
    assert moved.spilled == pytest.approx(1 / 129)


def test_the_search_finds_the_least_traffic_of_its_space() -> None:
    shape = AttentionShape(8, 2048, 2048, 64, 64)
    best = traffic(shape, best_mapping(shape, FLAT), FLAT).total_bytes
    assert best == min(traffic(shape, mapping, FLAT).total_bytes for mapping in mappings(shape, FLAT))
    assert best >= 4 * 8 * 2048 * 64 * 2                       # each of q, K, V and the outputs once


def test_flat_and_unfused_keep_their_bounds() -> None:
    shape = AttentionShape(64, 4096, 4096, 64, 64)
    for found in (run_flat(shape, FLAT, best_mapping(shape, FLAT)), run_unfused(shape, FLAT)):
        memory = found.dram_bytes * FLAT.clock_hz / FLAT.memory.bytes_per_s
        assert found.cycles >= max(found.busy_2d, found.busy_1d, memory)
    assert sum(unfused_bytes(shape, FLAT)) == 2 * 64 * 4096 * (4 * 64 + 4 * 4096)


SHARED = Path(__file__).parents[3] / "shared" / "systems" / "flat_mapping_choices.csv"


@pytest.mark.published
def test_our_search_never_moves_more_than_flats_own_tool() -> None:
    """96 choices of FLAT's tool (Kao et al., ASPLOS 2023), as FuseMax's artifact lists them: 2 platforms, 12 lengths, 4 models."""
    if not SHARED.is_file():
        pytest.skip("the table of FLAT's choices is not here")
    edge = replace(FLAT, name="flat-edge", n=32, buffer_bytes=512 * 2**10, memory=FlatMemory(50 * 2**30))
    rows = list(csv.DictReader(SHARED.open(newline="", encoding="utf-8")))
    assert len(rows) == 96
    for row in rows:
        machine = {"cloud": FLAT, "edge": edge}[row["platform"]]
        heads, queries, keys, e, f = (int(row[name]) for name in "HPMEF")
        shape = AttentionShape(int(row["B"]) * heads, queries, keys, e, f)
        q, k, scores, v, av = (row[f"{name}_loc"] == "onchip" for name in ("Q", "K", "QK", "V", "AV"))
        theirs = FlatMapping(q, k, scores, v, av, "weight" if row["QK_stationarity"] == "weight" else "output",
                             queries if row["fusion_granularity"] == "head" else int(row["P1"]))
        published = traffic(shape, theirs, machine).total_bytes
        assert traffic(shape, best_mapping(shape, machine), machine).total_bytes <= published * (1 + 1e-9)
