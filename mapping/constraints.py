"""Constraints on mappings, from YAML: what the search must keep to, for all operators and by operator name.

    gemm:
      outer: n
      k_tile: 1024
    attention:
      kv_tile: 512
    operators:
      "layers.*.mlp.up": {gemm: {m_tile: 512}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field, PrivateAttr, model_validator

from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import ceil_div
from ..sim.yaml_reader import Document

Extent = Annotated[int, Field(ge=1)]


class GemmConstraints(Config):
    """Fields of ``gemm_space.GemmPlan`` that are given; the search chooses the others. *search: heuristic* takes the fixed rule."""

    search: Literal["pruned", "exhaustive", "heuristic"] = "pruned"
    unit: Literal["arrays", "lanes"] | None = None
    m_tile: Extent | None = None
    k_tile: Extent | None = None
    n_tile: Extent | None = None
    n_block: Extent | None = None
    outer: Literal["m", "n"] | None = None
    hold: Literal["none", "a", "b"] | None = None
    stationary: Literal["a", "b"] | None = None
    split_k: Extent | None = None

    @model_validator(mode="after")
    def _can_hold(self) -> GemmConstraints:
        """Refuse fields of which no plan has both."""
        beside = [name for name, value in self.model_dump().items() if name != "search" and value is not None]
        if self.search == "heuristic" and beside:
            raise ValueError(f"search is heuristic, the fixed rule's own plan; {beside[0]} cannot be given beside it")
        outside = {"a": "m", "b": "n"}.get(self.hold or "")
        if outside is not None and self.outer not in (None, outside):
            raise ValueError(f"hold: {self.hold} wants outer: {outside}, the loop that fixes the strip; it is {self.outer}")
        if self.unit == "lanes" and self.stationary == "a":
            raise ValueError("stationary: a is a choice of the arrays; the unit is lanes")
        if self.n_tile is not None and self.n_block is not None and self.n_block % self.n_tile:
            raise ValueError(f"n_block is {self.n_block}: must be a multiple of n_tile, {self.n_tile}")
        return self

    def fixed(self, m: int, k: int, n: int) -> dict[str, int | str]:
        """The fields of a plan of [m, k]·[k, n] that are given; a tile larger than its extent is all of it."""
        given = {name: value for name, value in self.model_dump().items() if name != "search" and value is not None}
        for name, extent in (("m_tile", m), ("k_tile", k), ("n_tile", n)):
            if name in given:
                given[name] = min(given[name], extent)
        if "n_block" in given:
            given["n_block"] = min(given["n_block"], ceil_div(n, given.get("n_tile", n)) * given.get("n_tile", n))
        return given


class AttentionConstraints(Config):
    """Fields of ``attention_tiles.AttentionTile`` that are given; the search chooses the others. *search: heuristic* takes the
    fixed rule."""

    search: Literal["pruned", "exhaustive", "heuristic"] = "pruned"
    unit: Literal["arrays", "lanes"] | None = None
    heads_tile: Extent | None = None
    q_tile: Extent | None = None
    kv_tile: Extent | None = None
    ways: Annotated[int, Field(ge=1, le=4)] | None = None

    @model_validator(mode="after")
    def _can_take_turns(self) -> AttentionConstraints:
        if self.unit == "lanes" and self.ways not in (None, 1):
            raise ValueError(f"ways: {self.ways} is a choice of the arrays, where tiles of queries take turns; the unit is lanes")
        return self

    def fixed(self) -> dict[str, int | str]:
        """The fields of a tile that are given, by their names there."""
        given = {"unit": self.unit, "heads": self.heads_tile, "q_tokens": self.q_tile, "kv_tokens": self.kv_tile, "ways": self.ways}
        return {name: value for name, value in given.items() if value is not None}


class OperatorConstraints(Config):
    """What holds for the operators of one name pattern."""

    gemm: GemmConstraints = GemmConstraints()
    attention: AttentionConstraints = AttentionConstraints()

    def constrains(self, kind: str) -> bool:
        """Whether anything is given for operators of *kind*."""
        given = getattr(self, kind)
        return bool(given != type(given)())


#: What can be constrained → what its operators are called.
CONSTRAINED = {"gemm": "matrix product", "attention": "attention"}


class Constraints(OperatorConstraints):
    """A whole file of constraints. Of several patterns that match an operator's name the last one counts."""

    operators: dict[str, OperatorConstraints] = Field(default_factory=dict)
    _document: Document | None = PrivateAttr(default=None)

    def of(self, operator: str) -> OperatorConstraints:
        """What holds for *operator*."""
        pattern = self._pattern(operator)
        return OperatorConstraints(gemm=self.gemm, attention=self.attention) if pattern is None else self.operators[pattern]

    def _pattern(self, operator: str) -> str | None:
        found = [pattern for pattern in self.operators if fnmatchcase(operator, pattern)]
        return found[-1] if found else None

    def blamed(self, error: ConfigError, operator: str, kind: str) -> ConfigError:
        """*error*, which the constraints of *operator* for its *kind* have caused, with their place in the file."""
        pattern = self._pattern(operator)
        where = (kind,) if pattern is None else ("operators", pattern, kind)
        file, line = self._document.mark(where) if self._document is not None else (None, None)
        return ConfigError(f"{operator}: {error.message}", file=file, line=line, key=".".join(where), value=error.value,
                           allowed=error.allowed, mend=error.mend)

    def check(self, names: Mapping[str, Sequence[str]]) -> None:
        """Refuse what constrains nothing: a pattern that no operator's name matches, or any field for a kind of operators of which
        there is none; *names*: those of each kind of :data:`CONSTRAINED`."""
        for pattern, given in self.operators.items():
            kinds = [kind for kind in CONSTRAINED if given.constrains(kind)] or list(CONSTRAINED)
            if not any(fnmatchcase(name, pattern) for kind in kinds for name in names[kind]):
                what = " or ".join(CONSTRAINED[kind] for kind in kinds)
                self._refuse(("operators", pattern), f"no {what} has such a name", [name for kind in kinds for name in names[kind]])
        for kind, what in CONSTRAINED.items():
            if not names[kind] and self.constrains(kind):
                self._refuse((kind,), f"there is no {what}", [])

    def _refuse(self, where: tuple[str, ...], what: str, names: Sequence[str]) -> NoReturn:
        file, line = self._document.mark(where) if self._document is not None else (None, None)
        alike = tuple(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
        raise ConfigError(f"{'.'.join(where)}: {what}", file=file, line=line, key=".".join(where), value=where[-1], allowed=alike)


def load_constraints(path: str | Path) -> Constraints:
    """The constraints of a YAML file."""
    document = config_reader.load_document(Path(path), [], "mapping")
    constraints = config_reader.from_document(Constraints, document)
    constraints._document = document
    return constraints
