"""Designs move and compute what the passes of their cascades say: tiles on parts, FuseMax's and FLAT's arrays, long rows."""

from __future__ import annotations

import json
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.einsum_arrays import FLAT, FUSEMAX
from tilesim.arch.families import find_machine
from tilesim.arch.machine import load_machine
from tilesim.arch.vector import FUNCTION_OPS
from tilesim.cli import main
from tilesim.mapping import cascade
from tilesim.mapping.cascade import TAYLOR_OPS, run
from tilesim.mapping.flat import AttentionShape, FlatMapping, best_mapping, mappings, traffic, wanted_bytes
from tilesim.mapping.flat_run import run_unfused, unfused_bytes
from tilesim.mapping.long_rows import CASCADES
from tilesim.run import run_graph
from tilesim.sim.report import OperatorReport
from tilesim.workloads import single
from tilesim.workloads.cascades import ONE_PASS, SOFTMAX, SOFTMAX_ONLINE, THREE_PASS, passes_of
from tilesim.workloads.passes import Cascade

shapes = st.builds(lambda heads, p, m, width: AttentionShape(heads, 256 * p, 256 * m, width, width),
                   st.integers(1, 40), st.integers(1, 400), st.integers(1, 400), st.sampled_from([32, 64, 128]))
small = st.builds(lambda heads, tiles, width: AttentionShape(heads, 256 * tiles, 256 * tiles, width, width),
                  st.integers(1, 40), st.integers(1, 9), st.sampled_from([64, 128]))


def extents(shape: AttentionShape) -> dict[str, int]:
    return {"p": shape.queries, "m": shape.keys, "m1": shape.keys // 256, "m0": 256, "e": shape.e, "f": shape.f}


def least_bytes(shape: AttentionShape, found: Cascade, buffer_bytes: int) -> int:
    least = passes_of(found).least_moved_elements(extents(shape), buffer_bytes // 2, "p")
    assert least is not None
    return 2 * shape.heads * least


@settings(max_examples=12, deadline=None)
@given(small)
def test_fusemax_passes_once_over_the_keys(shape: AttentionShape) -> None:
    """K and V once for each block of resident queries; and no fewer bytes than the cascade needs with that buffer."""
    found = run(shape, FUSEMAX, "binding")
    once = shape.queries * (shape.e + shape.f)
    assert found.dram_bytes == 2 * shape.heads * (once + found.tiling.blocks * shape.keys * (shape.e + shape.f))
    assert found.dram_bytes >= least_bytes(shape, ONE_PASS, FUSEMAX.buffer_bytes)


@settings(max_examples=12, deadline=None)
@given(small)
def test_both_arrays_compute_the_cascades_einsums(shape: AttentionShape) -> None:
    """Cycles of each array: the points of its Einsums times what one costs there. An exponential is seven operations."""
    cost = {"exp_minus": TAYLOR_OPS}
    on_lanes = {"RM", "PRM", "SPD", "RD", "SPNV", "RNV", "AV"}
    work = {"2d": 0, "1d": 0}
    for einsum in ONE_PASS.einsums:
        points = shape.heads * prod(extents(shape)[rank] for rank in einsum.ranks)
        work["1d" if einsum.name in on_lanes else "2d"] += points * cost.get(einsum.function, 1)
    found = run(shape, FUSEMAX, "binding")
    assert (found.busy_2d, found.busy_1d) == (work["2d"] / 256**2, work["1d"] / 256)


def test_a_resident_query_takes_the_words_that_the_cascade_keeps() -> None:
    """What one more query adds to what is live: q, the running maximum and sum, the running output."""
    shape = AttentionShape(1, 512, 1024, 64, 32)
    live = [passes_of(ONE_PASS).live_elements({**extents(shape), "p": rows}, "p") for rows in (1, 2)]
    assert live[1] - live[0] == 64 + 2 + 32 == cascade._words_a_query(shape, FUSEMAX, "binding")


def test_flat_spills_a_score_seven_times_and_hands_it_over_four_times() -> None:
    """QK writes it; softmax reads it for the maximum and for the exponential, writes that, reads it for the division, writes the
    weight; AV reads that. Off chip, with whole rows in softmax: written, read, written, read."""
    shape = AttentionShape(1, 4096, 4096, 64, 64)
    kept = FlatMapping(True, True, True, True, True, "output", 4096)
    small = FLAT.__class__(FLAT.name, FLAT.n, FLAT.clock_hz, wanted_bytes(shape, kept, 256) // 2, FLAT.memory, FLAT.energies)
    half, off = traffic(shape, kept, small), traffic(shape, FlatMapping(True, True, False, True, True, "output", 4096), FLAT)
    assert half.spilled == 0.5
    assert half.softmax_bytes == 2 * 5 * 0.5 * shape.scores
    operands = 4096 * 64 * (0.5 + 0.5 * 16) * 3 + 4096 * 64
    assert half.total_bytes == 2 * (7 * 0.5 * shape.scores + operands)
    assert half.written_bytes == 2 * (3 * 0.5 * shape.scores + 4096 * 64)
    assert off.total_bytes == 2 * (4 * shape.scores + 4 * 4096 * 64)
    assert off.written_bytes == 2 * (2 * shape.scores + 4096 * 64)
    assert unfused_bytes(shape, FLAT)[1] == 2 * 2 * shape.scores
    assert run_unfused(shape, FLAT).busy_1d == 4 * shape.scores / 256


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_no_mapping_of_three_passes_moves_less_than_its_cascade(shape: AttentionShape) -> None:
    least = least_bytes(shape, THREE_PASS, FLAT.buffer_bytes)
    assert traffic(shape, best_mapping(shape, FLAT), FLAT).total_bytes >= least
    assert all(traffic(shape, mapping, FLAT).total_bytes >= least for mapping in mappings(shape, FLAT))
    assert sum(unfused_bytes(shape, FLAT)) >= least


def attend(sram_kib: int, style: str, q: int, keys: int) -> OperatorReport:
    """Four heads of 16, bf16, no mask, on small arrays."""
    machine = load_machine("hbm-npu", ("parts.mxu.rows=16", "parts.mxu.cols=16", f"parts.scratchpad.capacity={sram_kib} KiB"))
    graph = single.attention(4, 16, q, keys, causal=False)
    return run_graph(machine, graph, "case", 0, {}, attention="flash" if style == "flash" else "unfused").operators[0]


@settings(max_examples=4, deadline=None)
@given(st.sampled_from([64, 512]), st.integers(1, 6).map(lambda n: 16 * n), st.integers(0, 6).map(lambda n: 16 * n))
def test_flash_tiles_read_the_keys_once_for_each_tile_of_queries(sram_kib: int, q: int, more: int) -> None:
    keys = q + more
    op = attend(sram_kib, "flash", q, keys)
    passes = passes_of(ONE_PASS)
    assert (op.mapping["cascade"], op.mapping["key_passes"], op.mapping["carried"]) == (ONE_PASS.name, 1, [])
    blocks = -(-q // op.mapping["q_tile"])
    sizes = {"p": q, "m1": keys // 16, "m0": 16, "e": 16, "f": 16}
    assert op.read_bytes + op.write_bytes == 2 * 4 * passes.moved_elements(sizes, blocks)
    assert op.write_bytes == 2 * 4 * q * 16


def test_unfused_tiles_spill_what_the_three_passes_carry() -> None:
    """128 × 128 scores of four heads, 128 KiB, beside 64 KiB: softmax holds whole rows, so that scores and weights go out and come
    back once each; K and V once for each tile of queries."""
    op = attend(64, "unfused", 128, 128)
    assert (op.mapping["key_passes"], op.mapping["carried"]) == (3, ["QK", "SN"])
    blocks, tensor, scores = -(-128 // op.mapping["q_tile"]), 2 * 4 * 128 * 16, 2 * 4 * 128 * 128
    assert op.write_bytes == tensor + 2 * scores
    assert op.read_bytes == tensor + 2 * blocks * tensor + 2 * scores


def test_rows_too_long_are_read_as_often_as_online_softmax_passes() -> None:
    machine = load_machine("hbm-npu", ("parts.scratchpad.capacity=64 KiB",))
    op = run_graph(machine, single.softmax(2, 100_000), "case", 0, {}).operators[0]
    assert op.mapping["readings"] == passes_of(SOFTMAX_ONLINE).visits("X") == 2
    sizes = {"r": 2, "m1": 100, "m0": 1000}
    assert op.read_bytes + op.write_bytes == 2 * passes_of(SOFTMAX_ONLINE).moved_elements(sizes)


#: (simple, special) operations of a function on each element: an exponential is special, dividing is a multiplication by a row's
#: reciprocal, squares are multiplied and added up in one; a reduction is one more, a product one for each input but the first.
OPS = {"same": (0, 0), "square": (0, 0), "subtract": (1, 0), "add": (1, 0), "divide": (1, 0), "exp_minus": (1, 1)}


def lane_operations(found: Cascade, number: int) -> tuple[int, int]:
    """Operations on each element of a row in pass *number*."""
    passes = passes_of(found)
    simple = special = 0
    for einsum in found.einsums:
        if passes.of_einsum[einsum.name] == number and set(found.fibre) <= set(einsum.ranks):
            ops = OPS.get(einsum.function, (len(einsum.inputs) - 1, 0))
            simple, special = simple + ops[0] + (einsum.reduction is not None), special + ops[1]
    return simple, special


@pytest.mark.parametrize("function", sorted(CASCADES))
def test_lanes_are_charged_for_the_einsums_of_each_pass(function: str) -> None:
    """The statistics of long rows take the operations of the cascade's first pass, normalising those of its second; whole rows take
    those of both, or of plain softmax's three passes (which compute an exponential once)."""
    first, second = (lane_operations(CASCADES[function], number) for number in (1, 2))
    assert FUNCTION_OPS[f"{function}_statistics"] == first
    assert FUNCTION_OPS[f"{function}_normalize"] == second
    if function == "softmax":
        assert FUNCTION_OPS[function] == tuple(map(sum, zip(*(lane_operations(SOFTMAX, n) for n in (1, 2, 3)), strict=True)))
    else:
        assert FUNCTION_OPS[function] == (first[0] + second[0], 0)


@pytest.mark.parametrize(("chip", "words"), [
    ("fusemax", "one-pass (online) softmax: 1 pass over the keys, nothing kept or spilled; it moves 50.33 MB or more"),
    ("flat", "three-pass softmax: 3 passes over the keys, QK and SN kept or spilled between them; it moves 50.33 MB or more"),
    ("hbm-npu", "one-pass (online) softmax: 1 pass over the keys, nothing kept or spilled")])
def test_the_cascade_is_printed_beside_the_io_bound(chip: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["op", "--arch", chip, "attention", "--heads", "12", "--head-dim", "64", "--q", "4096", "--context", "4096", "--full"]
    assert main([*options, "--batch", "2"] if chip != "hbm-npu" else [*options, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert words in shown
    if chip == "hbm-npu":
        assert "cascade one-pass (online) softmax: 1 pass over the keys, a tile of scores is all that is live" in shown


def test_unfused_attention_explains_its_passes(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["attention", "--heads", "2", "--head-dim", "16", "--q", "32", "--context", "32"]
    assert main(["op", "--arch", "hbm-npu", "--attention", "unfused", "--explain", *shape]) == 0
    assert "cascade three-pass softmax: 3 passes over the keys, QK and SN live as whole rows" in capsys.readouterr().out


def test_the_report_carries_it() -> None:
    report = run_graph(find_machine("fusemax"), single.attention(12, 64, 4096, 4096, causal=False), "case", 0, {})
    mapping = json.loads(report.to_json())["operators"][0]["mapping"]
    assert (mapping["cascade"], mapping["key_passes"], mapping["carried"]) == ("one-pass (online) softmax", 1, [])
    assert mapping["cascade_least_bytes"] == 4 * 12 * 4096 * 64 * 2
