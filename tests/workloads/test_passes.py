"""Passes over the data, derived from cascades: the published taxonomy, hand counts, and runs that would show a pass too few."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.mapping.cascade_interpreter import run_cascade
from tilesim.mapping.functions import FUNCTIONS
from tilesim.workloads.cascades import (
    ATTENTION,
    DEFERRED_DIVISION,
    LAYER_NORM,
    LAYER_NORM_ONLINE,
    ONE_PASS,
    RMS_NORM,
    ROWS,
    SOFTMAX,
    SOFTMAX_ONLINE,
    THREE_PASS,
    TWO_PASS,
    WITHOUT_MAXIMUM,
    WITHOUT_MAXIMUM_DEFERRED,
    cascade,
    passes_of,
)
from tilesim.workloads.passes import Cascade, Crossings, Einsum, Passes, Ref, analyse, crossings

Array = npt.NDArray[np.float64]


@pytest.mark.parametrize(("found", "count"), [
    (THREE_PASS, 3), (TWO_PASS, 2), (ONE_PASS, 1),                                       # Nayak et al., MICRO 2024, section IV
    (DEFERRED_DIVISION, 2), (WITHOUT_MAXIMUM, 2), (WITHOUT_MAXIMUM_DEFERRED, 1),         # by hand, as all below
    (SOFTMAX, 3), (SOFTMAX_ONLINE, 2), (RMS_NORM, 2), (LAYER_NORM, 3), (LAYER_NORM_ONLINE, 2)],
    ids=lambda value: value.name if isinstance(value, Cascade) else str(value))
def test_passes_are_those_of_the_taxonomy(found: Cascade, count: int) -> None:
    assert passes_of(found).count == count


def test_passes_of_each_tensor_by_hand() -> None:
    """Unsplit: scores for the maximum and again for the exponentials, those again for the division, V in the last alone."""
    three, one = passes_of(THREE_PASS), passes_of(ONE_PASS)
    assert {tensor: three.of(tensor) for tensor in ("K", "QK", "SN", "A", "V", "GM")} == {
        "K": (1,), "QK": (1, 2), "SN": (2, 3), "A": (3,), "V": (3,), "GM": (1, 2)}
    assert {one.of(tensor) for tensor in ONE_PASS.ranks_of if tensor != "AV"} == {(1,)}
    assert one.of("AV") == ()                                                            # after the pass, over outputs alone
    assert (one.carried, three.carried) == ((), ("QK", "SN"))
    assert passes_of(TWO_PASS).carried == ("LM", "SLN", "SLD", "PLM")


def test_an_inner_rank_has_passes_of_its_own() -> None:
    """Within a tile the maximum is complete before its exponentials begin, and these before the next tile: two passes over m0."""
    assert analyse(replace(ONE_PASS, fibre=("m0",))).count == 2
    assert analyse(replace(THREE_PASS, fibre=("p",))).count == 1                         # nothing is reduced over queries


def test_live_elements_by_hand() -> None:
    """One query of 4096 keys, heads of 64. Three passes: in the last SN is live as a fibre, a tile of V, one of A, SD and the
    output; in the second SN's fibre takes the room of QK's, tile by tile. One pass, tiles of 256: tiles of K, V, QK and SLN, four
    vectors of 64 (q, SLNV, SPNV, RNV) and six statistics; nine more queries in turn keep q, RNV, RM and RD each."""
    extents = {"p": 1, "e": 64, "f": 64}
    assert passes_of(THREE_PASS).live_elements({**extents, "m": 4096}) == 4096 + 64 + 1 + 1 + 64
    tiled = {**extents, "m1": 16, "m0": 256}
    assert passes_of(ONE_PASS).live_elements(tiled) == 2 * 256 * 64 + 2 * 256 + 4 * 64 + 6
    assert passes_of(ONE_PASS).live_elements({**tiled, "m1": 1 << 20}) == passes_of(ONE_PASS).live_elements(tiled)
    one = passes_of(ONE_PASS).live_elements(tiled)
    assert passes_of(ONE_PASS).live_elements({**tiled, "p": 10}, "p") == one + 9 * (64 + 64 + 2)
    assert passes_of(TWO_PASS).live_elements(tiled) > 4096                               # the fibre of exponentials
    assert passes_of(TWO_PASS).live_elements(tiled, spilled=passes_of(TWO_PASS).carried) < 2 * 256 * 64 + 4 * 256


def test_moved_elements_by_hand() -> None:
    """512 queries and keys, heads of 64, two blocks of queries: K and V twice, q and the output once; scores that are spilled
    once out and once in, exponentials too."""
    extents = {"p": 512, "m": 512, "e": 64, "f": 64}
    three = passes_of(THREE_PASS)
    assert three.moved_elements(extents, 2) == (2 * 2 + 2) * 512 * 64
    assert three.moved_elements(extents, 1, three.carried) == 4 * 512 * 64 + 4 * 512 * 512
    assert passes_of(SOFTMAX_ONLINE).moved_elements({"r": 3, "m1": 5, "m0": 7}) == (2 + 1) * 3 * 35          # X twice, A once


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ATTENTION), st.integers(1, 300), st.integers(1, 8), st.integers(1, 32), st.sampled_from([8, 64]))
def test_more_on_chip_never_moves_more(found: Cascade, queries: int, tiles: int, tile: int, width: int) -> None:
    extents = {"p": queries, "m": tiles * tile, "m1": tiles, "m0": tile, "e": width, "f": width}
    passes, compulsory = passes_of(found), 2 * (queries + tiles * tile) * width
    moved = [passes.least_moved_elements(extents, room, "p") for room in (1, 1 << 10, 1 << 13, 1 << 16, 1 << 24)]
    assert moved[0] is None
    assert moved[-1] == compulsory
    least = [value for value in moved if value is not None]
    assert all(a >= b for a, b in pairwise(least))


def inputs_of(found: Cascade, sizes: dict[str, int], seed: int) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=[sizes[rank] for rank in ranks]) for name, ranks in found.inputs.items()}


sizes_drawn = st.fixed_dictionaries({rank: st.integers(1, 5) for rank in ("p", "m1", "m0", "e", "f", "r")})


@given(st.sampled_from(ATTENTION), sizes_drawn, st.integers(0, 99))
@settings(deadline=None)
def test_each_attention_runs_in_its_passes(found: Cascade, sizes: dict[str, int], seed: int) -> None:
    given_in = inputs_of(found, sizes | {"m": sizes["m1"] * sizes["m0"]}, seed)
    q, k, v = given_in["Q"], given_in["K"].reshape(-1, sizes["e"]), given_in["V"].reshape(-1, sizes["f"])
    weights = np.exp(q @ k.T - (q @ k.T).max(axis=1, keepdims=True))
    assert run_cascade(passes_of(found), given_in)["AV"] == pytest.approx(weights / weights.sum(axis=1, keepdims=True) @ v)


@given(st.sampled_from(ROWS), sizes_drawn, st.integers(0, 99))
@settings(deadline=None)
def test_softmax_and_norms_run_in_their_passes(found: Cascade, sizes: dict[str, int], seed: int) -> None:
    """Against the functions that the vector unit's records are proved with."""
    rows, tiles, tile = sizes["r"], sizes["m1"], sizes["m0"]
    given_in = inputs_of(found, sizes | {"m": tiles * tile}, seed)
    seen = tile * np.arange(tiles)
    given_in |= {"N": np.array(tiles * tile), "T": np.array(tile), "W": tile / (seen + tile), "U": seen * tile / (seen + tile)}
    function = {"softmax": "softmax", "online softmax": "softmax", "RMS norm": "rmsnorm"}.get(found.name, "layernorm")
    operands = [given_in["X"].reshape(rows, -1), *(given_in[name].reshape(-1) for name in "GB" if name in found.inputs)]
    expected, = FUNCTIONS[function](operands, (), {})
    inputs = {name: value for name, value in given_in.items() if name in found.inputs}
    assert run_cascade(passes_of(found), inputs)[found.outputs[0]].reshape(rows, -1) == pytest.approx(expected)


def early(passes: Passes, number: int) -> Passes:
    """The same with pass *number* merged into the one before."""
    return replace(passes, of_einsum={name: found - 1 if found is not None and found >= number else found
                                      for name, found in passes.of_einsum.items()})


@pytest.mark.parametrize("found", [found for found in (*ATTENTION, *ROWS) if passes_of(found).count > 1],
                         ids=lambda found: found.name)
def test_no_pass_can_be_left_out(found: Cascade) -> None:
    """Two passes in one read what is not complete yet."""
    passes = passes_of(found)
    sizes = {"p": 2, "m": 6, "m1": 3, "m0": 2, "e": 2, "f": 2, "r": 2}
    given_in = inputs_of(found, sizes, 1) | {name: np.array(6.0) for name in "NT" if name in found.inputs}
    assert not np.isnan(run_cascade(passes, given_in)[found.outputs[0]]).any()
    for number in range(2, passes.count + 1):
        assert np.isnan(run_cascade(early(passes, number), given_in)[found.outputs[0]]).any()


def renamed(found: Cascade, mark: str) -> Cascade:
    """Every tensor and rank by another name."""
    def ref(old: Ref) -> Ref:
        return Ref(old.tensor + mark, tuple(rank + mark for rank in old.ranks), old.before and old.before + mark,
                   old.last and old.last + mark)

    einsums = tuple(replace(e, output=ref(e.output), inputs=tuple(map(ref, e.inputs))) for e in found.einsums)
    return Cascade(found.name + mark, einsums, tuple(rank + mark for rank in found.fibre), tuple(o + mark for o in found.outputs))


@given(st.data(), st.sampled_from((*ATTENTION, *ROWS)))
def test_names_and_order_do_not_matter(data: st.DataObject, found: Cascade) -> None:
    other = renamed(replace(found, einsums=tuple(data.draw(st.permutations(found.einsums)))), "x")
    first, again = passes_of(found), analyse(other)
    assert again.of_einsum == {f"{name}x": number for name, number in first.of_einsum.items()}
    assert set(again.carried) == {f"{name}x" for name in first.carried}


@given(st.sampled_from(ATTENTION), st.sampled_from((THREE_PASS, DEFERRED_DIVISION, WITHOUT_MAXIMUM, WITHOUT_MAXIMUM_DEFERRED)))
def test_two_cascades_side_by_side_pass_as_often_as_the_longer(one: Cascade, other: Cascade) -> None:
    """Over the same ranks, sharing nothing but their names of ranks: neither makes the other wait."""
    apart = renamed(other, "x")
    ranks = {"mx": "m", "px": "p", "ex": "e", "fx": "f"}
    split = "m1" in one.fibre

    def back(old: Ref) -> Ref:
        names = [ranks[rank] for rank in old.ranks]
        return Ref(old.tensor, tuple(r for name in names for r in (("m1", "m0") if name == "m" and split else (name,))))

    einsums = tuple(replace(e, output=back(e.output), inputs=tuple(map(back, e.inputs))) for e in apart.einsums)
    both = Cascade("both", (*one.einsums, *einsums), one.fibre, (*one.outputs, *apart.outputs))
    assert analyse(both).count == max(passes_of(one).count, passes_of(other).count)


@st.composite
def cascades(draw: st.DrawFn) -> Cascade:
    """Pointwise Einsums, sums over the fibre, and Einsums of sums alone, each of tensors before it."""
    fibres, sums, einsums = ["X0", "X1"], ["S"], []
    for index in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(("point", "sum", "alone")))
        name = f"T{index}"
        if kind == "alone":
            refs = [Ref(draw(st.sampled_from(sums)), ()) for _ in range(2)]
        else:
            refs = [Ref(draw(st.sampled_from(fibres)), ("m",))]
            refs += [Ref(one, ()) for one in draw(st.lists(st.sampled_from(sums), max_size=2))]
        ranks, reduction = (("m",), None) if kind == "point" else ((), "sum" if kind == "sum" else None)
        einsums.append(Einsum(Ref(name, ranks), draw(st.sampled_from(("add", "multiply"))), tuple(refs), reduction))
        (fibres if kind == "point" else sums).append(name)
    return Cascade("drawn", tuple(einsums), ("m",), ())


@given(cascades(), st.integers(1, 6))
def test_drawn_cascades_equal_whole_arrays_and_need_their_passes(found: Cascade, size: int) -> None:
    """The values of each tensor worked out whole, one after the other; the count by the longest chain of sums."""
    passes = analyse(found)
    if all("m" not in einsum.ranks for einsum in found.einsums):
        assert passes.count == 0
        return
    given_in = {name: np.arange(1, size + 1) / 4 if ranks else np.array(0.5) for name, ranks in found.inputs.items()}
    values: dict[str, Array] = dict(given_in)
    level = dict.fromkeys(given_in, 0)
    for einsum in found.einsums:
        operands = [values[ref.tensor] for ref in einsum.inputs]
        point = (np.sum if einsum.function == "add" else np.prod)(np.broadcast_arrays(*operands), axis=0)
        values[einsum.name] = np.asarray(point.sum() if einsum.reduction else point)
        over = [level[ref.tensor] for ref in einsum.inputs if ref.ranks]
        waits = [level[ref.tensor] + (1 if over else 0) for ref in einsum.inputs if not ref.ranks]
        level[einsum.name] = max([*over, *waits, 1 if over else 0])
    assert passes.count == max((level[e.name] for e in found.einsums if "m" in e.ranks), default=0)
    ran = run_cascade(passes, given_in)
    for name, value in values.items():
        assert ran[name] == pytest.approx(value), name
    for number in range(2, passes.count + 1):
        assert any(np.isnan(value).any() for value in run_cascade(early(passes, number), given_in).values())


def test_crossings_by_hand() -> None:
    """Scores written by QK, read for the maximum and for the exponential; exponentials written and read for the division; weights
    written and read by AV. Units that keep their fibres hand scores and weights over, once each."""
    units = {"QK": "array", "GM": "lanes", "SN": "lanes", "SD": "lanes", "A": "lanes", "AV": "last"}
    passes = passes_of(THREE_PASS)
    assert crossings(passes, units, keeps_fibre=False) == {
        "array": Crossings(0, 1), "lanes": Crossings(3, 2), "last": Crossings(1, 0)}
    assert crossings(passes, units, keeps_fibre=True) == {
        "array": Crossings(0, 1), "lanes": Crossings(1, 1), "last": Crossings(1, 0)}
    assert crossings(passes, dict.fromkeys(units, "one"), keeps_fibre=True) == {"one": Crossings(0, 0)}


@pytest.mark.parametrize(("text", "complaint"), [
    ("A[m] = exp(B[m]", "is no Einsum"), ("A[m] = exp(B[m])\nA[m] = exp(C[m])", "two Einsums compute one tensor"),
    ("A[m] = exp(B[m])\nB[m] = exp(A[m])", "A needs B|B needs A"),
    ("A[m] = add(X[m], A[$m])", "A needs A"),
    ("A[m] = add(X[m], B[m-1])\nB[m] = add(A[m], S[])\nS[] = sum same(A[m])", "B waits for itself|A waits for itself"),
])
def test_a_cascade_that_cannot_be_computed_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        analyse(cascade("bad", "m", "A", text))
