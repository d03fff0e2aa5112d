"""How well the calibration holds on rows and on boards that took no part in it.

Over shapes: the rows of every fifth of all shapes are predicted with constants fitted to the other four fifths, in times and in
watts. Over boards: the rows of one board with constants that no row of it took part in. A board whose twin (the same chip under
another name) has rows is left out together with it; what the rows of its siblings do not show is that of the architecture with the
same SMs, and a board alone takes all of the nearest one's, each fitted to that one's rows, as it would ship without it; facts and
prior energies stay its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..arch.gpu_config import Gpu, GpuArchitecture
from .calibrate_gpu import (
    NEAREST,
    SAME_SMS,
    Calibration,
    borrowed,
    completed,
    fit_all,
    is_power,
    predict,
    rows_by_architecture,
    with_priors,
)
from .contract import Row, compare
from .gpu_meter import fit_meter
from .gpu_rows import VECTOR_OPS, RawRow, number

_FOLDS = 5

#: Makes a scored row of a predicted time: (measured row, seconds, board).
Score = Callable[[RawRow, float, Gpu], Row]


def fold_of(row: RawRow) -> int:
    """The fold of a row's shape: the same on every board, so that a shape is never on both sides."""
    columns = ("op", "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len")
    key = "|".join(str(row.get(c) or "") for c in columns)
    return int(hashlib.sha1(key.encode()).hexdigest(), 16) % _FOLDS


def cross_validated(rows: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and watts of each row, from constants fitted to the other folds of shapes. *gpus* have their priors."""
    folds = np.array([fold_of(row) for row in rows])
    seconds, watts = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for fold in sorted(set(folds)):
        others = [row for row, f in zip(rows, folds, strict=True) if f != fold]
        meter = fit_meter(others, gpus)
        fitted = fit_all(others, gpus, meter)
        held = [row for row, f in zip(rows, folds, strict=True) if f == fold]
        seconds[folds == fold], watts[folds == fold] = predict(held, gpus, fitted, meter)
    return seconds, watts


def twin_key(gpu: Gpu) -> tuple[object, ...]:
    """Equal for boards with the same chip and as much memory, however each is called and cooled."""
    device = gpu.device
    return device.architecture, device.sms, device.clock_hz, device.dram_capacity_bytes


def leave_one_device_out(rows: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> np.ndarray:
    """Seconds of each row, from constants that no row of its board or of a twin took part in. *gpus* have their priors."""
    by_architecture = rows_by_architecture(rows, gpus)
    keys = [twin_key(gpus[row["device"]]) for row in rows]
    seconds = np.full(len(rows), np.nan)
    donors: dict[str, GpuArchitecture] = {}
    meter = fit_meter(rows, gpus)               # says what watts were read, and is no constant of a board
    for key in dict.fromkeys(keys):
        places = [i for i, other in enumerate(keys) if other == key]
        board = gpus[rows[places[0]]["device"]]
        name = board.architecture.name
        siblings = [row for row in by_architecture[name] if twin_key(gpus[row["device"]]) != key]
        donor = SAME_SMS.get(name, "") if siblings else NEAREST[name]
        if donor and donor not in donors:
            prior = next(g.architecture for g in gpus.values() if g.architecture.name == donor)
            donors[donor] = Calibration(prior, by_architecture.get(donor, []), gpus, meter).fit()
        if siblings:
            fitted = Calibration(board.architecture, siblings, gpus, meter).fit()
            constants = completed(fitted, siblings, donors.get(donor), by_architecture.get(donor, []))
        else:
            constants = borrowed(board.architecture, donors[donor])
        seconds[places] = predict([rows[i] for i in places], gpus, {name: constants}, meter)[0]
    return seconds


def cross_rows(rows: Sequence[RawRow], gpus: Mapping[str, Gpu], score: Score) -> list[Row]:
    """Scored rows of both: groups `cross:OP` and `cross:power:OP` over shapes, `left-out:OP` over boards."""
    priors = with_priors(gpus)
    seconds, watts = cross_validated(rows, priors)
    left_out = leave_one_device_out(rows, priors)
    result = []
    for i, raw in enumerate(rows):
        gpu = priors[raw["device"]]
        if is_power(raw):
            result.append(compare(raw["row_id"], f"cross:power:{raw['op']}", number(raw, "power_w"), float(watts[i]), 10.0,
                                  device=raw["device"], dtype=raw["dtype"]))
        if number(raw, "power_w") > 0:
            continue
        for name, value in (("cross", seconds[i]), ("left-out", left_out[i])):
            row = score(raw, float(value), gpu)
            result.append(Row(row.case, f"{name}:{raw['op']}", row.expected, row.got, row.error_pct, row.within, None, row.more))
    return result


def kind_of(group: str) -> tuple[str, str]:
    """("cross:" or "left-out:" or "", the operator or "vector") of a group's name."""
    prefix, _, op = group.rpartition(":")
    return (f"{prefix}:" if prefix else ""), "vector" if op in VECTOR_OPS else op
