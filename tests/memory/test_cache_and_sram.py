"""Caches and banked SRAM: closed forms, the compiled kernel against its source, energies from the table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.memory.cache import Cache, CacheConfig, cache_energy_pj, touch
from tilesim.memory.sram import SramConfig
from tilesim.memory.sram_ports import conflict_cycles, grant_slots, share_ports, tile_finish_cycles, vector_cycles
from tilesim.memory.sram_table import sram_macro
from tilesim.sim.errors import ConfigError


def cache(capacity: int = 4096, ways: int = 4, hashed: bool = False) -> Cache:
    return Cache(CacheConfig(type="cache", capacity_bytes=capacity, ways=ways, line_bytes=128, sector_bytes=32, hashed_sets=hashed))


def reads(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return addresses.astype(np.int64), np.zeros(len(addresses), bool)


def test_what_fits_hits_the_second_time() -> None:
    small = cache()
    stream = np.arange(0, 4096, 32)
    assert small.access(*reads(stream)).hits == 0
    assert small.access(*reads(stream)).hit_rate == 1.0


def test_one_line_more_than_the_ways_never_hits_under_lru() -> None:
    small = cache(ways=4)
    same_set = np.tile(np.arange(5) * small.config.sets * 128, 20)
    assert small.access(*reads(same_set)).hits == 0
    assert cache(ways=8, capacity=8192).access(*reads(same_set)).hits == 95


def test_a_line_is_fetched_sector_by_sector() -> None:
    run = cache().access(*reads(np.array([0, 32, 0, 64])))
    assert run.kind.tolist() == [2, 1, 0, 1]
    assert run.below.address.tolist() == [0, 32, 64]


def test_a_dirty_line_is_written_back_when_it_leaves() -> None:
    small = cache(ways=1, capacity=512)                              # four sets of one line
    address = np.array([0, 32, 512], np.int64)
    run = small.access(address, np.array([True, True, False]))
    assert run.below.address.tolist() == [0, 32, 512]
    assert run.below.write.tolist() == [True, True, False]           # a sector that is written whole is not fetched


def test_a_write_of_part_of_a_sector_is_masked_not_fetched() -> None:
    """Written in part, the sector is not there to read: that fetches it. Written byte by byte to its end, it is."""
    small = cache(ways=1, capacity=512)
    parts = np.array([0, 16, 36, 32, 64, 512])                       # sector 0 in halves, 4 B and a read of sector 1, 4 B of 2
    write = np.array([True, True, True, False, True, False])
    run = small.access(parts.astype(np.int64), write, np.array([16, 16, 4, 4, 4, 4]))
    assert list(zip(run.below.address.tolist(), run.below.write.tolist(), strict=True)) == [
        (32, False), (0, True), (32, True), (64, True), (512, False)]
    again = cache(ways=1, capacity=512).access(np.array([0, 16, 0]), np.array([True, True, False]), np.array([16, 15, 4]))
    assert again.kind.tolist() == [2, 1, 1]                          # the last byte is missing
    assert again.below.write.tolist() == [False]
    whole = cache(ways=1, capacity=512).access(np.array([0, 16, 0]), np.array([True, True, False]), np.array([16, 16, 4]))
    assert whole.kind.tolist() == [2, 1, 0]
    assert len(whole.below) == 0


@pytest.mark.parametrize(("address", "nbytes"), [(30, 4), (0, 0), (0, 33)])
def test_an_access_stays_in_its_sector(address: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match="one sector of 32 B"):
        cache().access(np.array([address]), np.array([True]), np.array([nbytes]))


def test_coarse_masks_count_only_parts_that_are_covered_whole() -> None:
    """A sector of 128 B has masks of 4 B: 3 B of a part leave it open, and the ends meet."""
    config = CacheConfig(type="cache", capacity_bytes=4096, ways=4, line_bytes=256, sector_bytes=128)
    write = np.array([True, True, False])
    assert Cache(config).access(np.array([0, 64, 0]), write, np.array([64, 64, 4])).kind.tolist() == [2, 1, 0]
    assert Cache(config).access(np.array([0, 63, 0]), write, np.array([63, 65, 4])).kind.tolist() == [2, 1, 1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ways=st.sampled_from([1, 2, 8]), hashed=st.booleans())
def test_the_compiled_kernel_equals_its_source(seed: int, ways: int, hashed: bool) -> None:
    random = np.random.default_rng(seed)
    sector, write, covered = random.integers(0, 400, 300), random.integers(0, 2, 300), random.integers(1, 4, 300)
    results = []
    for kernel in (touch, touch.py_func):
        state = [np.full((8, ways), -1, np.int64), *(np.zeros((8, ways), np.int64) for _ in range(3)),
                 np.zeros((8, ways, 4), np.int64), np.zeros(1, np.int64)]
        kind, below = np.zeros(300, np.int8), np.zeros((1500, 3), np.int64)
        line, used, valid, dirty, written, clock = state
        count = kernel(line, used, valid, dirty, written, clock, sector, write, covered, 3, 4, hashed, kind, below)
        results.append((kind.tolist(), below[:count].tolist(), [part.tolist() for part in state]))
    assert results[0] == results[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_bytes_below_are_those_that_miss_and_those_that_leave_dirty(seed: int) -> None:
    random = np.random.default_rng(seed)
    small = cache(hashed=True)
    write = random.random(400) < 0.3
    run = small.access(random.integers(0, 512, 400) * 32, write)
    fetched = int((~run.below.write).sum())
    assert fetched == int(((run.kind != 0) & ~write).sum())
    assert small.counts["read sector"] + small.counts["write sector"] == 400 + len(run.below)
    assert int(run.below.write.sum()) <= run.written


def test_cache_energy_comes_from_the_table() -> None:
    config = CacheConfig(type="cache", capacity_bytes=1 << 20, banks=4, tech_nm=22)
    read_pj, write_pj, tag_pj = cache_energy_pj(config)
    assert read_pj == pytest.approx(sram_macro(22, 1 << 18, 256).read_pj)
    assert write_pj == pytest.approx(sram_macro(22, 1 << 18, 256).write_pj)
    assert write_pj != pytest.approx(read_pj)
    # 512 sets of 16 tags of 41 bits (48 - 7 and two bits for each of 4 sectors: 49) in 2 macros of each of 4 banks.
    assert config.tag_bits == 48 - 7 + 2 * 4
    assert tag_pj == pytest.approx(2 * sram_macro(22, 512 * 16 * 49 / 8 / (4 * 2), 16 * 49 / 2).read_pj)
    served = Cache(config)
    served.access(*reads(np.arange(0, 3200, 32)))
    assert served.energy_actions() == {"lookup": (100, tag_pj), "read sector": (100, read_pj), "write sector": (100, write_pj)}


@pytest.mark.parametrize("change", [{"ways": 3}, {"sector_bytes": 48}, {"capacity_bytes": 1000}])
def test_sizes_that_do_not_divide_are_refused(change: dict[str, int]) -> None:
    right: dict[str, object] = {"type": "cache", "capacity_bytes": 4096, "line_bytes": 128, "sector_bytes": 32, "ways": 4}
    with pytest.raises(ValueError, match=r"sectors|whole number"):
        CacheConfig.model_validate(right | change)


def test_table_points_are_given_back_and_the_middle_lies_between() -> None:
    low, middle, high = (sram_macro(45, size, 64).read_pj for size in (8192, 11585, 16384))
    assert low == pytest.approx(4.114)
    assert low < middle < high
    with pytest.raises(ConfigError, match="capacity"):
        sram_macro(45, 1 << 30, 64)
    with pytest.raises(ConfigError, match="7 nm"):
        sram_macro(7, 8192, 64)


def sram(banks: int = 32, width: int = 4) -> SramConfig:
    return SramConfig(type="sram", capacity_bytes=1 << 20, banks=banks, bank_width_bytes=width, clock_hz=1e9,
                      read_energy_pj_per_bit=0.1, write_energy_pj_per_bit=0.1, static_power_w=0.0)


def test_vector_conflicts_in_closed_form() -> None:
    """Words 0…31 apart by a stride s collide gcd(s, 32) times; one word for all is broadcast; absent lanes ask nothing."""
    lanes = np.arange(32)
    strides = np.array([1, 2, 3, 8, 32, 0])
    cycles = vector_cycles(sram(), lanes[None] * strides[:, None] * 4)
    assert cycles.tolist() == [1, 2, 1, 8, 32, 1]
    assert vector_cycles(sram(), np.full((1, 32), -1)).tolist() == [1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), banks=st.sampled_from([1, 4, 32]))
def test_vector_conflicts_equal_a_count_of_sets(seed: int, banks: int) -> None:
    words = np.random.default_rng(seed).integers(-1, 40, (20, 8))
    expected = []
    for row in words:
        distinct = {int(word) for word in row if word >= 0}
        expected.append(max([1, *(len({w for w in distinct if w % banks == b}) for b in range(banks))]))
    assert conflict_cycles(words, banks).tolist() == expected
    assert conflict_cycles.py_func(words, banks).tolist() == expected


def test_requesters_of_one_bank_take_turns_and_directions_do_not_mix() -> None:
    same = np.zeros(10, np.int64)
    assert share_ports(sram(), [same, same], [False, False]).cycles == 20
    assert share_ports(sram(), [same, same], [False, True]).cycles == 10
    assert share_ports(sram(), [np.arange(32) * 4, np.arange(32) * 4 + 64], [False, False]).stalled == (0, 0)


def test_the_port_kernel_equals_its_source() -> None:
    bank = np.random.default_rng(5).integers(0, 4, (3, 50))
    results = []
    for kernel in (grant_slots, grant_slots.py_func):
        finish, stalled = np.zeros(3, np.int64), np.zeros(3, np.int64)
        kernel(bank, np.array([50, 30, 40]), np.array([0, 0, 1]), 4, np.zeros((2, 4), np.int64) - 1, finish, stalled)
        results.append((finish.tolist(), stalled.tolist()))
    assert results[0] == results[1]


def test_tiles_share_the_bandwidth_fairly() -> None:
    assert tile_finish_cycles(sram(), [(0, 12800, 128)]) == [100]
    assert tile_finish_cycles(sram(), [(0, 12800, 128), (0, 12800, 128)]) == [200, 200]
    assert tile_finish_cycles(sram(), [(0, 12800, 128), (0, 800, 8)]) == [107, 100]      # 120 and 8, then all 128
    assert tile_finish_cycles(sram(), [(10, 0, 8)]) == [10]
