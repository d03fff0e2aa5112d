"""Collectives as steps over links: who sends how much to whom, and how long the links of a cluster take for it.

An algorithm is a list of steps; in a step all transfers run at once, and the next begins when the last has arrived. The time of a
step is the longest route's latency and the most loaded link's bytes over its rate (the α–β model of Thakur, Rabenseifner and Gropp,
IJHPCA 2005, on the cluster's own graph). Of the algorithms the fastest is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import networkx as nx

from ..sim.units import PS_PER_S
from .wires import InterconnectConfig

#: (from, to, share of the buffer that moves)
Transfer = tuple[int, int, Fraction]
Steps = tuple[tuple[Transfer, ...], ...]


def _ring(ranks: int) -> Steps:
    """Ranks − 1 steps, in each of which everyone passes a ranks-th on; half of it each way round."""
    half = Fraction(1, 2 * ranks)
    step = tuple((rank, (rank + way) % ranks, half) for rank in range(ranks) for way in (1, -1))
    return (step,) * (ranks - 1)


def _direct(ranks: int) -> Steps:
    """One step: everyone gives everyone its ranks-th."""
    share = Fraction(1, ranks)
    return (tuple((a, b, share) for a in range(ranks) for b in range(ranks) if a != b),)


def _halving(ranks: int) -> Steps:
    """log2 steps: half of what is left with the partner at half the distance; ranks must be a power of two."""
    steps, distance = [], ranks // 2
    while distance:
        steps.append(tuple((rank, rank ^ distance, Fraction(distance, ranks)) for rank in range(ranks)))
        distance //= 2
    return tuple(steps)


def _doubling(ranks: int) -> Steps:
    return _halving(ranks)[::-1]


def _tree_reduce(ranks: int) -> Steps:
    """A binomial tree: whole buffers towards rank 0, ⌈log2⌉ steps."""
    steps, distance = [], 1
    while distance < ranks:
        steps.append(tuple((rank, rank - distance, Fraction(1)) for rank in range(distance, ranks, 2 * distance)))
        distance *= 2
    return tuple(steps)


def _tree(ranks: int) -> Steps:
    reduce = _tree_reduce(ranks)
    return reduce + tuple(tuple((b, a, share) for a, b, share in step) for step in reduce[::-1])


def _is_power(ranks: int) -> bool:
    return ranks & (ranks - 1) == 0


#: collective → algorithm → its steps. Shares are of the whole buffer: the summand of an all-reduce or a reduce-scatter, the
#: gathered result of an all-gather.
ALGORITHMS: Mapping[str, Mapping[str, Callable[[int], Steps]]] = {
    "allreduce": {"ring": lambda n: _ring(n) * 2, "direct": lambda n: _direct(n) * 2,
                  "halving-doubling": lambda n: _halving(n) + _doubling(n), "tree": _tree},
    "reducescatter": {"ring": _ring, "direct": _direct, "halving": _halving},
    "allgather": {"ring": _ring, "direct": _direct, "doubling": _doubling},
}
#: Parts of the buffer that each device must send at least: Patarasuk and Yuan, JPDC 2009.
LEAST_SENT: Mapping[str, Callable[[int], Fraction]] = {
    "allreduce": lambda n: Fraction(2 * (n - 1), n), "reducescatter": lambda n: Fraction(n - 1, n),
    "allgather": lambda n: Fraction(n - 1, n)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A collective on a cluster: the algorithm, its time, and the bytes that all links together carry."""

    algorithm: str
    duration_ps: int
    link_bytes: int


@cache
def plan(function: str, nbytes: int, ranks: int, wires: InterconnectConfig) -> Plan:
    """The fastest algorithm for a buffer of *nbytes* among *ranks* devices."""
    graph = wires.graph(ranks)
    found = [_timed(name, make(ranks), nbytes, graph) for name, make in ALGORITHMS[function].items()
             if _is_power(ranks) or not ("halving" in name or "doubling" in name)]
    return min(found, key=lambda one: (one.duration_ps, one.link_bytes, one.algorithm))


def _timed(name: str, steps: Steps, nbytes: int, graph: nx.DiGraph[int]) -> Plan:
    duration_ps = total_bytes = 0
    timed: dict[tuple[Transfer, ...], tuple[int, int]] = {}
    for step in steps:
        if step not in timed:
            timed[step] = _step(step, nbytes, graph)
        duration_ps += timed[step][0]
        total_bytes += timed[step][1]
    return Plan(name, duration_ps, total_bytes)


def _step(step: tuple[Transfer, ...], nbytes: int, graph: nx.DiGraph[int]) -> tuple[int, int]:
    """Picoseconds, and bytes over all links, of one step."""
    load: Counter[tuple[int, int]] = Counter()
    latency_ps = 0
    shares: dict[tuple[int, int], Fraction] = {}
    for source, target, share in step:
        shares[source, target] = shares.get((source, target), Fraction(0)) + share
    for (source, target), share in shares.items():
        way = nx.shortest_path(graph, source, target)
        hops = list(pairwise(way))
        latency_ps = max(latency_ps, sum(graph.edges[hop]["wires"].latency_ps for hop in hops))
        for hop in hops:
            load[hop] += math.ceil(share * nbytes)
    wires_ps = max(math.ceil(count * PS_PER_S / graph.edges[hop]["wires"].bandwidth_bytes_per_s) for hop, count in load.items())
    return latency_ps + wires_ps, sum(load.values())
