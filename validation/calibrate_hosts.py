"""Fits the host constants of frameworks (`gpu_hosts`) to half of the rows that show each, and scores them on the other half.

    python -m tilesim.validation.calibrate_hosts REFERENCE [--write]

Each constant is the one with the least mean |ln(predicted/measured)| over its calibration rows, on a grid of 2 % steps; the
kernels are those of the shipped calibration. Deterministic: a rerun gives the same file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arch.gpu_config import Gpu
from .gpu_devices import csv_files, known_gpus
from .gpu_hosts import HOST_SPEED, HOSTS_FILE, is_held, vllm_2023_sequence_us
from .gpu_llmcompass import LLMCOMPASS_COLUMNS, host_field, kernel_s, shape_key
from .gpu_models import Engine, with_host
from .gpu_rows import MEASURED_COLUMNS, RawRow, number, read_table
from .gpu_whole import device_pass

_GRID_US = tuple(2.0 * 1.02**step for step in range(330))        # 2 µs to 1350 µs


@dataclass(frozen=True, slots=True)
class Shown:
    """One row that shows a constant: its seconds as a function of the constant in µs, and what was measured."""

    predict: Callable[[float], float]
    measured_s: float
    held: bool


def rows_by_constant(reference: Path) -> dict[str, list[Shown]]:
    """The rows under *reference* that show each constant."""
    gpus = known_gpus(reference)
    shown: dict[str, list[Shown]] = defaultdict(list)
    for path in csv_files(reference):
        table = read_table(path)
        columns = set(table[0]) if table else set()
        if columns >= LLMCOMPASS_COLUMNS:
            for raw in table:
                field, device_s = host_field(raw), kernel_s(raw, gpus)
                if field is not None and device_s is not None:
                    shown[field].append(Shown(_call(device_s), number(raw, "measured_s"), is_held(shape_key(raw))))
        elif columns >= MEASURED_COLUMNS:
            for op, field in (("e2e_decode", "vllm_2023_layer_us"), ("e2e_prefill", "vllm_2023_prompt_layer_us")):
                shown[field] += [_step(raw, gpus) for raw in table if raw["op"] == op and not raw["flag"]
                                 and not number(raw, "power_w") > 0 and raw["device"] in gpus]
    return {field: rows for field, rows in shown.items() if rows}


def _call(device_s: float) -> Callable[[float], float]:
    return lambda host_us: device_s + host_us * 1e-6


def _step(raw: RawRow, gpus: Mapping[str, Gpu]) -> Shown:
    gpu = gpus[raw["device"]]
    ran = device_pass(raw, gpu)
    sequences_s = int(number(raw, "batch")) * vllm_2023_sequence_us(int(number(raw, "ranks", 1.0))) * 1e-6
    slower = HOST_SPEED.get(gpu.name, 1.0)

    def predict(host_us: float) -> float:
        layers_s = ran.layers * host_us / slower * 1e-6
        return with_host(ran.device_s, layers_s, Engine(host_us, "eager"), is_decode=raw["op"] == "e2e_decode") + sequences_s

    return Shown(predict, number(raw, "median_us") * 1e-6, is_held(raw["row_id"]))


def mean_error(rows: Sequence[Shown], value: float) -> float:
    return float(np.mean([abs(np.log(row.predict(value) / row.measured_s)) for row in rows]))


def fit(rows: Sequence[Shown]) -> float:
    """The constant of least error on the rows that are not held."""
    chosen = [row for row in rows if not row.held]
    return min(_GRID_US, key=lambda value: mean_error(chosen, value))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="calibrate_hosts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--write", action="store_true", help="write the constants into data/gpu_hosts.yaml")
    options = parser.parse_args(arguments)
    text = HOSTS_FILE.read_text(encoding="utf-8")
    for field, rows in sorted(rows_by_constant(options.reference).items()):
        value = fit(rows)
        held = [row for row in rows if row.held]
        errors = [100.0 * mean_error(part, value) for part in ([row for row in rows if not row.held], held) if part]
        sys.stdout.write(f"{field}: {value:.3g} µs; mean |ln| {errors[0]:.1f} % on {len(rows) - len(held)} rows of the fit"
                         + (f", {errors[-1]:.1f} % on {len(held)} others\n" if held else "\n"))
        text = re.sub(rf"^{field}: .*$", f"{field}: {value:.3g}", text, flags=re.MULTILINE)
    if options.write:
        HOSTS_FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
