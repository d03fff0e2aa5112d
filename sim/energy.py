"""The energy ledger: whole counts of actions, turned into joules once, at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .units import PS_PER_S


@dataclass(frozen=True, slots=True)
class EnergyLine:
    """One line of the breakdown: *count* actions of *pj_each*, or a static power over the run (``count`` 0)."""

    component: str
    action: str
    count: int
    pj_each: float
    joules: float


@dataclass(slots=True)
class EnergyLedger:
    """Counts of actions by component. Energy = Σ count × pJ each + Σ static power × time; nothing else adds to it."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    pj_each: dict[tuple[str, str], float] = field(default_factory=dict)
    static_w: dict[str, float] = field(default_factory=dict)

    def price(self, component: str, action: str, pj: float) -> None:
        """Say what one *action* of *component* costs."""
        self.pj_each[component, action] = pj

    def add(self, component: str, action: str, count: int) -> None:
        """Count *count* actions."""
        key = (component, action)
        self.counts[key] = self.counts.get(key, 0) + count

    def lines(self, duration_ps: int) -> tuple[EnergyLine, ...]:
        """The breakdown for a run of that duration; an action without a price is our own mistake."""
        lines = []
        for (component, action), count in sorted(self.counts.items()):
            pj = self.pj_each[component, action]
            lines.append(EnergyLine(component, action, count, pj, count * pj * 1e-12))
        seconds = duration_ps / PS_PER_S
        for component, watts in sorted(self.static_w.items()):
            lines.append(EnergyLine(component, "static", 0, 0.0, watts * seconds))
        return tuple(lines)


def by_component(lines: tuple[EnergyLine, ...]) -> Mapping[str, float]:
    """Joules of each component, all its actions and its static share together."""
    totals: dict[str, float] = {}
    for line in lines:
        totals[line.component] = totals.get(line.component, 0.0) + line.joules
    return totals
