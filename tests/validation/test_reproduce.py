"""`tilesim reproduce`: every shipped system runs, each figure stands beside the paper's, plots and JSON say the same."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from tilesim.cli import main
from tilesim.validation.reproduction import REPRODUCERS, Figure, Reproduction, draw, load_system, reproduce, system_folder


@lru_cache(maxsize=1)
def fusemax() -> Reproduction:
    return reproduce(load_system("fusemax"))


def test_every_shipped_system_has_its_reproducer() -> None:
    assert sorted(path.stem for path in system_folder().glob("*.yaml")) == sorted(REPRODUCERS)
    assert all(load_system(name).name == name for name in REPRODUCERS)


def test_a_gap_is_signed_and_of_the_papers_figure() -> None:
    assert Figure("a", "b", 4.0, 5.0, "").gap_pct == 25.0
    assert Figure("a", "b", None, 5.0, "").gap_pct is None


@pytest.mark.published
def test_fusemax_speed_ups_equal_the_artifacts() -> None:
    gaps = [figure.gap_pct for figure in fusemax().points if "speed-up" in figure.quantity and figure.gap_pct is not None]
    assert len(gaps) == 2 * 4 * 14                              # 14 of 24 points are shipped, 4 designs beside the baseline
    assert max(abs(gap) for gap in gaps) < 0.3


@pytest.mark.published
def test_fusemax_energies_equal_the_artifacts() -> None:
    gaps = [figure.gap_pct for figure in fusemax().points if "energy" in figure.quantity and figure.gap_pct is not None]
    assert len(gaps) == 2 * 4 * 14
    assert max(abs(gap) for gap in gaps) < 0.6


@pytest.mark.published
def test_fusemax_claims_hold_on_the_flat_memory_and_by_command() -> None:
    bounds_pct = {"flat memory": 0.2, "HBM by command": 10.0, "no excess reads": 1.0, "FLAT as we map it": 2.0}
    for figure in fusemax().claims:
        assert figure.gap_pct is None or abs(figure.gap_pct) < bounds_pct[figure.case.partition("/")[0]]
    assert {figure.case for figure in fusemax().claims} == {f"{what}/{mean} mean" for what in bounds_pct
                                                            for mean in ("arithmetic", "geometric")}


def test_every_figure_gives_its_reason() -> None:
    assert all(figure.reason for figure in (*fusemax().claims, *fusemax().points))


def test_the_bars_are_our_figures_and_the_marks_the_papers() -> None:
    picture = draw(fusemax())["attention-speedup"]
    shown = [figure for figure in fusemax().points if figure.quantity == "attention speed-up over unfused"]
    heights = sorted(bar.get_height() for panel in picture.axes for bar in panel.patches if isinstance(bar, Rectangle))
    assert heights == sorted(figure.ours for figure in shown)
    marks = sorted(float(y) for panel in picture.axes for line in panel.lines if line.get_marker() == "_"
                   for y in np.asarray(line.get_ydata(), float))
    assert marks == sorted(figure.paper for figure in shown if figure.paper is not None)


def test_the_command_writes_json_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "fusemax", "--json", str(tmp_path / "figures.json"), "--plots", str(tmp_path / "plots")]) == 0
    system, = json.loads((tmp_path / "figures.json").read_text())
    assert system["schema"] == "tilesim.reproduction/1"
    assert system == fusemax().to_dict()
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4
    printed = capsys.readouterr().out
    assert "attention speed-up over FLAT" in printed
    assert "BERT/256K" in printed


def test_systems_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "systems"]) == 0
    assert capsys.readouterr().out.split() == sorted(REPRODUCERS)
    assert main(["reproduce", "--list"]) == 0
    assert "fusemax: FuseMax" in capsys.readouterr().out


def test_an_unknown_system_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "fusemx"]) == 2
    assert "Did you mean 'fusemax'?" in capsys.readouterr().err
