"""Devices joined to a cluster, and the place where they meet for a collective."""

from __future__ import annotations

from collections.abc import Generator, Hashable
from typing import Any

import networkx as nx
import simpy

from .collectives import plan
from .machine import MachineConfig
from .wires import InterconnectConfig


def cluster(machine: MachineConfig, devices: int, port: str) -> nx.DiGraph[str]:
    """*devices* instances of *machine*, parts named ``0.mxu``, ``1.mxu`` …, wired to each other at part *port*."""
    graph: nx.DiGraph[str] = nx.DiGraph(name=f"{devices} × {machine.name}")
    for device in range(devices):
        one = machine.graph()
        graph.add_nodes_from((f"{device}.{part}", data | {"device": device}) for part, data in one.nodes(data=True))
        graph.add_edges_from((f"{device}.{a}", f"{device}.{b}", data) for a, b, data in one.edges(data=True))
    if machine.interconnect is not None:
        for a, b, data in machine.interconnect.graph(devices).edges(data=True):
            graph.add_edge(f"{a}.{port}", f"{b}.{port}", **data)
    return graph


class Fabric:
    """Where devices meet: a collective begins when all that are simulated have come to it, and ends for all at once.

    *simulated* of *devices* equal ones are simulated: all, or one that stands for them.
    """

    def __init__(self, env: simpy.Environment, wires: InterconnectConfig, devices: int, simulated: int) -> None:
        self.env, self.wires, self.devices, self.simulated = env, wires, devices, simulated
        self._waiting: dict[Hashable, list[simpy.Event]] = {}

    def meet(self, key: Hashable, function: str, nbytes: int) -> simpy.Event:
        """The end of collective *key* over buffers of *nbytes*."""
        waiting = self._waiting.setdefault(key, [])
        ended = self.env.event()
        waiting.append(ended)
        if len(waiting) == self.simulated:
            self.env.process(self._carry(self._waiting.pop(key), function, nbytes))
        return ended

    def _carry(self, waiting: list[simpy.Event], function: str, nbytes: int) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(plan(function, nbytes, self.devices, self.wires).duration_ps)
        for ended in waiting:
            ended.succeed()
