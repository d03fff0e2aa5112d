"""Clocks: exact rational periods over one integer picosecond timeline."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .units import PS_PER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock of exact period ``period_ps`` (a rational number of picoseconds).

    Cycle *n* begins at ``floor(n · period)`` picoseconds; the first cycle that begins at or after a time is found by
    rounding up. So ``cycle_at(ps_of(n)) == n`` for every period of at least one picosecond.
    """

    name: str
    period_ps: Fraction

    @classmethod
    def from_hz(cls, name: str, frequency_hz: float | Fraction) -> Clock:
        """The clock of that frequency; a float is taken as the decimal it prints as (1.05e9, not its binary neighbour)."""
        if frequency_hz <= 0:
            raise ValueError(f"clock {name} must have a positive frequency, not {frequency_hz}")
        exact = frequency_hz if isinstance(frequency_hz, Fraction) else Fraction(repr(float(frequency_hz)))
        return cls(name, Fraction(PS_PER_S) / exact)

    @property
    def frequency_hz(self) -> float:
        return float(PS_PER_S / self.period_ps)

    def ps_of(self, cycle: int) -> int:
        """The picosecond at which *cycle* begins (rounded down)."""
        return cycle * self.period_ps.numerator // self.period_ps.denominator

    def cycle_at(self, time_ps: int) -> int:
        """The first cycle that begins at or after *time_ps* (rounded up)."""
        # ps_of(n) >= t  <=>  floor(n·p/q) >= t  <=>  n·p >= t·q
        return -(-time_ps * self.period_ps.denominator // self.period_ps.numerator)

    def wait_ps(self, now_ps: int, cycles: int) -> int:
        """Picoseconds from *now_ps* to the end of *cycles* cycles that start on this clock's next edge."""
        return self.ps_of(self.cycle_at(now_ps) + cycles) - now_ps
