"""A machine: named parts wired by links, read from YAML, as a networkx graph."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import networkx as nx
from pydantic import Field, PrivateAttr, model_validator

from .. import configs
from ..memory.dram import DramConfig
from ..memory.kinds import MEMORY_KINDS, MemoryConfig
from ..memory.sram import SramConfig
from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.show import show_config
from ..sim.units import BytesPerSecond, Hertz, Millimetres, PicojoulesPerBit, Picoseconds, Watts
from ..sim.yaml_reader import Document, find_named, set_value
from .systolic import SystolicConfig
from .technology import fill_energies, find_technology
from .vector import VectorConfig
from .wires import InterconnectConfig


class DmaConfig(Config):
    """A DMA engine with one in-order queue each for streamed operands, for activations and for stores.

    A descriptor takes *issue_cycles* to issue; at most *max_in_flight* transfers of a queue are under way at once.
    """

    type: Literal["dma"]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    issue_cycles: Annotated[int, Field(ge=0)]
    max_in_flight: Annotated[int, Field(ge=1)]


PartConfig = Annotated[MemoryConfig | SramConfig | SystolicConfig | VectorConfig | DmaConfig, Field(discriminator="type")]
PartT = TypeVar("PartT", bound=Config)


class LinkConfig(Config):
    """A link between two parts: bytes each way per second, latency, and what a bit costs.

    That is either stated (`energy`, of what was measured: a SerDes, a PHY) or follows from the wire's `length` and its node.
    """

    source: str
    target: str
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(gt=0)]
    latency_ps: Annotated[Picoseconds, Field(ge=0)] = 0
    energy_pj_per_bit: PicojoulesPerBit | None = None
    length_mm: Annotated[Millimetres, Field(gt=0)] | None = None
    technology: str | None = None              # of the wire; left out: the machine's

    @model_validator(mode="after")
    def _energy_or_length(self) -> LinkConfig:
        way = f"link {self.source} → {self.target}"
        if (self.energy_pj_per_bit is None) == (self.length_mm is None):
            has = "neither" if self.length_mm is None else "both"
            raise ValueError(f"{way} has {has}: one of energy (a bit's, as measured) and length (of its wires) is wanted")
        if self.length_mm is None and self.technology is not None:
            raise ValueError(f"technology: {way} states its energy; only a length is priced by a technology")
        if self.length_mm is not None and self.technology is None:
            raise ValueError(f"length: {way} is priced by a technology, and neither the link nor the chip names one")
        return self

    @property
    def pj_per_bit(self) -> float:
        """What a bit costs on this link."""
        if self.energy_pj_per_bit is not None:
            return self.energy_pj_per_bit
        assert self.length_mm is not None
        assert self.technology is not None
        return self.length_mm * find_technology(self.technology).wire_pj_per_bit_mm()


class Parallel(Config):
    """How many devices share the work: *tensor* of them divide each layer, unless ``--tp`` asks for two or more."""

    tensor: Annotated[int, Field(ge=1)] = 1


class MachineConfig(Config):
    """A chip: its parts by name, the links that wire them, and the power it draws whatever it does."""

    name: str
    description: str
    parts: dict[str, PartConfig]
    links: tuple[LinkConfig, ...]
    interconnect: InterconnectConfig | None = None      # between devices of this kind; None: they have no links
    parallel: Parallel = Parallel()
    technology: str | None = None              # of arithmetic, SRAM and wires, where no energy is stated (configs/tech)
    static_power_w: Watts = 0.0                # of what no part accounts for: control, clock tree, leakage of logic
    idle_power_w: Watts | None = None          # instead: as measured, the main memory's own idle power in it
    _document: Document | None = PrivateAttr(default=None)      # where it was read from, for errors that show later

    @model_validator(mode="after")
    def _one_idle_power(self) -> MachineConfig:
        neither = self.idle_power_w is None and "static_power_w" not in self.model_fields_set
        if neither or (self.idle_power_w is not None and self.static_power_w):
            raise ValueError("one of static_power (of what no part accounts for) and idle_power (the memory's included) is wanted")
        if self.rest_power_w < 0:
            raise ValueError(f"idle_power is {self.idle_power_w:g} W, less than the {self._memory_idle_w:.3g} W that the memory "
                             "alone takes when it waits")
        return self

    @property
    def _memory_idle_w(self) -> float:
        return sum(part.idle_w for part in self.parts.values() if isinstance(part, DramConfig))

    @property
    def rest_power_w(self) -> float:
        """Static power of what no part accounts for."""
        return self.static_power_w if self.idle_power_w is None else self.idle_power_w - self._memory_idle_w

    @model_validator(mode="after")
    def _links_join_parts(self) -> MachineConfig:
        ways = [(link.source, link.target) for link in self.links]
        for link in self.links:
            if ways.count((link.source, link.target)) > 1:
                raise ValueError(f"two links lead from {link.source!r} to {link.target!r}; give one the bandwidth of both")
            for end in (link.source, link.target):
                if end not in self.parts:
                    raise ValueError(f"link {link.source} → {link.target}: there is no part {end!r}; "
                                     f"parts: {', '.join(self.parts)}")
        return self

    def graph(self) -> nx.DiGraph[str]:
        """The machine as a graph: a node for each part (attribute ``config``), an edge for each link (``link``)."""
        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        for name, part in self.parts.items():
            graph.add_node(name, config=part)
        for link in self.links:
            graph.add_edge(link.source, link.target, link=link)
        return graph

    def route(self, source: str, target: str) -> list[tuple[str, str]]:
        """The links of the shortest way from part *source* to part *target*; a ConfigError when there is none."""
        try:
            way = nx.shortest_path(self.graph(), source, target)
        except nx.NetworkXNoPath:
            raise ConfigError(f"no link leads from {source!r} to {target!r}", key="links",
                              mend=f"add: {{source: {source}, target: {target}, bandwidth: …}}") from None
        return list(pairwise(way))

    def named(self, kind: type[PartT]) -> dict[str, PartT]:
        """The parts of one kind, by name."""
        return {name: part for name, part in self.parts.items() if isinstance(part, kind)}

    def placed(self, error: ConfigError) -> ConfigError:
        """*error* with the file and line of its key, when it names a key of the file that this machine was read from."""
        is_ours = error.key is not None and error.key.split(".")[0] in ("parts", "links", "interconnect", "parallel")
        if error.file is not None or self._document is None or error.key is None or not is_ours:
            return error
        file, line = self._document.mark(tuple(error.key.split(".")))
        return ConfigError(error.message, file=file, line=line, key=error.key, value=error.value, allowed=error.allowed,
                           mend=error.mend)

    def main_memory(self) -> tuple[str, MemoryConfig]:
        """The single main memory, of whatever kind; a ConfigError when the machine has none or several."""
        found = [(name, part) for kind in MEMORY_KINDS for name, part in self.named(kind).items()]
        if len(found) != 1:
            kinds = " or ".join(get_args(kind.model_fields["type"].annotation)[0] for kind in MEMORY_KINDS)
            raise ConfigError(f"machine {self.name!r} has {len(found)} main memories (parts of type {kinds}); programs are mapped "
                              "onto exactly one", key="parts", mend=f"parts: {', '.join(self.parts)}")
        return found[0]

    def only(self, kind: type[PartT], what: str) -> tuple[str, PartT]:
        """The single part of *kind*; a ConfigError when the machine has none or several."""
        found = self.named(kind)
        if len(found) != 1:
            raise ConfigError(f"machine {self.name!r} has {len(found)} parts of type {what}; transformer operators are "
                              "mapped onto exactly one", key="parts", mend=f"parts: {', '.join(self.parts)}")
        return next(iter(found.items()))


def chip_folder() -> Path:
    """Where the shipped chips are."""
    return Path(configs.__path__[0]) / "chips"


def load_machine(name: str, sets: tuple[str, ...] = ()) -> MachineConfig:
    """The machine of a shipped name or a YAML file, with ``path=value`` assignments applied."""
    path = find_named(name, [chip_folder()], "chip")
    document = config_reader.load_document(path, [chip_folder()], "chip")
    for assignment in sets:
        set_value(document, assignment)
    fill_energies(document)
    machine = config_reader.from_document(MachineConfig, document)
    machine._document = document
    return machine


def show_chip(machine: MachineConfig) -> str:
    """*machine* as YAML, and beside it what its wires cost."""
    wires = [f"#   {link.source} → {link.target}: {link.length_mm:g} mm at {link.technology}, {link.pj_per_bit:.4g} pJ/bit"
             for link in machine.links if link.length_mm is not None]
    return show_config(machine) + ("\n# what follows from the lengths of its wires\n" + "\n".join(wires) + "\n" if wires else "")
