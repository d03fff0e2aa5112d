"""Fits the calibrated constants of each GPU architecture to measured rows, and says how well they hold elsewhere.

    python -m tilesim.validation.calibrate_gpu REFERENCE [--write] [--check] [--ablate]

Per architecture, never per row or per board. The loss is the mean absolute logarithm of predicted over measured time (a row
counts 0 inside its measured spread, plus a quarter of its distance from the median, so that the fit does not hide at an edge
of the spread), capped so that a few odd rows do not steer, plus a prior that holds each constant near its physical guess.
The search is a coordinate search in the logarithm with shrinking steps: deterministic, no randomness, same result each time.
`tilesim validate gpu --cross-validate` says how well the constants hold on rows and boards that took no part (`gpu_cross`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..arch.gpu_config import DEVICE_FOLDER, Gpu, GpuArchitecture, shipped_gpus
from ..sim import yaml_reader
from .gpu_meter import METER_FILE, SCORED_FROM_US, Meter, fit_meter, meter_text, metered_w
from .gpu_rows import KERNEL_OPS, MEASURED_COLUMNS, RawRow, lacking, number, predict_group, read_table, split_by

#: Flags of rows that no hardware model should be fitted to (contract of `tilesim validate`).
SKIPPED_FLAGS = ("launch_overhead", "coarse_1us", "active_experts_uncertain", "extrapolated_from_one_layer")
#: Beyond this |ln(predicted/measured)| a row pulls no harder.
_LOSS_CAP = 0.7
#: Weight of the distance from the median inside the measured spread.
_MEDIAN_WEIGHT = 0.25
#: A power reading weighs as two times: there are few, and only they tell a slow main loop from a lowered clock.
_POWER_WEIGHT = 2.0
#: Rows below 20 µs are nearly all overhead: they weigh half.
_SHORT_ROW_US, _SHORT_ROW_WEIGHT = 20.0, 0.5
#: Rows that the prior of a constant weighs as much as, one spread away from it.
_PRIOR_ROWS = 0.5
_STEPS = (2.5, 1.5, 1.2, 1.08, 1.03)
_SWEEPS_PER_STEP = 2
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fitted constant: its field (and key), the rows that show it, and the spread of its prior (in ln)."""

    field: str
    key: str | None
    ops: tuple[str, ...]
    dtypes: tuple[str, ...] = ()            # empty: all formats
    prior_ln: float = 0.5
    low: float = 1e-3
    high: float = 1e4
    measured_on: tuple[str, ...] = ()       # architectures whose prior is a measurement of this very constant: not fitted

    @property
    def name(self) -> str:
        return self.field if self.key is None else f"{self.field}.{self.key}"

    def get(self, architecture: GpuArchitecture) -> float | None:
        value = getattr(architecture, self.field)
        found: float | None = value.get(self.key) if self.key is not None else value
        return found

    def is_shown_by(self, rows: Iterable[RawRow]) -> bool:
        """Whether a row among *rows* depends on the constant."""
        return any(row["op"] in self.ops and (not self.dtypes or row["dtype"] in self.dtypes) for row in rows)

    def set(self, architecture: GpuArchitecture, value: float) -> GpuArchitecture:
        if self.key is None:
            return architecture.model_copy(update={self.field: value})
        return architecture.model_copy(update={self.field: getattr(architecture, self.field) | {self.key: value}})


_HALF = ("fp16", "bf16")
_VECTOR = ("rmsnorm", "add_rmsnorm", "layernorm", "softmax", "activation", "rope", "add", "embed")
PARAMETERS = (
    Parameter("launch_us", None, ("gemm",), measured_on=("cdna1", "cdna2")),      # periods of small kernels
    Parameter("matmul_efficiency", "fp16", ("gemm",), _HALF, 0.05, high=1.0),
    # A power limit hides this rate (T4 errs alike at 0.72 and 0.83); 0.1 was taken of 0.1 and 0.3 for the boards left out.
    Parameter("matmul_efficiency", "fp32", ("gemm",), ("fp32",), 0.1, high=1.0),
    Parameter("matmul_efficiency", "fp8", ("gemm",), ("fp8",), 0.3, high=1.0),
    Parameter("matmul_efficiency", "fp8_block", ("gemm",), ("fp8_block",), 0.3, high=1.0),
    Parameter("matmul_efficiency", "nvfp4", ("gemm",), ("nvfp4",), 0.3, high=1.0),
    Parameter("load_latency_us", None, ("gemm",)),
    Parameter("split_k_us", None, ("gemm",)),
    Parameter("warm_share", None, ("gemm", *_VECTOR), (), 0.1, high=1.0),       # the cache curves of gpu-benches show it
    Parameter("warm_weight_share", None, ("gemm",), (), 1.0, high=1.0),
    Parameter("quantise_us", "fp8", ("gemm",), ("fp8",)),
    Parameter("quantise_us", "fp8_block", ("gemm",), ("fp8_block",)),
    Parameter("quantise_us", "nvfp4", ("gemm",), ("nvfp4",)),
    Parameter("pj_per_flop", "fp32", ("gemm",), ("fp32",), 0.3, measured_on=("ampere", "hopper")),   # FMA sweeps
    Parameter("pj_per_flop", "fp16", ("gemm",), _HALF, 0.3),
    Parameter("pj_per_flop", "fp8", ("gemm",), ("fp8", "fp8_block"), 0.3),
    Parameter("pj_per_flop", "fp4", ("gemm",), ("nvfp4",), 0.3),
    Parameter("pj_per_dram_byte", None, ("gemm", "attention_decode"), (), 0.3, measured_on=("ampere", "hopper")),
    Parameter("pj_per_score", None, ("attention_prefill",), (), 0.7),
    Parameter("decode_launch_us", None, ("attention_decode",)),
    Parameter("decode_cta_us", None, ("attention_decode",)),
    Parameter("decode_stream", None, ("attention_decode",), (), 0.15, high=1.0),
    Parameter("decode_block_gb_per_s", None, ("attention_decode",)),
    Parameter("prefill_launch_us", None, ("attention_prefill",)),
    Parameter("prefill_cta_us", None, ("attention_prefill",)),
    Parameter("prefill_issue_flops_per_cycle", None, ("attention_prefill",), (), 0.3, high=1e6),
    Parameter("softmax_overlap", None, ("attention_prefill",), (), 0.5, low=0.02, high=1.0),
    Parameter("vector_launch_us", None, _VECTOR),
    Parameter("vector_stream", None, _VECTOR, (), 0.15, high=1.0),
    Parameter("vector_l2_share", None, _VECTOR, (), 0.5, high=1.0),
    Parameter("moe_launch_us", None, ("moe",)),
    Parameter("moe_efficiency", None, ("moe",), (), 0.5, high=1.0),
    Parameter("moe_stream", None, ("moe",), (), 0.2, high=1.0),
)
#: An architecture without rows takes the constants of this one (also used to leave out an architecture's only board).
NEAREST = {"pascal": "volta", "volta": "turing", "turing": "volta", "ampere": "ampere-ga102", "ampere-ga102": "ada",
           "ampere-orin": "ampere", "ada": "blackwell-rtx", "blackwell-rtx": "ada", "hopper": "blackwell",
           "blackwell": "hopper", "cdna1": "cdna2", "cdna2": "cdna1", "cdna3": "cdna2", "cdna4": "cdna2", "rdna2": "cdna2"}
#: Architectures whose SMs have the lanes and the matrix rates of another's: what no row of the one shows is that of the other.
SAME_SMS = {"ada": "blackwell-rtx", "blackwell-rtx": "ada", "ampere-ga102": "ada", "turing": "volta", "volta": "turing",
            "cdna1": "cdna2", "cdna2": "cdna1"}


PRIORS = Path(__file__).resolve().parent / "data" / "gpu_priors.yaml"


def with_priors(gpus: Mapping[str, Gpu]) -> dict[str, Gpu]:
    """*gpus* with every calibrated constant back at its prior: where each calibration starts, so that it always ends alike."""
    document = yaml_reader.parse(yaml_reader.read_text(PRIORS), str(PRIORS))
    architectures: dict[str, GpuArchitecture] = {}
    for gpu in gpus.values():
        architecture = gpu.architecture
        if architecture.name in architectures:
            continue
        for parameter in PARAMETERS:
            value = document.value.get(architecture.name, {}).get(parameter.name)
            if value is not None:
                architecture = parameter.set(architecture, float(value))
        architectures[architecture.name] = architecture
    return {name: replace(gpu, architecture=architectures[gpu.architecture.name]) for name, gpu in gpus.items()}


def read_reference(reference: Path) -> list[dict[str, str]]:
    """Calibration rows of the tables in the folder *reference*."""
    return calibration_rows(read_table(path) for path in sorted(reference.glob("*.csv")))


def calibration_rows(tables: Iterable[Sequence[dict[str, str]]]) -> list[dict[str, str]]:
    """Kernel times, and power readings of kernels, of *tables*, without the rows whose flag says that no model should be fitted."""
    rows = [row for table in tables if table and set(table[0]) >= MEASURED_COLUMNS for row in table
            if row["op"] in KERNEL_OPS and number(row, "median_us") > 0]
    return [row for row in rows if not set((row["flag"] or "").split()) & set(SKIPPED_FLAGS) and lacking(row) is None]


def is_power(row: RawRow) -> bool:
    return number(row, "power_w") > 0 and number(row, "median_us", 0.0) >= SCORED_FROM_US


def row_loss(rows: Sequence[RawRow], seconds: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """The loss of each row: |ln| outside its spread, and a part of |ln| to its median."""
    median = np.array([number(r, "median_us") for r in rows]) * 1e-6
    spread = np.array([number(r, "n_meas", 1.0) >= 2 for r in rows])
    low = np.array([number(r, "us_lo") for r in rows]) * 1e-6
    high = np.array([number(r, "us_hi") for r in rows]) * 1e-6
    low, high = np.where(spread & (low > 0), low, median), np.where(spread & (high > 0), high, median)
    outside = np.abs(np.log(seconds / np.clip(seconds, low, high)))
    loss = np.minimum(outside, _LOSS_CAP) + _MEDIAN_WEIGHT * np.minimum(np.abs(np.log(seconds / median)), _LOSS_CAP)
    loss = loss * np.where(median < _SHORT_ROW_US * 1e-6, _SHORT_ROW_WEIGHT, 1.0)
    measured_w = np.array([number(r, "power_w") if is_power(r) else float("nan") for r in rows])
    watts = np.minimum(np.abs(np.log(power_w / measured_w)), _LOSS_CAP)
    return np.asarray(loss + _POWER_WEIGHT * np.where(np.isnan(watts), 0.0, watts))


class Calibration:
    """The rows of one architecture, grouped for evaluation, and the search over its constants."""

    def __init__(self, architecture: GpuArchitecture, rows: Sequence[RawRow], gpus: Mapping[str, Gpu], meter: Meter) -> None:
        self.prior = architecture
        self.rows = rows
        self.meter = meter
        self.groups = [(gpus[device], op, dtype, members)
                       for (device, op, dtype), members in split_by(rows, "device", "op", "dtype").items()]

    def loss(self, architecture: GpuArchitecture, parameter: Parameter | None = None) -> float:
        """Mean loss over the rows that show *parameter* (all rows without it) and the priors."""
        losses = [
            row_loss(members, time.seconds, metered_w(gpu, time, members, self.meter))
            for gpu, op, dtype, members in self.groups
            if parameter is None or (op in parameter.ops and (not parameter.dtypes or dtype in parameter.dtypes))
            for time in [predict_group(replace(gpu, architecture=architecture), op, dtype, members)]
        ]
        return float(np.mean(np.concatenate(losses))) if losses else 0.0

    def _penalty(self, parameter: Parameter, value: float) -> float:
        """The prior's part of the mean loss: worth `_PRIOR_ROWS` rows, so a constant that few rows show stays near its guess."""
        prior = parameter.get(self.prior)
        if not prior:
            return 0.0
        count = sum(row["op"] in parameter.ops and (not parameter.dtypes or row["dtype"] in parameter.dtypes) for row in self.rows)
        return float(_PRIOR_ROWS / max(count, 1) * (np.log(value / prior) / parameter.prior_ln) ** 2)

    def fit(self) -> GpuArchitecture:
        """The architecture with its shown constants fitted; a constant that no row shows keeps its prior."""
        best = self.prior
        shown = [p for p in PARAMETERS if p.get(best) is not None and best.name not in p.measured_on and p.is_shown_by(self.rows)]
        for step in _STEPS:
            for _ in range(_SWEEPS_PER_STEP):
                for parameter in shown:
                    best = self._search(best, parameter, step)
        return best

    def _search(self, best: GpuArchitecture, parameter: Parameter, step: float) -> GpuArchitecture:
        """Walk one constant up or down by *step* while the loss of its rows falls."""
        start = parameter.get(best)
        assert start is not None
        current, lowest = start, self.loss(best, parameter) + self._penalty(parameter, start)
        for factor in (step, 1.0 / step):
            moved = False
            while True:
                value = float(np.clip(current * factor, parameter.low, parameter.high))
                if value == current:
                    break
                trial = parameter.set(best, value)
                loss = self.loss(trial, parameter) + self._penalty(parameter, value)
                if loss >= lowest - 1e-6:
                    break
                best, current, lowest, moved = trial, value, loss, True
            if moved:
                break
        return best


def rows_by_architecture(rows: Iterable[RawRow], gpus: Mapping[str, Gpu]) -> dict[str, list[RawRow]]:
    result: dict[str, list[RawRow]] = defaultdict(list)
    for row in rows:
        if row["device"] in gpus:
            result[gpus[row["device"]].architecture.name].append(row)
    return dict(result)


def fit_all(rows: Sequence[RawRow], gpus: Mapping[str, Gpu], meter: Meter) -> dict[str, GpuArchitecture]:
    """Every architecture that has rows, fitted to them; what they do not show is that of the one with the same SMs."""
    by_architecture = rows_by_architecture(rows, gpus)
    fitted = {}
    for name, members in by_architecture.items():
        prior = next(g.architecture for g in gpus.values() if g.architecture.name == name)
        fitted[name] = Calibration(prior, members, gpus, meter).fit()
    kin = {name: SAME_SMS.get(name, "") for name in fitted}
    return {name: completed(architecture, by_architecture[name], fitted.get(kin[name]), by_architecture.get(kin[name], []))
            for name, architecture in fitted.items()}


def completed(
    architecture: GpuArchitecture, rows: Sequence[RawRow], donor: GpuArchitecture | None, donor_rows: Sequence[RawRow],
) -> GpuArchitecture:
    """*architecture* with the *donor*'s value of each constant that *rows* do not show and *donor_rows* do: one library's kernels
    run on both. Energies stay its own."""
    result = architecture
    for parameter in PARAMETERS:
        if donor is None or parameter.field.startswith("pj_") or architecture.name in parameter.measured_on:
            continue
        value = parameter.get(donor)
        if value is not None and parameter.get(result) is not None and not parameter.is_shown_by(rows) and (
                parameter.is_shown_by(donor_rows)):
            result = parameter.set(result, value)
    return result


def predict(
    rows: Sequence[RawRow], gpus: Mapping[str, Gpu], architectures: Mapping[str, GpuArchitecture], meter: Meter,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and metered watts of *rows* with other constants for the architectures in *architectures*."""
    index = {id(row): i for i, row in enumerate(rows)}
    seconds, watts = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for (device, op, dtype), members in split_by(rows, "device", "op", "dtype").items():
        gpu = gpus[device]
        gpu = replace(gpu, architecture=architectures.get(gpu.architecture.name, gpu.architecture))
        places, time = [index[id(row)] for row in members], predict_group(gpu, op, dtype, members)
        seconds[places], watts[places] = time.seconds, metered_w(gpu, time, members, meter)
    return seconds, watts


def borrowed(architecture: GpuArchitecture, donor: GpuArchitecture) -> GpuArchitecture:
    """*architecture* with its facts and energies, and the other calibrated constants of *donor*, where the donor has them."""
    result = architecture
    for parameter in PARAMETERS:
        if parameter.field.startswith("pj_"):
            continue
        value = parameter.get(donor)
        if value is not None and parameter.get(architecture) is not None:
            result = parameter.set(result, value)
    return result


def calibrated_text(text: str, architecture: GpuArchitecture, devices: Iterable[str]) -> str:
    """*text*, an architecture's YAML, with the calibrated values replaced; facts and comments stay as they are."""
    for field in dict.fromkeys(p.field for p in PARAMETERS):
        value = getattr(architecture, field)
        shown = "{" + ", ".join(f"{k}: {v:.4g}" for k, v in value.items()) + "}" if isinstance(value, dict) else f"{value:.4g}"
        text = re.sub(rf"^{field}:[^#\n]*", f"{field}: {shown}", text, flags=re.MULTILINE)
    listed = "calibrated_on: [" + ", ".join(sorted(set(devices))) + "]"
    if re.search(r"^calibrated_on:", text, flags=re.MULTILINE):
        text = re.sub(r"^calibrated_on:.*$", lambda _: listed, text, flags=re.MULTILINE)
    else:
        text = text.replace("# --- calibrated by", f"{listed}\n# --- calibrated by", 1)
    return text


def is_timed(row: RawRow) -> bool:
    return not number(row, "power_w") > 0


def scored_error(row: RawRow, seconds: float) -> float:
    """The contract's relative error: 0 inside the spread, else from its nearer edge, over the median."""
    median, got = number(row, "median_us"), seconds * 1e6
    low, high = number(row, "us_lo"), number(row, "us_hi")
    near = min(max(got, low), high) if number(row, "n_meas", 1) >= 2 and low > 0 and high > 0 else median
    return (got - near) / median


def parameter_table(architectures: Mapping[str, GpuArchitecture]) -> str:
    """The calibrated constants as a Markdown table: one row a constant, one column an architecture."""
    names = sorted(architectures)
    lines = ["| constant | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for parameter in PARAMETERS:
        values = [parameter.get(architectures[name]) for name in names]
        lines.append(f"| {parameter.name} | " + " | ".join("" if v is None else f"{v:.3g}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def ablation(rows: Sequence[RawRow], gpus: Mapping[str, Gpu], fitted: Mapping[str, GpuArchitecture], meter: Meter) -> str:
    """What each constant buys: the error of its operators' rows with that constant back at its prior."""
    lines = ["| constant | operators | MAPE fitted % | MAPE at prior % |", "|---|---|---|---|"]
    for parameter in PARAMETERS:
        members = [r for r in rows if r["op"] in parameter.ops and (not parameter.dtypes or r["dtype"] in parameter.dtypes)
                   and is_timed(r)]
        if not members:
            continue
        without = {}
        for name, architecture in fitted.items():
            prior = parameter.get(next(g.architecture for g in gpus.values() if g.architecture.name == name))
            without[name] = architecture if prior is None else parameter.set(architecture, prior)
        shown = [_mape(members, predict(members, gpus, table, meter)[0]) for table in (fitted, without)]
        ops = parameter.ops[0] if len(parameter.ops) == 1 else "several"
        lines.append(f"| {parameter.name} | {ops} {' '.join(parameter.dtypes)} | {shown[0]:.1f} | {shown[1]:.1f} |")
    return "\n".join(lines) + "\n"


def _mape(rows: Sequence[RawRow], seconds: np.ndarray) -> float:
    return float(100 * np.mean([abs(scored_error(r, float(s))) for r, s in zip(rows, seconds, strict=True)]))


def _settle(
    gpus: Mapping[str, Gpu], fitted: Mapping[str, GpuArchitecture], devices: Mapping[str, Sequence[str]], meter: Meter, *,
    write: bool,
) -> int:
    """Write the constants of *fitted*, and of those who borrow them, or say which files would change; 1 if any would."""
    others = {g.architecture.name: g.architecture for g in gpus.values() if g.architecture.name not in fitted}
    settled = dict(fitted) | {name: borrowed(architecture, fitted[NEAREST[name]]) for name, architecture in others.items()}
    stale = []
    files = {DEVICE_FOLDER / "architectures" / f"{name}.yaml": partial(
                calibrated_text, architecture=one, devices=devices.get(name, ()))
             for name, one in sorted(settled.items())} | {METER_FILE: partial(meter_text, meter=meter)}
    for path, renewed in files.items():
        text = path.read_text(encoding="utf-8")
        if (new := renewed(text)) == text:
            continue
        if write:
            path.write_text(new, encoding="utf-8")
        else:
            stale.append(path.name)
    if stale:
        sys.stderr.write(f"not the constants of this fit: {', '.join(stale)}\n")
    return 1 if stale else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="calibrate_gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--write", action="store_true", help="write the fitted constants into the files of architectures and meter")
    parser.add_argument("--check", action="store_true", help="fail if the shipped constants are not those of this fit")
    parser.add_argument("--ablate", action="store_true")
    options = parser.parse_args(arguments)
    gpus = with_priors(shipped_gpus())
    rows = read_reference(options.reference)
    by_architecture = rows_by_architecture(rows, gpus)
    known = [row for row in rows if row["device"] in gpus]
    meter = fit_meter(known, gpus)
    fitted = fit_all(known, gpus, meter)
    sys.stdout.write(parameter_table(fitted) + "\n")
    if options.ablate:
        sys.stdout.write(ablation(known, gpus, fitted, meter))
    if options.write or options.check:
        return _settle(gpus, fitted, {name: [row["device"] for row in members] for name, members in by_architecture.items()}, meter,
                       write=options.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
