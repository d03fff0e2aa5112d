"""How devices are wired to each other: a topology, as a networkx graph."""

from __future__ import annotations

from typing import Annotated, Literal

import networkx as nx
from pydantic import Field

from ..sim.config import Config
from ..sim.units import BytesPerSecond, PicojoulesPerBit, Picoseconds


class InterconnectConfig(Config):
    """How devices of one kind are joined: a ring, or every one with every other. *bandwidth* is of each link, each way."""

    topology: Literal["ring", "all_to_all"]
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(gt=0)]
    latency_ps: Annotated[Picoseconds, Field(ge=0)]
    energy_pj_per_bit: PicojoulesPerBit

    def graph(self, devices: int) -> nx.DiGraph[int]:
        """Devices 0, 1, … and a directed edge (attribute ``wires``) for each link and way."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(devices))
        for device in range(devices):
            others = {(device + 1) % devices, (device - 1) % devices} if self.topology == "ring" else set(range(devices))
            graph.add_edges_from((device, other, {"wires": self}) for other in sorted(others - {device}))
        return graph

    def out_bytes_per_s(self, devices: int) -> float:
        """What one of *devices* sends at most."""
        return self.graph(devices).out_degree(0) * self.bandwidth_bytes_per_s
