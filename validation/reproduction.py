"""What a reproduction gives: the paper's figures, ours, the gaps and their reasons, as plain data.

A published system is a YAML in ``configs/systems`` (title, source, headline claims) and one entry in :data:`REPRODUCERS`: the
module of this folder whose ``reproduce(system)`` runs it and whose ``draw(reproduction)`` makes its plots.
"""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import configs
from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

SCHEMA = "tilesim.reproduction/1"
#: System → the module of ``validation/`` that reproduces it.
REPRODUCERS = {"fusemax": "fusemax_figures"}


class Claim(Config):
    """A headline figure: as printed, exactly where the artifact gives it, and its geometric mean where it is a mean of ratios."""

    value: float
    exact: float | None = None
    geometric: float | None = None


class System(Config):
    """A published system: what it is, where its figures come from, what it claims."""

    name: str
    title: str
    source: str
    claims: dict[str, Claim]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: the paper's (None where the shipped tables lack it), ours, and why they differ."""

    case: str
    quantity: str
    paper: float | None
    ours: float
    reason: str

    @property
    def gap_pct(self) -> float | None:
        """Signed, of the paper's figure."""
        return None if not self.paper else 100.0 * (self.ours - self.paper) / self.paper


@dataclass(frozen=True, slots=True)
class Reproduction:
    """All figures of one system: its headline claims, and the points of its main figures."""

    system: System
    claims: tuple[Figure, ...]
    points: tuple[Figure, ...]

    def to_json(self) -> str:
        """Strict JSON; the same bytes for the same figures."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def to_dict(self) -> dict[str, object]:
        return {"schema": SCHEMA, "system": self.system.name, "title": self.system.title, "source": self.system.source,
                "claims": [_plain(figure) for figure in self.claims], "points": [_plain(figure) for figure in self.points]}


def _plain(figure: Figure) -> dict[str, object]:
    plain = asdict(figure) | {"gap_pct": figure.gap_pct}
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in plain.items()}


def system_folder() -> Path:
    """Where the shipped systems are."""
    return Path(configs.__path__[0]) / "systems"


def load_system(name: str) -> System:
    """The shipped system called *name*; a ConfigError with the nearest spelling when there is none."""
    if name not in REPRODUCERS:
        raise ConfigError(f"{name!r} is no published system that can be reproduced", key="NAME", value=name,
                          allowed=tuple(sorted(REPRODUCERS)))
    return config_reader.load(System, system_folder() / f"{name}.yaml", kind="system")


def reproduce(system: System, exact: bool = False) -> Reproduction:
    """Run a published system; *exact*: without what its module approximates to be quick."""
    result: Reproduction = importlib.import_module(f".{REPRODUCERS[system.name]}", __package__).reproduce(system, exact)
    return result


def draw(result: Reproduction) -> dict[str, Picture]:
    """The plots of a reproduction by name, functions of its figures alone."""
    pictures: dict[str, Picture] = importlib.import_module(f".{REPRODUCERS[result.system.name]}", __package__).draw(result)
    return pictures
