"""Shipped standards and memories: each builds, streams near its pin rate, and says what the public tables say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tilesim.memory.address import parse_mapping
from tilesim.memory.controller import ControllerConfig
from tilesim.memory.patterns import make_requests
from tilesim.memory.replay import DramRun, serve
from tilesim.memory.standard import DramStandard, Memory, evaluate, load_memory, shipped
from tilesim.memory.verdict import judge
from tilesim.sim import config
from tilesim.sim.errors import ConfigError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "dram" / "configs.yaml"
MEMORIES = sorted(path.stem for path in shipped("memories").glob("*.yaml"))
#: Causes that bound a stream by the standard itself, not by our controller.
BY_THE_STANDARD = {"data bus", "refresh", "turnarounds", "command bus", "last data"}


def run(memory: Memory, pattern: str, bursts: int, **more: Any) -> DramRun:
    """One channel under *pattern*, queues deep enough to see a row ahead."""
    requests = make_requests(pattern, bursts, burst_bytes=memory.organisation.bytes_per_burst,
                             capacity_bytes=memory.organisation.channel_bytes, **more)
    controller = ControllerConfig(read_queue=64, write_queue=64, row_hits_first=True).over(memory.controller)
    return serve(memory, requests, controller, channels=1, log_commands=20_000)


def test_every_standard_the_project_names_is_shipped() -> None:
    families = ("ddr3", "ddr4", "ddr5", "lpddr4", "lpddr5", "lpddr5x", "gddr6", "hbm2", "hbm2e", "hbm3", "hbm3e", "hbm4", "gddr5",
                "gddr6x", "gddr7")
    assert [family for family in families if not any(name.startswith(f"{family}-") for name in MEMORIES)] == []


@pytest.mark.parametrize("name", MEMORIES)
def test_a_stream_reaches_the_pin_rate_or_the_verdict_says_why(name: str) -> None:
    memory = load_memory(name)
    served = run(memory, "sequential", 6000)
    share = served.bytes_per_s / served.peak_bytes_per_s
    verdict = judge(served).shares()
    assert share <= 1
    lost = {cause: part for cause, part in verdict.items() if cause != "data bus"}
    assert share >= 0.9 or sum(lost.values()) >= 0.9 - share, f"{share:.3f} of the pin rate, and no reason: {verdict}"
    assert share >= 0.8


@pytest.mark.parametrize("name", MEMORIES)
def test_every_random_request_is_served_once(name: str) -> None:
    memory = load_memory(name)
    served = run(memory, "random", 3000, read_share=0.6)
    columns = sum(served.commands.get(memory.standard.by_role(role) or "", 0) for role in ("read", "write"))
    assert columns == 3000
    latency = served.latency_ns()
    assert latency["p0"] >= 1e9 / memory.tick_hz * (memory.ticks["tCL"] + memory.ticks["tBL"])
    assert latency["p0"] <= latency["p50"] <= latency["p99"] <= latency["p100"]


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_names_its_sources_and_boundary(name: str) -> None:
    memory = load_memory(name)
    assert memory.source
    assert memory.standard.source
    if memory.energy is not None:
        assert memory.energy.source
        assert memory.energy.boundary == "device"


@pytest.mark.parametrize("name", MEMORIES)
def test_address_mapping_is_a_bijection_of_bursts(name: str) -> None:
    memory = load_memory(name)
    requests = make_requests("random", 2000, burst_bytes=1, capacity_bytes=memory.organisation.channel_bytes
                             // memory.organisation.bytes_per_burst)
    mapping = parse_mapping(memory.address_mapping, memory.organisation, memory.channels)
    assert (mapping.encode(*mapping.decode(requests.address)) == requests.address).all()


#: Rules that we state and the public table leaves out; they bind refreshes only.
OURS_ONLY = {"refresh_all", "refresh_bank"}
STANDARD_OF = {"ddr4": "ddr4", "ddr5": "ddr5", "lpddr5": "lpddr5", "gddr6": "gddr6", "hbm2": "hbm2", "hbm3": "hbm3"}
LEVELS = {"Channel": "channel", "PseudoChannel": "pseudo_channel", "Rank": "rank", "Sid": "stack_id", "BankGroup": "bank_group",
          "Bank": "bank"}
ROLES = {"PREpb": "precharge", "PREab": "precharge_all", "REFab": "refresh_all", "REFpb": "refresh_bank", "ACT": "activate",
         "ACT1": "activate", "ACT2": "activate_2", "RD": "read", "WR": "write", "CAS_RD": "sync_read", "CAS_WR": "sync_write"}
NAMES = {"nRCDRD": "tRCDRD", "nRCDWR": "tRCDWR", "nCCDS": "tCCD_S", "nCCDL": "tCCD_L", "nCCDR": "tCCD_R", "nRRDS": "tRRD_S",
         "nRRDL": "tRRD_L", "nWTRS": "tWTR_S", "nWTRL": "tWTR_L", "nCCDS_WR": "tCCD_S_WR", "nCCDL_WR": "tCCD_L_WR",
         "nRFCab": "tRFC", "nRTPL": "tRTP", "nCS": "tRTRS", "nBL_min": "tBL"}


def public_tables() -> list[Any]:
    if not REFERENCE.is_file():
        return [pytest.param(None, marks=pytest.mark.skip("the public constraint tables are not here"))]
    entries = yaml.safe_load(REFERENCE.read_text())["configs"]
    return [pytest.param(entry, id=name) for name, entry in entries.items() if "constraints" in entry]


@pytest.mark.published
@pytest.mark.parametrize("entry", public_tables())
def test_rules_give_the_public_constraint_table(entry: dict[str, Any]) -> None:
    """Every distance of Ramulator 2.1's resolved table, from our formulas and its timings; ours may state more on refresh."""
    name = STANDARD_OF[entry["config"].split("_")[0]]
    standard = config.load(DramStandard, shipped("standards") / f"{name}.yaml", folders=[shipped("standards")])
    timing = {NAMES.get(key, f"t{key[1:]}"): value for key, value in entry["peer_timing"].items() if key.startswith("n")}
    ours: dict[tuple[Any, ...], int] = {}
    for rule in standard.rules:
        for after in rule.after:
            for before in rule.before:
                key = (rule.level, standard.commands[after].role, standard.commands[before].role, rule.window, rule.sibling)
                ours[key] = max(ours.get(key, -1 << 30), evaluate(rule.wait, timing))
    roles = {command.role for command in standard.commands.values()}
    theirs: dict[tuple[Any, ...], int] = {}
    for level, afters, befores, wait, *more in entry["constraints"]:
        for after in afters:
            for before in befores:
                first, second = (ROLES.get(entry["commands"][i]) for i in (after, before))
                if first in roles and second in roles:
                    place = (LEVELS[entry["levels"][level]], first, second, more[0] if more else 1, len(more) > 1 and bool(more[1]))
                    theirs[place] = max(theirs.get(place, -1 << 30), wait)
    # A rule of every stack id says nothing that the pseudo-channel's does not, unless it is longer.
    missing = {key: wait for key, wait in theirs.items() if ours.get(key) != wait
               and not (key[0] == "stack_id" and ours.get(("pseudo_channel", *key[1:]), -1) >= wait)}
    assert missing == {}
    assert all({key[1], key[2]} & OURS_ONLY for key in ours if key not in theirs)


def test_ddr4_refresh_is_jedecs() -> None:
    assert load_memory("ddr4-2400").ticks["tRFC"] == 420                  # 350 ns; a public table has 360 ns


def test_a_missing_or_unknown_timing_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: ddr4-2400\ntiming: {tCDD_L: 6}\n")
    with pytest.raises(ConfigError, match="tCDD_L"):
        load_memory(str(file))
    text = (shipped("memories") / "ddr4-2400.yaml").read_text().replace("  tFAW: 26 ", "  #")
    file.write_text(text)
    with pytest.raises(ConfigError, match="tFAW"):
        load_memory(str(file))


@pytest.mark.parametrize(("change", "says"), [
    ({"timing": {"tREFI": -5}}, "timing tREFI is -5"),
    ({"timing": {"tBL": 0}}, "timing tBL is 0"),
    ({"rules": [{"level": "bank", "after": "ACT", "before": "RD", "wait": "tRCD ** 2"}]}, "is no formula of timings"),
    ({"rules": [{"level": "bank", "after": "ACT", "before": "RD", "wait": "tRCD +"}]}, "is no formula of timings"),
    ({"rules": [{"level": "bank", "after": "ACT", "before": "RD", "wait": -1}]}, "is negative"),
    ({"commands": {"PRE": {"role": "precharge", "clocks": 3}}}, "no rule of level channel keeps ACT away"),
])
def test_table_that_cannot_be_right_is_refused(change: dict[str, Any], says: str) -> None:
    data = load_memory("ddr4-2400").model_dump()
    data["timing"] |= change.get("timing", {})
    data["standard"]["rules"] = [*data["standard"]["rules"], *change.get("rules", [])]
    data["standard"]["commands"] |= change.get("commands", {})
    with pytest.raises(ValidationError, match=re.escape(says)):
        Memory.model_validate(data)


def test_refresh_without_a_price_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPDDR5's currents have none for the refresh of one bank; that must not show after a long run."""
    memory = load_memory("lpddr5-6400")
    requests = make_requests("random", 10, burst_bytes=32, capacity_bytes=1 << 20)
    monkeypatch.setattr("tilesim.memory.replay.run_channel", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ConfigError, match="no current for that"):
        serve(memory, requests, ControllerConfig(refresh="per_bank"))
