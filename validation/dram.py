"""The DRAM suite: our controllers against two public simulators on small, fully given cases.

``validate_dram`` reads a ``results.csv`` with its ``configs.yaml`` (and ``cmdtrace/``) beside it. Timing, organisation and
the names of traces come from there; the preset named by the peer decides how requests become commands.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..memory import layout as at
from ..memory.address import parse_mapping
from ..memory.controller import PRESETS, ControllerConfig, Replay, replay, tables_for
from ..sim import yaml_reader
from ..sim.errors import ConfigError
from .contract import Row, ValidationResult, compare, skip, summarise
from .dram_configs import ReferenceDevice, read_device
from .dram_energy import energy_rows
from .dram_traces import MAPPING, Geometry, make_trace
from .tables import UNPREDICTABLE, find_tables, reason_of, records

SHIPPED = Path(__file__).parent / "data" / "dram"
MUST_HAVE = ("peer", "config", "kind", "n", "seed", "last_data_cycle")
TOLERANCES_PCT: dict[str, float | None] = {
    "timing": 0.5, "random": 2.5, "scheduler": 5.0, "counts": 1.0, "latency": 5.0, "energy": 5.0, "trace": 10.0,
}
_TIMING = ("hit_rd", "hit_wr", "bgi_rd", "bgi_wr", "rowstride_rd", "rowstride_wr", "chase_conf")
_SCHEDULER = ("seq_rd", "seq_wr", "mix50_seq", "mix67_seq", "bankstride_rd", "bankstride_wr", "pingpong_rd", "chase_hit")
_COMMANDS = 4096                        # more than any trace of 256 requests needs
_LOW_LOAD = 0.25


def group_of(kind: str) -> str:
    """The group in which a trace's drain time is judged."""
    return "timing" if kind in _TIMING else "scheduler" if kind in _SCHEDULER else "random"


def controller_of(peer: str) -> ControllerConfig:
    """The preset that a peer's name means; ``_norefresh`` switches refresh off."""
    base = PRESETS["dramsim3" if peer.startswith("dramsim3") else "ramulator"]
    return base.model_copy(update={"refresh": "none"}) if peer.endswith("_norefresh") else base


class Reference:
    """The devices of one ``configs.yaml`` and replays on them."""

    def __init__(self, configs: Path) -> None:
        document = yaml_reader.parse(yaml_reader.read_text(configs), str(configs))
        self._entries: Mapping[str, Any] = document.value["configs"]
        self.device: Callable[[str, str], ReferenceDevice] = lru_cache(maxsize=None)(self._device)

    def _device(self, peer: str, config: str) -> ReferenceDevice:
        return read_device(self._entries[f"{peer.removesuffix('_norefresh')}/{config}"])

    def entry(self, peer: str, config: str) -> Mapping[str, Any]:
        """The entry as it stands in the file."""
        value: Mapping[str, Any] = self._entries[f"{peer.removesuffix('_norefresh')}/{config}"]
        return value

    def run(
        self, peer: str, config: str, kind: str, count: int, seed: int, *, log_commands: int = 0, run_on: int = 0,
    ) -> Replay:
        """Our replay of a trace under the peer's preset."""
        device = self.device(peer, config)
        trace = make_trace(kind, Geometry.parse(device.geometry), count, seed)
        tables = tables_for(device.standard, device.organisation, device.timing, parse_mapping(MAPPING, device.organisation),
                            controller_of(peer), dependent=trace.dependent)
        # A peer takes what is offered in one cycle into the decision of the next.
        return replay(tables, trace.burst, trace.tick + 1, trace.write, log_commands=log_commands,
                      run_on=run_on)


def validate(reference: Path | None = None) -> ValidationResult:
    """Compare with the shipped tables, or with the results at *reference* (a file or a folder)."""
    result = validate_dram(SHIPPED if reference is None else reference)
    if not result.rows:
        raise ConfigError("no DRAM results here", file=str(reference), allowed=MUST_HAVE,
                          mend="a table is a CSV file with these columns, and configs.yaml beside it")
    return result


def validate_dram(path: Path, progress: Callable[[str], None] | None = None) -> ValidationResult:
    """Compare with every ``results.csv``-like file in or at *path* (recognised by its columns)."""
    rows: list[Row] = []
    for results in find_tables(path, MUST_HAVE, "DRAM results"):
        if not (results.parent / "configs.yaml").is_file():
            continue
        reference = Reference(results.parent / "configs.yaml")
        for number, line in records(results):
            rows.extend(_line_rows(reference, line, f"{results.name}:{number}"))
            if progress:
                progress(f"{line['peer']}/{line['config']}/{line['kind']}")
        rows.extend(_compare_traces(reference, results.parent / "cmdtrace"))
    return ValidationResult("dram", tuple(rows), tuple(summarise(rows, TOLERANCES_PCT)))


def _line_rows(reference: Reference, line: Mapping[str, str], place: str) -> list[Row]:
    """What one line gives; a line that makes no sense is skipped alone, with its reason."""
    try:
        return list(_compare_line(reference, line))
    except UNPREDICTABLE as error:
        case = f"{line['peer']}/{line['config']}/{line['kind']}/last_data_cycle"
        return [skip(case, group_of(line["kind"]), None, f"{place}: cannot be predicted: {reason_of(error)}")]


def _number(text: str | None) -> float | None:
    return float(text) if text not in (None, "") else None


def _compare_line(reference: Reference, line: Mapping[str, str]) -> Iterator[Row]:
    """Every figure of one row of results."""
    peer, config, kind = line["peer"], line["config"], line["kind"]
    case = f"{peer}/{config}/{kind}"
    try:
        # Some peers were run on for a while after the last request; their counts cover it.
        got = reference.run(peer, config, kind, int(line["n"]), int(line["seed"]), run_on=_run_on(line))
    except KeyError as error:
        yield skip(f"{case}/last_data_cycle", group_of(kind), _number(line["last_data_cycle"]), f"configs.yaml lacks {error}")
        return
    yield _drain_time(line, f"{case}/last_data_cycle", kind, got)
    yield from _counts(line, case, got)
    latency, load = _number(line.get("avg_read_latency_cycles")), _load(reference, peer, config, kind)
    if latency and load is not None and load <= _LOW_LOAD:
        yield compare(f"{case}/avg_read_latency_cycles", "latency", latency, got.average_read_latency, 5.0)
    yield from energy_rows(reference.entry(peer, config), line, case, got, _run_on(line))


def _run_on(line: Mapping[str, str]) -> int:
    """Cycles that the peer ran on after its last data: stated by one, seen in the refresh counts of the other (94 to 188)."""
    ticks = _number(line.get("ticks"))
    return 128 if ticks is None else max(0, int(ticks) - int(line["last_data_cycle"]))


def _drain_time(line: Mapping[str, str], case: str, kind: str, got: Replay) -> Row:
    expected, group = float(line["last_data_cycle"]), group_of(kind)
    row = compare(case, group, expected, got.last_data_cycle, TOLERANCES_PCT[group] or 0.0)
    if group != "scheduler":
        return row
    # Where the scheduler decides, any time between what timing demands and a little more than the peer's is right.
    suffix = "norefresh" if line["peer"].endswith("_norefresh") else "refresh"
    bound = _number(line.get(f"analytic_cycles_{suffix}")) or 0.0
    within = min(bound, expected) * 0.995 <= got.last_data_cycle <= 1.05 * expected
    return Row(row.case, group, row.expected, row.got, row.error_pct, within, None, {"lower_bound": bound})


def _counts(line: Mapping[str, str], case: str, got: Replay) -> Iterator[Row]:
    """Commands by kind: within 1 % or 2; refreshes within 1."""
    counts = got.command_counts
    ours = {
        "act": counts.get("ACT", counts.get("ACT1", 0)),
        "pre": sum(counts.get(name, 0) for name in ("PRE", "PREpb", "PREab", "PREA")),
        "rd_cmds": counts.get("RD", 0), "wr_cmds": counts.get("WR", 0), "ref": counts.get("REF", counts.get("REFab", 0)),
    }
    for name, value in ours.items():
        expected = _number(line.get(name))
        if expected is None:
            continue
        if name == "pre":
            expected += _number(line.get("pre_all")) or 0.0
        row = compare(f"{case}/{name}", "counts", expected, value, 1.0)
        slack = 1 if name == "ref" else 2
        yield Row(row.case, row.group, row.expected, row.got, row.error_pct, row.within or abs(value - expected) <= slack)


def _load(reference: Reference, peer: str, config: str, kind: str) -> float | None:
    """Offered share of the data bus of a paced trace, None for others."""
    if not kind.startswith("paced_"):
        return None
    organisation = reference.entry(peer, config)["org"]
    interval = int(kind.split("_")[2])
    return float(organisation["burst_cycles"]) / (interval * int(organisation.get("pseudo_channels", 1)))


def _compare_traces(reference: Reference, folder: Path) -> Iterator[Row]:
    """For each command trace: the share of its commands that we issue alike in kind, bank, row and clock."""
    index = folder / "index.csv"
    if not index.is_file():
        return
    with index.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            peer, config, kind = line["peer"], line["config"], line["kind"]
            with (folder / line["file"]).open(encoding="utf-8", newline="") as commands:
                wanted = [_command_key(reference.device(peer, config), command) for command in csv.DictReader(commands)]
            got = _our_commands(reference, peer, config, kind, int(line["requests"]))
            agreed = 100.0 * sum(key in got for key in wanted) / max(1, len(wanted))
            row = compare(f"{peer}/{config}/{kind}/trace", "trace", 100.0, agreed, 10.0)
            yield Row(row.case, row.group, 100.0, agreed, row.error_pct, agreed >= 90.0)


def _command_key(device: ReferenceDevice, line: Mapping[str, str]) -> tuple[int, str, int, int]:
    o = device.organisation
    pc, sid, bg, ba = (max(0, int(line[name])) for name in ("pc", "sid", "bg", "ba"))
    kind = line["cmd"]
    if device.standard.commands[kind].scope != "bank":
        sid, bg, ba = 0, 0, 0
    bank = ((pc * o.stack_ids + sid) * o.bank_groups + bg) * o.banks_per_group + ba
    has_row = device.standard.commands[kind].role in ("activate", "activate_2", "read", "write")
    return int(line["cycle"]), kind, bank, int(line["row"]) if has_row else -1


def _our_commands(reference: Reference, peer: str, config: str, kind: str, count: int) -> set[tuple[int, str, int, int]]:
    device = reference.device(peer, config)
    log = reference.run(peer, config, kind, count, 1, log_commands=_COMMANDS).log
    commands = tuple(device.standard.commands)
    roles = [device.standard.commands[name].role in ("activate", "activate_2", "read", "write") for name in commands]
    return {(int(e[at.L_CYCLE]), commands[e[at.L_COMMAND]], int(e[at.L_BANK]), int(e[at.L_ROW]) if roles[e[at.L_COMMAND]] else -1)
            for e in log}
