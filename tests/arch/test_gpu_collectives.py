"""Collectives: α–β laws and the algorithms' regimes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.gpu_collectives import ONE_SHOT_MOST_BYTES, collective_seconds, link_class, one_shot_seconds
from tilesim.arch.gpu_config import find_gpu
from tilesim.sim.errors import ConfigError

boards = st.sampled_from(["a100-sxm-80gb", "h100-sxm", "b200-sxm", "rtx-pro-6000", "mi300x"])


@settings(max_examples=60, deadline=None)
@given(board=boards, size=st.integers(1, 2**30), ranks=st.sampled_from([2, 4, 8]))
def test_an_all_reduce_beats_no_link(board: str, size: int, ranks: int) -> None:
    """Without help from the switch each rank sends 2(n−1)/n of the message; with it, at least the message once."""
    gpu = find_gpu(board)
    share = 1.0 if link_class(gpu.device.link).in_switch else 2.0 * (ranks - 1) / ranks
    assert collective_seconds(gpu, "allreduce", size, ranks) >= size * share / gpu.device.link_bandwidth_bytes_per_s


@settings(max_examples=60, deadline=None)
@given(board=boards, size=st.integers(1, 2**29), ranks=st.sampled_from([2, 4, 8]))
def test_a_larger_message_takes_no_less_time(board: str, size: int, ranks: int) -> None:
    gpu = find_gpu(board)
    for op in ("allreduce", "allgather", "alltoall", "send_recv"):
        assert collective_seconds(gpu, op, 2 * size, ranks) >= collective_seconds(gpu, op, size, ranks)


def test_one_rank_needs_no_collective() -> None:
    assert collective_seconds(find_gpu("h100-sxm"), "allreduce", 1e6, 1) == 0.0


def test_thousands_of_ranks_cost_no_time_to_predict() -> None:
    """One hop of a direct exchange however many there are; no list of their n² transfers is made."""
    gpu = find_gpu("mi300x")
    few, many = (collective_seconds(gpu, "allgather", 1.0, ranks) for ranks in (2, 100_000))
    assert few <= many < 1.001 * few


def test_bridged_pairs_fall_back_to_the_host_link_beyond_two_ranks() -> None:
    gpu, pairs = find_gpu("h100-sxm"), link_class("nvlink4-pairs")
    assert collective_seconds(gpu, "allreduce", 1e8, 4, pairs) > 3 * collective_seconds(gpu, "allreduce", 1e8, 2, pairs)


def test_an_unknown_collective_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="allreduce"):
        collective_seconds(find_gpu("h100-sxm"), "all_reduce", 1e6, 2)


def test_an_engine_s_own_kernel_takes_small_messages_and_no_large_ones() -> None:
    """Ring and tree meet first; the one-shot kernel starts at once, and its traffic grows with the ranks."""
    engine = find_gpu("h100-sxm")
    plain = replace(engine, library=engine.library.model_copy(update={"one_shot_allreduce": False}))
    assert collective_seconds(engine, "allreduce", 8192, 8) < 0.5 * collective_seconds(plain, "allreduce", 8192, 8)
    large = ONE_SHOT_MOST_BYTES + 1.0
    assert collective_seconds(engine, "allreduce", large, 8) == collective_seconds(plain, "allreduce", large, 8)
    assert collective_seconds(engine, "allgather", 8192, 8) == collective_seconds(plain, "allgather", 8192, 8)


def test_one_shot_reads_every_peer_and_two_shots_read_shares() -> None:
    gpu, wire = find_gpu("h100-sxm"), link_class("nvlink4")
    rate = gpu.device.link_bandwidth_bytes_per_s * wire.one_shot_efficiency
    assert wire.one_shot_us is not None
    start_s = wire.one_shot_us * 1e-6
    assert one_shot_seconds(gpu, 1024, 8, wire) == pytest.approx(start_s + 7 * 1024 / rate)
    assert one_shot_seconds(gpu, 4e6, 8, wire) == pytest.approx(start_s + wire.hop_us * 1e-6 + 2 * 7 / 8 * 4e6 / rate)
