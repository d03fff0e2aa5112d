"""Units: what YAML says becomes a plain number, exactly; anything doubtful is refused."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.sim.clock import Clock
from tilesim.sim.dtypes import parse_dtype
from tilesim.sim.errors import ConfigError
from tilesim.sim.units import FLOPS_PER_MAC, SI, UnitError, parse_quantity, si_text


@pytest.mark.parametrize(("text", "kind", "value"), [
    ("1.2 GHz", "frequency (Hz)", 1_200_000_000),
    ("24 MiB", "capacity (B)", 24 * 2**20),
    ("24 MB", "capacity (B)", 24 * 10**6),
    ("0.9 pJ/bit", "energy per bit (J/bit)", Fraction(9, 10)),
    ("900 fJ/bit", "energy per bit (J/bit)", Fraction(9, 10)),
    ("2500 um", "length (mm)", Fraction(5, 2)),
    ("3.35 TB/s", "bandwidth (B/s)", 3_350_000_000_000),
    ("8 Gbps", "bandwidth (B/s)", 10**9),
    ("1.5 ns", "time (s)", 1500),
    ("1e3 Hz", "frequency (Hz)", 1000),
    ("0", "power (W)", 0),
])
def test_quantities_are_exact(text: str, kind: str, value: Fraction) -> None:
    assert parse_quantity(text, kind) == value


@pytest.mark.parametrize(("text", "kind"), [
    ("1.2 GHs", "frequency (Hz)"), ("24", "capacity (B)"), (24, "capacity (B)"), ("GHz", "frequency (Hz)"),
    ("1.2.3 GHz", "frequency (Hz)"), ("24 mib", "capacity (B)"), ("5 ns", "frequency (Hz)"), ("", "power (W)"),
])
def test_doubtful_quantities_are_refused(text: object, kind: str) -> None:
    with pytest.raises(UnitError):
        parse_quantity(text, kind)


def test_si_table_is_the_brochures() -> None:
    """A published tool has T = 10^13; ours must not."""
    assert SI == {"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "m": -3, "": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15}
    assert FLOPS_PER_MAC == 2


def test_si_text_leaves_one_to_three_digits_before_the_point() -> None:
    assert si_text(0.0012, "s") == "1.2 ms"
    assert si_text(1.638e12, "B/s") == "1.638 TB/s"
    assert si_text(0, "J") == "0 J"


periods = st.builds(Fraction, st.integers(1, 10**7), st.integers(1, 10**4)).filter(lambda period: period >= 1)


@given(periods, st.integers(0, 10**15))
def test_cycle_to_time_and_back_is_the_same_cycle(period: Fraction, cycle: int) -> None:
    clock = Clock("c", period)
    assert clock.cycle_at(clock.ps_of(cycle)) == cycle


@given(periods, st.integers(0, 10**15))
def test_first_cycle_at_a_time_is_the_first(period: Fraction, time_ps: int) -> None:
    clock = Clock("c", period)
    cycle = clock.cycle_at(time_ps)
    assert clock.ps_of(cycle) >= time_ps
    assert cycle == 0 or clock.ps_of(cycle - 1) < time_ps


def test_clock_from_hz_takes_the_decimal_that_is_written() -> None:
    assert Clock.from_hz("mxu", 1.05e9).period_ps == Fraction(10**12, 1_050_000_000)


def test_group_scales_take_their_bytes() -> None:
    """int4 with a 16-bit scale per 128: 256 elements are 128 bytes of data and two scales of two bytes."""
    assert parse_dtype("int4-g128").bytes_for(256) == 128 + 4
    assert parse_dtype("int4-g128").bits_per_element == 4 + Fraction(16, 128)
    assert parse_dtype("bf16").bytes_for(3) == 6


@pytest.mark.parametrize("text", ["bf61", "int4-g", "int4-g0", "int4-gx", ""])
def test_unknown_formats_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_dtype(text)
