"""The suite `fusemax`: every latency, traffic and utilisation within 1 %, and the paper's headline means."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilesim.sim.errors import ConfigError
from tilesim.validation.fusemax import COLUMNS, flat_search, headline, validate

SHARED = Path(__file__).parents[3] / "shared" / "systems" / "fusemax_points.csv"


@pytest.mark.published
@pytest.mark.parametrize("reference", [None, SHARED], ids=["shipped", "shared"])
def test_latency_traffic_and_utilisation_are_within_one_percent(reference: Path | None) -> None:
    if reference is not None and not reference.is_file():
        pytest.skip("the larger reference table is not here")
    rows = [row for row in validate(reference).rows if not row.group.startswith("energy")]
    assert rows
    assert [row.case for row in rows if not row.within] == []


@pytest.mark.published
def test_headline_means() -> None:
    """Nayak et al., abstract: 6.7 and 5.3 times as fast as FLAT, 0.79 and 0.83 of its energy; arithmetic means of 24 points."""
    ours = headline()
    assert ours["attention speed-up"].arithmetic == pytest.approx(6.723, rel=0.01)
    assert ours["end-to-end speed-up"].arithmetic == pytest.approx(5.302, rel=0.01)
    assert ours["attention energy"].arithmetic == pytest.approx(0.787, rel=0.01)
    assert ours["end-to-end energy"].arithmetic == pytest.approx(0.833, rel=0.01)
    assert ours["attention speed-up"].geometric == pytest.approx(6.462, rel=0.01)
    assert ours["end-to-end speed-up"].geometric == pytest.approx(4.605, rel=0.01)


@pytest.mark.published
def test_our_flat_search_never_moves_more_than_the_published_choice() -> None:
    assert all(found <= published * (1 + 1e-9) for published, found in flat_search().values())


def test_an_unknown_design_is_named(tmp_path: Path) -> None:
    table = tmp_path / "points.csv"
    table.write_text(",".join(COLUMNS) + "\nBERT,1K,FLATT,0.1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"points\.csv:2.*FLATT"):
        validate(table)


@pytest.mark.published
def test_command_level_hbm_keeps_every_latency_within_ten_percent() -> None:
    """What a flat memory lacks, refresh and turnarounds, costs up to 10 % where FLAT is bound by it (256K tokens on)."""
    rows = [row for row in validate(memory="hbm").rows if row.group.startswith("latency:") and "linear" not in row.group]
    assert [row.case for row in rows if not row.within] == []
    assert all(row.got is not None and row.expected is not None and row.got >= 0.99 * row.expected for row in rows)
