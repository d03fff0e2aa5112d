"""Collectives over links: closed forms by hand, bounds that no algorithm beats, devices that meet."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import networkx as nx
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.arch.collectives import ALGORITHMS, LEAST_SENT, plan
from tilesim.arch.interconnect import Fabric, cluster
from tilesim.arch.machine import load_machine
from tilesim.arch.wires import InterconnectConfig


def wires(topology: str = "ring", gb_per_s: float = 100.0, latency_ps: int = 500_000) -> InterconnectConfig:
    return InterconnectConfig.model_validate({"topology": topology, "bandwidth_bytes_per_s": gb_per_s * 1e9,
                                              "latency_ps": latency_ps, "energy_pj_per_bit": 5.6})


def test_an_all_reduce_of_two_by_hand() -> None:
    """Each gives the other half of 1 MB and then the half that it summed: 2 · (500 ns + 0.5 MB / 100 GB/s) = 11 µs."""
    found = plan("allreduce", 1_000_000, 2, wires())
    assert found.duration_ps == 2 * (500_000 + 5_000_000)
    assert found.link_bytes == 2 * 1_000_000


def test_a_ring_of_four_by_hand() -> None:
    """Six steps; a quarter of 8 MB passes on in each, half of it each way round: 6 · (500 ns + 1 MB / 100 GB/s) = 63 µs."""
    assert plan("allreduce", 8_000_000, 4, wires()).duration_ps == 6 * (500_000 + 10_000_000)
    assert plan("allreduce", 8_000_000, 4, wires()).algorithm == "ring"


def test_small_buffers_take_the_fewest_hops() -> None:
    """Four devices, all joined: two hops for a direct exchange, where a ring has six."""
    found = plan("allreduce", 64, 4, wires("all_to_all"))
    assert found.algorithm == "direct"
    assert found.duration_ps == 2 * (500_000 + 160)


def hops_and_sent(function: str, algorithm: str, ranks: int) -> tuple[int, float]:
    """Steps one after another, and the part of the buffer that the busiest device sends in all of them."""
    steps = ALGORITHMS[function][algorithm](ranks)
    sent = [Fraction(0)] * ranks
    times = Counter(map(id, steps))                      # a ring's steps are one and the same
    for step in {id(step): step for step in steps}.values():
        for source, _, share in step:
            sent[source] += times[id(step)] * share
    return len(steps), float(max(sent))


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("function", list(ALGORITHMS))
def test_algorithms_that_share_evenly_send_the_least_there_is(function: str, ranks: int) -> None:
    for algorithm in ALGORITHMS[function]:
        if algorithm in ("ring", "direct") or (algorithm != "tree" and ranks in (2, 4, 8, 16)):
            assert hops_and_sent(function, algorithm, ranks)[1] == pytest.approx(float(LEAST_SENT[function](ranks)))
    assert hops_and_sent(function, "ring", ranks)[0] == (2 if function == "allreduce" else 1) * (ranks - 1)


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_a_tree_reaches_every_device_and_comes_back(ranks: int) -> None:
    """Every device but the root gives its sum once, and gets the whole sum once."""
    moved = [transfer for step in ALGORITHMS["allreduce"]["tree"](ranks) for transfer in step]
    up, down = moved[:ranks - 1], moved[ranks - 1:]
    assert sorted(source for source, _, _ in up) == list(range(1, ranks))
    assert sorted(target for _, target, _ in down) == list(range(1, ranks))
    assert all(share == Fraction(1) for *_, share in moved)


@settings(max_examples=60, deadline=None)
@given(nbytes=st.integers(1, 2**28), ranks=st.integers(2, 9), topology=st.sampled_from(["ring", "all_to_all"]),
       function=st.sampled_from(list(ALGORITHMS)))
def test_no_collective_beats_its_links(nbytes: int, ranks: int, topology: str, function: str) -> None:
    """Patarasuk and Yuan, 2009: each device sends at least 2(n−1)/n of the buffer for a sum, (n−1)/n for a gather."""
    joined = wires(topology)
    found = plan(function, nbytes, ranks, joined)
    least = float(LEAST_SENT[function](ranks)) * nbytes
    assert found.duration_ps >= joined.latency_ps + int(least / joined.out_bytes_per_s(ranks) * 1e12)
    assert found.link_bytes >= ranks * int(least)
    assert plan(function, 2 * nbytes, ranks, joined).duration_ps >= found.duration_ps


def test_devices_are_instances_wired_at_their_scratchpads() -> None:
    machine = load_machine("hbm-npu")
    graph = cluster(machine, 4, "scratchpad")
    assert graph.number_of_nodes() == 4 * len(machine.parts)
    assert graph.nodes["2.mxu"]["device"] == 2
    assert nx.shortest_path(graph, "0.hbm", "2.hbm")[1:-1] == ["0.scratchpad", "1.scratchpad", "2.scratchpad"]
    between = [(a, b) for a, b in graph.edges if a.split(".")[0] != b.split(".")[0]]
    assert len(between) == 8                                             # a ring of four, each way


def test_devices_wait_for_the_last_and_end_together() -> None:
    env = simpy.Environment()
    fabric = Fabric(env, wires(), 2, simulated=2)
    ends = []

    def device(delay_ps: int):                                           # type: ignore[no-untyped-def]
        yield env.timeout(delay_ps)
        yield fabric.meet("sum", "allreduce", 1000)
        ends.append(env.now)

    env.process(device(10))
    env.process(device(70))
    env.run()
    assert ends == [70 + 2 * (500_000 + 5_000)] * 2
