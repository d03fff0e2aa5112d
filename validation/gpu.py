"""The GPU suite: predicted against measured kernels, collectives, board power and published figures.

`validate` reads any table whose columns it knows, predicts each row and scores it as the contract says: the error is 0 inside
the measured spread, else from its nearer edge; rows whose flag says that no hardware model can know them are skipped with the
flag as reason. Floors (a naive roofline, and one with two constants fitted per board and operator) stand beside our error.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arch.gpu_collectives import OPERATIONS, collective_seconds, link_class
from ..arch.gpu_config import Gpu
from ..sim.errors import ConfigError
from .calibrate_gpu import SKIPPED_FLAGS, calibration_rows
from .calibrate_links import link_of
from .contract import GroupSummary, Row, ValidationResult, compare, skip, summarise_group
from .gpu_cent import CENT_COLUMNS, cent_rows
from .gpu_cent import TABLE as CENT
from .gpu_cent import TOLERANCE_PCT as CENT_TOLERANCE_PCT
from .gpu_cross import cross_rows, kind_of
from .gpu_devices import csv_files, known_gpus
from .gpu_energy import energy_rows
from .gpu_llmcompass import LLMCOMPASS_COLUMNS, llmcompass_rows
from .gpu_micro import micro_rows
from .gpu_power import power_rows
from .gpu_published import PUBLISHED_COLUMNS, published_rows
from .gpu_rows import KERNEL_OPS, MEASURED_COLUMNS, UNPREDICTABLE, VECTOR_OPS, RawRow, lacking, number, predict_kernels, read_table
from .gpu_serving import SERVING_COLUMNS, serving_rows
from .gpu_whole import whole_rows

FLOOR_COLUMNS = {"device", "op", "dtype", "eta2", "t0_us"}
SHIPPED = Path(__file__).resolve().parent / "data" / "gpu_measured.csv"
#: Largest MAPE promised for each operator on calibrated boards (rows of 20 µs and more), and on boards without calibration.
TOLERANCE_PCT = {"gemm": 13.0, "attention_decode": 15.0, "attention_prefill": 20.0, "moe": 30.0,
                 **dict.fromkeys(VECTOR_OPS, 20.0), **dict.fromkeys(OPERATIONS, 25.0)}
UNCALIBRATED_TOLERANCE_PCT = {"gemm": 22.0, "attention_decode": 25.0}
#: What tells rows apart that have no id.
_KEY_COLUMNS = ("device", "dtype", "op", "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len", "ranks")
_SIZES = ((20.0, "lt20us"), (200.0, "20to200us"), (float("inf"), "gt200us"))


def validate(reference: Path | None = None, plots: Path | None = None, *, cross_validate: bool = False) -> ValidationResult:
    """Score every known table under *reference* (our shipped rows without it); plots go to the folder *plots*. *cross_validate*
    also fits anew without the rows and the boards that are predicted (minutes)."""
    gpus = known_gpus(reference)
    tables: dict[str, list[dict[str, str]]] = {}
    for path in csv_files(reference) if reference is not None else [SHIPPED, CENT]:
        tables[path.stem if path.stem not in tables else str(path.with_suffix(""))] = read_table(path)
    if not any(_is_known(set(table[0])) for table in tables.values() if table):
        raise ConfigError("no table of measured or published GPU rows", file=str(reference),
                          mend="see the columns of the suite in the documentation")
    result = score(tables, gpus, cross_validate=cross_validate)
    if plots is not None:
        from .gpu_plots import write_plots
        write_plots(result, plots)
    return result


def _is_known(columns: set[str]) -> bool:
    return any(columns >= known for known in (MEASURED_COLUMNS, LLMCOMPASS_COLUMNS, PUBLISHED_COLUMNS,
                                                 SERVING_COLUMNS, CENT_COLUMNS))


def score(
    tables: Mapping[str, Sequence[dict[str, str]]], gpus: Mapping[str, Gpu], *, cross_validate: bool = False,
) -> ValidationResult:
    """The result for *tables* by stem, each recognised by its columns; unknown tables are passed over."""
    rows: list[Row] = []
    floors: dict[tuple[str, str, str], tuple[float, float]] = {}
    for stem, table in tables.items():
        columns = set(table[0]) if table else set()
        if columns >= FLOOR_COLUMNS:
            floors |= {(r["device"], r["op"], r["dtype"]): (number(r, "t0_us"), number(r, "eta2")) for r in table}
        elif columns >= MEASURED_COLUMNS:
            rows += measured_rows(_with_ids(table), gpus)
        elif columns >= LLMCOMPASS_COLUMNS:
            rows += llmcompass_rows(table, gpus)
        elif columns >= PUBLISHED_COLUMNS:
            rows += published_rows(table, stem, gpus)
        elif columns >= CENT_COLUMNS:
            rows += cent_rows(table)
        elif columns >= SERVING_COLUMNS:
            rows += serving_rows(table, stem, gpus)
    if cross_validate:
        known = [row for row in calibration_rows(tables.values()) if row["device"] in gpus]
        rows += cross_rows(known, gpus, timed_row)
    rows = [with_floor(row, floors) for row in _numbered(rows)]
    return ValidationResult("gpu", tuple(rows), tuple(summarise(rows)))


def _with_ids(table: Sequence[RawRow]) -> list[RawRow]:
    """*table* with an id of its own for each row: the one it has, or all that tells it from others; `#k` behind the k-th of one."""
    times: Counter[str] = Counter()
    named: list[RawRow] = []
    for raw in table:
        own = raw.get("row_id") or "/".join(raw.get(column) or "-" for column in _KEY_COLUMNS)
        times[own] += 1
        named.append({**raw, "row_id": own if times[own] == 1 else f"{own}#{times[own]}"})
    return named


def _numbered(rows: Sequence[Row]) -> list[Row]:
    """*rows* with `#k` behind the k-th of one case and group, from the second on."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for row in rows:
        seen[row.case, row.group] += 1
        times = seen[row.case, row.group]
        numbered.append(row if times == 1 else replace(row, case=f"{row.case}#{times}"))
    return numbered


def measured_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> list[Row]:
    """Scores of one table of measured operators: kernels, collectives, power, micro-benchmarks."""
    rows: list[Row] = []
    kernels: list[RawRow] = []
    reasons = {raw["row_id"]: skip_reason(raw, gpus) for raw in table}
    for raw in table:
        reason = reasons[raw["row_id"]]
        metered = number(raw, "power_w") > 0
        if raw["op"] not in (*KERNEL_OPS, *OPERATIONS) or (metered and raw["op"] in KERNEL_OPS):
            continue
        if reason is not None:
            rows.append(skip(raw["row_id"], raw["op"], _expected_us(raw), reason, **_facts(raw)))
        elif raw["op"] in KERNEL_OPS:
            kernels.append(raw)
        elif raw["op"] in OPERATIONS:
            try:
                row = _collective_row(raw, gpus[raw["device"]])
                rows.append(replace(row, group=f"metered:{raw['op']}") if metered else row)
            except UNPREDICTABLE as error:
                rows.append(skip(raw["row_id"], raw["op"], _expected_us(raw), f"no prediction: {error}", **_facts(raw)))
    for raw, time in zip(kernels, predict_kernels(kernels, gpus.__getitem__), strict=True):
        assert time is not None
        rows.append(timed_row(raw, float(time.seconds[0]), gpus[raw["device"]]))
    rows += whole_rows(table, gpus, reasons) + power_rows(table, gpus, reasons) + energy_rows(table, gpus) + micro_rows(table, gpus)
    scored = {row.case for row in rows}
    return rows + [
        skip(raw["row_id"], raw["op"], _expected_us(raw), reasons[raw["row_id"]] or f"no model of the operator {raw['op']!r}")
        for raw in table if raw["row_id"] not in scored]


def skip_reason(raw: RawRow, gpus: Mapping[str, Gpu]) -> str | None:
    """Why no model can predict *raw*, or None: its flag, or a device that neither we nor the reference describe."""
    flags = [flag for flag in (raw["flag"] or "").split() if flag in SKIPPED_FLAGS]
    if flags:
        return flags[0]
    return lacking(raw) if raw["device"] in gpus else f"no description of the device {raw['device']!r}"


def timed_row(raw: RawRow, seconds: float, gpu: Gpu) -> Row:
    """The score of a predicted time against a measured row."""
    calibrated = gpu.is_calibrated or raw["op"] in OPERATIONS
    group = raw["op"] if calibrated else f"{raw['op']}:uncalibrated"
    tolerance = (TOLERANCE_PCT if calibrated else UNCALIBRATED_TOLERANCE_PCT).get(raw["op"], 30.0)
    low, high = number(raw, "us_lo"), number(raw, "us_hi")
    has_spread = number(raw, "n_meas", 1.0) >= 2 and low > 0 and high > 0
    expected_us = _expected_us(raw)
    return compare(raw["row_id"], group, expected_us, seconds * 1e6, tolerance, low=low if has_spread else None,
                   high=high if has_spread else None, raw_error_pct=100.0 * (seconds * 1e6 - expected_us) / expected_us,
                   naive_us=naive_us(raw, gpu), **_facts(raw))


def naive_us(raw: RawRow, gpu: Gpu) -> float:
    """The roofline: least bytes at the pin rate, or operations at peak, or message over link, whichever is longer."""
    bytes_s = number(raw, "bytes", 0.0) / gpu.device.dram_bandwidth_bytes_per_s
    if raw["op"] in OPERATIONS:
        return 1e6 * number(raw, "bytes", 0.0) / gpu.device.link_bandwidth_bytes_per_s
    return 1e6 * max(bytes_s, number(raw, "flops", 0.0) / gpu.peak_flops_per_s(raw["dtype"] or "bf16"))


def with_floor(row: Row, floors: Mapping[tuple[str, str, str], tuple[float, float]]) -> Row:
    """*row* with the fitted floor's prediction beside ours, when there is a floor for its board, operator and format."""
    key = (str(row.more.get("device")), str(row.more.get("op")), str(row.more.get("dtype")))
    naive = row.more.get("naive_us")
    if key not in floors or not isinstance(naive, float):
        return row
    start_us, efficiency = floors[key]
    return replace(row, more={**row.more, "floor_us": start_us + naive / efficiency})


def summarise(rows: Sequence[Row]) -> list[GroupSummary]:
    """Each row's group, and slices of it: by size, by board and format (with the floors), operators together."""
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[row.group].append(row)
        for name in slices(row):
            members[name].append(row)
    return [summarise_group(name, group, _tolerance(name), _extras(group)) for name, group in members.items()]


def slices(row: Row) -> list[str]:
    """Further groups that count *row*."""
    if row.more.get("held"):
        return [f"{row.group}:held"]
    if row.more.get("op") is None or row.expected is None or not np.isfinite(row.expected):
        return []
    size = next(name for limit, name in _SIZES if row.expected < limit)
    names = [f"{row.group}:{size}", f"{row.group}@{row.more['device']}:{row.more['dtype']}"]
    if row.expected >= _SIZES[0][0]:
        names.append(f"{row.group}:ge20us")
        prefix, kind = kind_of(row.group)
        names += [f"{prefix}vector:ge20us"] if kind == "vector" else ["collectives:ge20us"] if row.group in OPERATIONS else []
        names += [f"left-out@{row.more['device']}:{kind}"] if prefix == "left-out:" else []
    return names


def _tolerance(name: str) -> float | None:
    operator, _, size = name.partition(":")
    kinds = {"vector": 20.0, "collectives": 25.0}
    if name == "gemm:lt20us":
        return 25.0
    if name.endswith(":uncalibrated:ge20us"):
        return UNCALIBRATED_TOLERANCE_PCT.get(operator)
    if name.startswith("power:"):
        return 10.0 if not name.endswith("lt100us") else None
    if name.startswith("llmcompass:"):
        return {"matmul": 10.0, "softmax": 9.0, "layernorm": 8.0, "allreduce": 20.0, "gpt3_layer": 8.0}.get(size)
    if name.startswith("cent:"):
        return None if name.endswith("by_context") else CENT_TOLERANCE_PCT
    if name.startswith("cross:") and name.endswith(":ge20us"):
        return (TOLERANCE_PCT | kinds).get(name.split(":")[1])
    if name in ("e2e_prefill", "e2e_decode") or name.startswith("published:"):
        return 15.0 if name.startswith("e2e") else 12.0
    return (TOLERANCE_PCT | kinds).get(operator) if size == "ge20us" else None


def _extras(rows: Sequence[Row]) -> dict[str, object]:
    """Mean errors without the spread, of the roofline and of the fitted floor, on the same scored rows."""
    extras: dict[str, object] = {}
    for name, of in (("mape_raw_pct", _raw_error_pct), ("naive_mape_pct", _floor_error("naive_us")),
                     ("floor_mape_pct", _floor_error("floor_us"))):
        errors = [abs(e) for e in (of(row) for row in rows if row.skipped is None) if e is not None]
        if errors:
            extras[name] = float(np.mean(errors))
    return extras


def _raw_error_pct(row: Row) -> float | None:
    value = row.more.get("raw_error_pct")
    return value if isinstance(value, float) else None


def _floor_error(field: str) -> Callable[[Row], float | None]:
    def error(row: Row) -> float | None:
        value = row.more.get(field)
        return 100.0 * (value - row.expected) / row.expected if isinstance(value, float) and row.expected else None

    return error


def _collective_row(raw: RawRow, gpu: Gpu) -> Row:
    link = link_class(link_of(raw, gpu))
    seconds = collective_seconds(gpu, raw["op"], number(raw, "bytes"), int(number(raw, "ranks")), link)
    return timed_row(raw, seconds, gpu)


def _expected_us(raw: RawRow) -> float:
    return number(raw, "median_us", 0.0)


def _facts(raw: RawRow) -> dict[str, object]:
    return {"device": raw["device"], "dtype": raw["dtype"], "op": raw["op"]}
