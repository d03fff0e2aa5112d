"""Devices of a DRAM reference (``configs.yaml``) as our standards: a constraint table, or the timings of a known simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..memory.standard import Command, DramStandard, Level, Organisation, Role, Rule

_LEVELS: dict[str, Level] = {"Channel": "channel", "PseudoChannel": "pseudo_channel", "Rank": "rank", "Sid": "stack_id",
                             "BankGroup": "bank_group", "Bank": "bank"}
_ROLES: dict[str, Role] = {
    "ACT": "activate", "ACT1": "activate", "ACT2": "activate_2", "PRE": "precharge", "PREpb": "precharge", "PREab": "precharge_all",
    "RD": "read", "WR": "write", "RDA": "read_precharge", "WRA": "write_precharge", "REFab": "refresh_all",
    "REFpb": "refresh_bank", "CAS_RD": "sync_read", "CAS_WR": "sync_write",
}


@dataclass(frozen=True, slots=True)
class ReferenceDevice:
    """One peer's device: the table we run and the numbers that go with it."""

    peer: str
    config: str
    standard: DramStandard
    organisation: Organisation
    timing: dict[str, int]
    geometry: str
    tick_ns: float


def organisation_of(org: Mapping[str, Any]) -> Organisation:
    """The organisation of one channel from an entry's ``org``."""
    return Organisation(
        pseudo_channels=org.get("pseudo_channels", 1), ranks=org.get("ranks", 1), stack_ids=org.get("stack_ids", 1),
        bank_groups=org["bank_groups"], banks_per_group=org["banks_per_group"], rows=org["rows"],
        bursts_per_row=org["bursts_per_row"], bytes_per_burst=org["bytes_per_burst"])


def read_device(entry: Mapping[str, Any]) -> ReferenceDevice:
    """The device of one entry of ``configs``: by its ``constraints`` when it has them, else by ``timing_cycles``."""
    timing = {name if name.startswith("t") else f"t{name}": int(value) for name, value in entry["timing_cycles"].items()}
    timing["tREFI"] = timing.get("tREFI", 0)
    standard = (_from_constraints(entry, timing) if "constraints" in entry else _from_timings(entry, timing))
    return ReferenceDevice(entry["peer"], entry["config"], standard, organisation_of(entry["org"]), timing,
                           str(entry["geom_arg"]), float(entry["tCK_ns"]))


def _from_constraints(entry: Mapping[str, Any], timing: dict[str, int]) -> DramStandard:
    """A table of ``[level, preceding commands, following commands, cycles (, window, sibling)]``."""
    levels, names = entry["levels"], entry["commands"]
    refresh_level = next(_LEVELS[level] for level in ("PseudoChannel", "Rank", "Channel") if level in levels)
    controller = str(entry.get("presets", {}).get("controller", ""))
    commands = {name: Command(role=_ROLES.get(name, "other"),
                              scope="rank" if name.endswith("ab") else "bank",
                              clocks=entry.get("command_cycles", {}).get(name, 1)) for name in names}
    rules = []
    for level, after, before, wait, *more in entry["constraints"]:
        if levels[level] not in _LEVELS:
            continue
        rules.append(Rule(level=_LEVELS[levels[level]], after=tuple(names[i] for i in after),
                          before=tuple(names[i] for i in before), wait=int(wait), window=more[0] if more else 1,
                          sibling=bool(more[1]) if len(more) > 1 else False))
    peer_timing = entry.get("peer_timing", {})
    half_ticks = controller == "HBM34" or "half" in str(entry.get("tick_note", ""))
    return DramStandard(
        name=entry["config"], commands=commands, rules=tuple(rules), refresh_level=refresh_level,
        dual_bus=controller.startswith("HBM") or "PseudoChannel" in levels, half_clock_ticks=half_ticks,
        split_activate_window=int(peer_timing["nAAD"]) if "ACT2" in names else 0,
        data_clock_post=int(peer_timing["nWCKPST"]) if "CAS_RD" in names else None,
        source="the constraint table of the reference entry")


def _from_timings(entry: Mapping[str, Any], timing: dict[str, int]) -> DramStandard:
    """The rules that DRAMsim3 derives from its timings (its source: timing.cc)."""
    ini = {str(key): value for key, value in entry.get("ini_timing", {}).items()}
    protocol = str(entry.get("source_ini", entry["config"])).upper()
    grouped = int(entry["org"]["bank_groups"]) > 1
    suffix = "_L" if grouped else "_S"          # one bank group: the device runs ungrouped, all pairs at the short distance
    # Clocks to turn the bus from read to write beyond the bursts; it falls back to 2 where its file says nothing.
    timing["tRTRS"] = int(ini.get("tRTRS", 2))
    # A file without tRTP (only tRTP_S/L) runs with its default of 5, whatever it says elsewhere.
    timing["tRTP"] = int(ini.get("tRTP", 5)) if ini else timing["tRTP"]
    timing["tPPD"] = int(ini.get("tPPD", 0)) if ("GDDR" in protocol or "LPDDR4" in protocol) else 0
    timing["t32AW"] = int(ini.get("t32AW", 330)) if "GDDR" in protocol else 0
    commands = {
        "ACT": Command(role="activate", bus="row"), "PRE": Command(role="precharge", bus="row"),
        "PREA": Command(role="precharge_all", scope="rank", bus="row"),
        "RD": Command(role="read", bus="column"), "WR": Command(role="write", bus="column"),
        "REF": Command(role="refresh_all", scope="rank", bus="row"),
    }
    group: Level = "bank_group"
    rules = [
        Rule(level="bank", after="ACT", before="RD", wait="tRCD"), Rule(level="bank", after="ACT", before="WR", wait="tRCDWR"),
        Rule(level="bank", after="ACT", before="PRE", wait="tRAS"), Rule(level="bank", after="ACT", before="ACT", wait="tRC"),
        Rule(level="bank", after="PRE", before="ACT", wait="tRP"), Rule(level="bank", after="RD", before="PRE", wait="tRTP"),
        Rule(level="bank", after="WR", before="PRE", wait="tCWL + tBL + tWR"),
        Rule(level="rank", after="PRE", before="REF", wait="tRP"),
        Rule(level="rank", after="REF", before=("ACT", "REF"), wait="tRFC"),
        Rule(level="rank", after="ACT", before="ACT", wait="tRRD_S"),
        Rule(level=group, after="ACT", before="ACT", wait=f"tRRD{suffix}"),
        Rule(level="rank", after="ACT", before="ACT", wait="tFAW", window=4),
        Rule(level="rank", after="RD", before="RD", wait="max(tBL, tCCD_S)"),
        Rule(level="rank", after="WR", before="WR", wait="max(tBL, tCCD_S)"),
        Rule(level=group, after="RD", before="RD", wait=f"max(tBL, tCCD{suffix})"),
        Rule(level=group, after="WR", before="WR", wait=f"max(tBL, tCCD{suffix})"),
        Rule(level="rank", after="RD", before="WR", wait="tCL + tBL - tCWL + tRTRS"),
        Rule(level="rank", after="WR", before="RD", wait="tCWL + tBL + tWTR_S"),
        Rule(level=group, after="WR", before="RD", wait=f"tCWL + tBL + tWTR{suffix}"),
    ]
    if timing["tPPD"]:
        rules.append(Rule(level="rank", after="PRE", before="PRE", wait="tPPD"))
    if timing["t32AW"]:
        rules.append(Rule(level="rank", after="ACT", before="ACT", wait="t32AW", window=32))
    return DramStandard(name=entry["config"], commands=commands, rules=tuple(rules), dual_bus="HBM" in protocol,
                        source="DRAMsim3 2981759, timing.cc")
