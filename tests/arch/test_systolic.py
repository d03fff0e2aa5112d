"""Laws of the systolic closed forms, SCALE-Sim's published totals, and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.arch.systolic import SystolicConfig, gemm_accesses, gemm_cycles, gemm_total_cycles
from tilesim.arch.systolic_folds import Dataflow

DATAFLOWS: tuple[Dataflow, ...] = ("weight_stationary", "output_stationary", "input_stationary")
extents = st.integers(1, 3000)
sizes = st.sampled_from([1, 2, 3, 8, 12, 14, 16, 32, 64, 128, 256])


@st.composite
def configs(draw: st.DrawFn) -> SystolicConfig:
    return SystolicConfig(type="systolic", rows=draw(sizes), cols=draw(sizes), arrays=draw(st.sampled_from([1, 2, 3, 4, 8])),
                          clock_hz=1e9, dataflow=draw(st.sampled_from(DATAFLOWS)), double_buffered_weights=draw(st.booleans()),
                          dtypes=("int8",), mac_energy_pj={"int8": 0.0})


def scalesim(config: SystolicConfig) -> SystolicConfig:
    return config.model_copy(update={"timing": "scalesim"})


@given(m=extents, k=extents, n=extents, batch=st.integers(1, 5), config=configs())
def test_physical_is_never_slower_than_scalesim_nor_faster_than_its_macs(
    m: int, k: int, n: int, batch: int, config: SystolicConfig,
) -> None:
    physical = gemm_cycles(m, k, n, config, batch).total
    assert physical <= gemm_cycles(m, k, n, scalesim(config), batch).total
    assert physical * config.macs_per_cycle >= batch * m * k * n


@given(m=extents, k=extents, n=extents, batch=st.integers(1, 5), config=configs())
def test_a_second_weight_register_never_slows_an_array(m: int, k: int, n: int, batch: int, config: SystolicConfig) -> None:
    one, two = (config.model_copy(update={"double_buffered_weights": double}) for double in (False, True))
    assert gemm_cycles(m, k, n, two, batch).total <= gemm_cycles(m, k, n, one, batch).total


@given(shapes=st.lists(st.tuples(extents, extents, extents), min_size=1, max_size=8), batch=st.integers(1, 3), config=configs(),
       compatible=st.booleans())
def test_many_shapes_at_once_give_the_same_as_one_by_one(
    shapes: list[tuple[int, int, int]], batch: int, config: SystolicConfig, compatible: bool,
) -> None:
    config = scalesim(config) if compatible else config
    m, k, n = np.array(shapes).T
    assert gemm_total_cycles(m, k, n, config, batch).tolist() == [gemm_cycles(*shape, config, batch).total for shape in shapes]


@given(m=extents, k=extents, n=extents, config=configs())
def test_the_parts_of_a_tile_are_whole_and_never_negative(m: int, k: int, n: int, config: SystolicConfig) -> None:
    for timed in (config, scalesim(config)):
        cycles = gemm_cycles(m, k, n, timed)
        assert min(cycles.preload, cycles.last_start, cycles.drain) >= 0
        assert cycles.stream == {"weight_stationary": m, "output_stationary": k, "input_stationary": n}[config.dataflow]


# SCALE-Sim's golden reports, test/general/golden_trace_* of its repository, stalls subtracted; cycles = printed total + 1.
@pytest.mark.published
@pytest.mark.parametrize(("dataflow", "m", "k", "n", "printed"), [
    ("weight_stationary", 3025, 363, 96, 112283),
    ("output_stationary", 256, 256, 128, 10175),
    ("weight_stationary", 256, 256, 128, 11199),
    ("input_stationary", 256, 256, 128, 14207),
])
def test_scalesim_golden_totals(dataflow: Dataflow, m: int, k: int, n: int, printed: int) -> None:
    config = SystolicConfig(type="systolic", rows=32, cols=32, clock_hz=1e9, dataflow=dataflow, timing="scalesim",
                            dtypes=("int8",), mac_energy_pj={"int8": 0.0})
    assert gemm_cycles(m, k, n, config).total == printed + 1


def test_large_streams_hide_every_preload() -> None:
    """Two 128×128 folds, 1000 rows: 128 + 2·1000 + 128 + 128 − 2."""
    config = SystolicConfig(type="systolic", rows=128, cols=128, clock_hz=1e9, dtypes=("bf16",), mac_energy_pj={"bf16": 0.0})
    assert gemm_cycles(1000, 256, 128, config).total == 128 + 2000 + 254


def test_accesses_by_hand() -> None:
    """[5, 40]·[40, 70] on 32×32: two row folds and three column folds for ws."""
    found = gemm_accesses(5, 40, 70, rows=32, cols=32, dataflow="weight_stationary")
    assert (found.input_reads, found.weight_reads, found.output_writes, found.output_reads) == (600, 2800, 700, 350)


@given(shape=st.tuples(extents, extents, extents), config=configs())
def test_products_back_to_back_take_the_time_of_a_batch(shape: tuple[int, int, int], config: SystolicConfig) -> None:
    """On one array, whose batches the registers prove: the second may stream, and shift its weights in, when the first lets it."""
    config = config.model_copy(update={"arrays": 1})
    for timed in (config, scalesim(config)):
        one = gemm_cycles(*shape, timed)
        second = max(one.next_stream, one.next_preload + one.preload)
        assert 2 * one.last_start + one.preload + second + one.stream + one.drain == gemm_cycles(*shape, timed, 2).total
