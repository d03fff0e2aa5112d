"""Fits the constants of each link class to measured collectives: launch, hop, efficiency, ramp, in-switch and host shares.

    python -m tilesim.validation.calibrate_links REFERENCE [--write]

Same loss and search as `calibrate_gpu`; the priors stand here, so that a rerun ends alike.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arch.gpu_collectives import ONE_SHOT_MOST_BYTES, OPERATIONS, LinkClass, collective_seconds, link_class, one_shot_seconds
from ..arch.gpu_config import DEVICE_FOLDER, Gpu, shipped_gpus
from .calibrate_gpu import SKIPPED_FLAGS, row_loss, scored_error
from .gpu_rows import MEASURED_COLUMNS, RawRow, note, number, read_table

#: Starting point and prior: (launch µs, hop µs, efficiency, ramp bytes, in-switch efficiency, host share).
#: ASSUMED from NCCL's own tuning tables (4–8 µs base, 1–4 µs a hop, 75–85 % of the wire); rows move them.
PRIORS: dict[str, tuple[float, float, float, float, float, float]] = {
    "nvlink3": (6.0, 1.5, 0.75, 1e6, 1.0, 1.0),
    "nvlink4": (4.0, 1.2, 0.80, 1e6, 0.62, 1.0),
    "nvlink5": (5.0, 1.2, 0.70, 1e6, 0.50, 1.0),
    "nvlink3-pairs": (6.0, 1.5, 0.75, 1e6, 1.0, 1.0),
    "nvlink4-pairs": (4.0, 1.2, 0.80, 1e6, 1.0, 1.0),
    "pcie5": (7.0, 3.0, 0.70, 1e5, 1.0, 0.60),
    "pcie4-switched": (10.0, 4.0, 0.80, 1e5, 1.0, 1.0),
    "pcie5-switched": (10.0, 4.0, 0.80, 1e5, 1.0, 1.0),
    "pcie4-staged": (4.0, 4.0, 0.15, 1e5, 1.0, 1.0),
}
FIELDS = ("launch_us", "hop_us", "efficiency", "ramp_bytes", "in_switch_efficiency", "host_share")
#: An engine's own all-reduce kernel: (µs to start, efficiency), where the class has one. ASSUMED a launch and a flag, and half of
#: the wire for plain loads; fitted to rows whose notes name such a kernel, as the others are to rows of the vendor's library.
ONE_SHOT_PRIOR, ONE_SHOT_FIELDS, ONE_SHOT_NOTE = (4.0, 0.5), ("one_shot_us", "one_shot_efficiency"), "custom all-reduce"
_SHARES = {"one_shot_efficiency", "efficiency", "in_switch_efficiency", "host_share"}
#: Classes that no row shows take the constants of one that is shown.
_KIN = {"pcie5": ("pcie4", "pcie3"), "nvlink3": ("nvlink2", "nvlink3-bridge"), "nvlink4": ("nvlink4-bridge",)}
#: Spread of each prior in ln.
_PRIOR_LN = {"launch_us": 0.7, "hop_us": 0.7, "efficiency": 0.3, "ramp_bytes": 1.5, "in_switch_efficiency": 0.5, "host_share": 0.5,
             "one_shot_us": 0.5, "one_shot_efficiency": 0.3}
_STEPS = (2.0, 1.4, 1.15, 1.05)


def link_of(row: RawRow, gpu: Gpu) -> str:
    """The link class of a row: the board's, or the pairwise bridges that its notes tell of."""
    is_pairwise = gpu.device.link in ("nvlink3", "nvlink4") and "pairwise" in (note(row, "net") or "")
    return f"{gpu.device.link}-pairs" if is_pairwise else gpu.device.link


def effective_link(row: RawRow, gpu: Gpu) -> str:
    """The class whose constants the row shows: beyond a pair, bridges give way to the host's links."""
    name = link_of(row, gpu)
    beyond = link_class(name).beyond_pairs
    return beyond if beyond is not None and number(row, "ranks") > 2 else name


def shows_one_shot(row: RawRow, gpu: Gpu) -> bool:
    """Whether the row times an engine's own kernel; larger messages of such a run went through the vendor's library."""
    return (ONE_SHOT_NOTE in (row.get("extra") or "") and number(row, "bytes") <= ONE_SHOT_MOST_BYTES
            and link_class(effective_link(row, gpu)).one_shot_us is not None)


def predict(row: RawRow, gpu: Gpu, link: LinkClass) -> float:
    """Seconds of the kernel that the row times."""
    if shows_one_shot(row, gpu):
        return one_shot_seconds(gpu, number(row, "bytes"), int(number(row, "ranks")), link)
    gpu = replace(gpu, library=gpu.library.model_copy(update={"one_shot_allreduce": False}))
    return collective_seconds(gpu, row["op"], number(row, "bytes"), int(number(row, "ranks")), link)


def read_rows(reference: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for path in sorted(reference.glob("*.csv")):
        table = read_table(path)
        if table and set(table[0]) >= MEASURED_COLUMNS:
            rows += [r for r in table if r["op"] in OPERATIONS and not set((r["flag"] or "").split()) & set(SKIPPED_FLAGS)]
    return rows


def fit(prior: LinkClass, rows: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> LinkClass:
    """The link class fitted to *rows*."""
    fields = FIELDS + (ONE_SHOT_FIELDS if prior.one_shot_us else ())

    def loss(link: LinkClass) -> float:
        seconds = np.array([predict(row, gpus[row["device"]], link) for row in rows])
        fitted = float(np.mean(row_loss(rows, seconds, np.ones(len(rows)))))
        return fitted + float(sum(0.01 * (np.log(getattr(link, f) / getattr(prior, f)) / _PRIOR_LN[f]) ** 2 for f in fields))

    best, lowest = prior, loss(prior)
    for step in _STEPS:
        for _ in range(3):
            for field in fields:
                for factor in (step, 1.0 / step):
                    value = getattr(best, field) * factor
                    trial = best.model_copy(update={field: min(value, 1.0) if field in _SHARES else value})
                    if (error := loss(trial)) < lowest - 1e-6:
                        best, lowest = trial, error
    return best


def fit_all(rows: Iterable[RawRow], gpus: Mapping[str, Gpu]) -> dict[str, LinkClass]:
    groups: dict[str, list[RawRow]] = defaultdict(list)
    for row in rows:
        groups[effective_link(row, gpus[row["device"]])].append(row)
    return {name: fit(prior_of(name), members, gpus) for name, members in sorted(groups.items()) if name in PRIORS}


def prior_of(name: str) -> LinkClass:
    """The class with its constants back at their priors."""
    link = link_class(name)
    update: dict[str, float] = dict(zip(FIELDS, PRIORS[name], strict=True))
    if link.one_shot_us is not None:
        update |= dict(zip(ONE_SHOT_FIELDS, ONE_SHOT_PRIOR, strict=True))
    return link.model_copy(update=update)


def write(name: str, link: LinkClass) -> None:
    path = DEVICE_FOLDER / "links" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    for kin in _KIN.get(name, ()):
        write(kin, link)
    for field in FIELDS + (ONE_SHOT_FIELDS if link.one_shot_us else ()):
        text = re.sub(rf"^{field}: .*$", f"{field}: {getattr(link, field):.4g}", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="calibrate_links", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    gpus = shipped_gpus()
    rows = [row for row in read_rows(options.reference) if row["device"] in gpus]
    for name, link in fit_all(rows, gpus).items():
        members = [row for row in rows if effective_link(row, gpus[row["device"]]) == name]
        shown = ", ".join(f"{f} {getattr(link, f):.3g}" for f in FIELDS + (ONE_SHOT_FIELDS if link.one_shot_us else ()))
        errors = [abs(scored_error(r, predict(r, gpus[r["device"]], link))) for r in members if number(r, "median_us") >= 20]
        sys.stdout.write(f"{name}: {len(errors)} rows of 20 µs and more, MAPE {100 * np.mean(errors):.1f} %, median "
                         f"{100 * np.median(errors):.1f} %  {shown}\n")
        if options.write:
            write(name, link)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
