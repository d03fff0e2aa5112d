"""The DRAM suite against the shared reference, when it lies beside the checkout."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tilesim.validation import dram
from tilesim.validation.dram_traces import Geometry, make_trace

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "dram"
needs_reference = pytest.mark.skipif(not (REFERENCE / "results.csv").is_file(),
                                     reason="the shared DRAM reference is not beside this checkout")


def test_traces_are_what_their_names_say() -> None:
    g = Geometry.parse("32,2,1,4,4,64,32")
    linear = make_trace("seq_rd", g, 100)
    assert (linear.burst == range(100)).all()
    assert not linear.write.any()
    mixed = make_trace("mix67_seq", g, 9)
    assert mixed.write.tolist() == [False, False, True] * 3
    paced = make_trace("paced_50_7", g, 1000, seed=2)
    assert paced.tick[10] == 70
    assert 0.4 < paced.write.mean() < 0.6
    assert make_trace("chase_rand", g, 5).dependent
    assert (make_trace("rand_rd", g, 50).burst == make_trace("rand_rd", g, 50).burst).all()
    with pytest.raises(ValueError, match="no trace is named"):
        make_trace("zigzag", g, 1)


@needs_reference
def test_first_requests_are_drawn_as_the_reference_draws_them() -> None:
    """The first activates of a reference command trace are the first places drawn (DDR4: one pseudo-channel, one stack)."""
    with (REFERENCE / "cmdtrace" / "ramulator2.1__ddr4_2400r_8gb_x8__rand_rd.csv").open(encoding="utf-8") as stream:
        first = next(line for line in csv.DictReader(stream) if line["cmd"] == "ACT")
    g = Geometry.parse("128,1,1,4,4,65536,64")
    burst = int(make_trace("rand_rd", g, 1).burst[0])
    place = (int(first["row"]) * g.banks + int(first["ba"])) * g.bank_groups + int(first["bg"])
    assert burst == place * g.columns + int(first["col"])


@needs_reference
@pytest.mark.parametrize(("peer", "config"), [("ramulator2.1", "hbm3_6400_8gb_8hi"), ("dramsim3", "hbm2_8gb_x128")])
def test_a_config_of_each_peer_is_within_tolerance(peer: str, config: str, tmp_path: Path) -> None:
    """A few traces of one device, through files of the contract's formats."""
    kinds = {"hit_rd", "rand_rd", "mix50_rand", "seq_rd", "chase_conf", "paced_100_48"}
    with (REFERENCE / "results.csv").open(encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.DictReader(stream)
                 if (line["peer"], line["config"]) == (peer, config) and line["kind"] in kinds]
    with (tmp_path / "some.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    (tmp_path / "configs.yaml").write_text((REFERENCE / "configs.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    result = dram.validate_dram(tmp_path)
    assert {group.group for group in result.summary} >= {"timing", "random", "scheduler", "counts", "latency"}
    assert [row.case for row in result.rows if not row.within] == []


def test_lines_that_make_no_sense_are_skipped_alone(tmp_path: Path) -> None:
    """… wherever below the folder the table lies; the others are scored as ever."""
    with (dram.SHIPPED / "results.csv").open(encoding="utf-8", newline="") as stream:
        good = next(csv.DictReader(stream))
    bad = [good | spoilt for spoilt in ({"n": "many"}, {"kind": "zigzag"}, {"last_data_cycle": "soon"}, {"peer": "no such peer"})]
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    with (folder / "some.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, good.keys())
        writer.writeheader()
        writer.writerows([*bad, good])
    (folder / "configs.yaml").write_text((dram.SHIPPED / "configs.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    rows = dram.validate(tmp_path).rows
    skipped = [row for row in rows if row.skipped]
    assert len(skipped) == len(bad)
    assert "some.csv:2: cannot be predicted" in (skipped[0].skipped or "")
    assert "zigzag" in (skipped[1].skipped or "")
    assert [row.within for row in rows if not row.skipped].count(False) == 0
    assert any(not row.skipped for row in rows)


@needs_reference
@pytest.mark.slow
def test_the_whole_reference() -> None:
    summary = {group.group: group for group in dram.validate_dram(REFERENCE).summary}
    assert (summary["timing"].share_within or 0) >= 0.97
    assert (summary["random"].mape_pct or 100) <= 2.5
    for group in ("scheduler", "latency", "trace"):
        assert summary[group].share_within == 1.0
    assert (summary["counts"].share_within or 0) >= 0.99
