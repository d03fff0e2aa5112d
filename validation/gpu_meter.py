"""What a board's power meter reads while a loop of kernels runs.

NVML's power on Hopper and Blackwell is a running mean over the last second (`nvmlDeviceGetPowerUsage`). The collector behind the
power tables (aiconfigurator, `collector/helper.py`) reads it ten times a second during a loop of calls and notes the mean of the
readings; the loop lasts a second, or as long as 3000 calls take if that is less. What the board did before the loop is therefore
read with it, and of short kernels hardly anything else: ten of fourteen decode kernels that stream for 18–97 µs read 173–397 W, as
kernels do that move next to nothing.

Before a loop of attention the board fills caches with random numbers; the watts of that are what kernels too short to count read. A
loop of products follows one of the same weights with the next number of rows, which drew much the same: no state before it is told
apart. How far back the mean reaches is fitted, to 0.6 s, within the documented second.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from ..arch.gpu_config import Gpu
from ..arch.gpu_kernel import KernelTime
from ..sim.config import Config, load
from .gpu_rows import RawRow, number, predict_group, split_by

METER_FILE = Path(__file__).resolve().parent / "data" / "gpu_meter.yaml"
#: Readings of longer kernels are scored and fitted.
SCORED_FROM_US = 100.0
#: The readings that go through this meter say so in their notes.
_NOTED = "NVML board power"
#: Operators before whose loops the collector fills memory.
_FILLED_BEFORE = ("attention_decode", "attention_prefill")
#: Loops of kernels this short (0.15 s of 3000 calls) show the state before them alone.
_STATE_BELOW_US = 50.0
#: Steps in which the reach of the mean is looked for, up to the documented second.
_REACHES_S = tuple(round(0.1 * step, 1) for step in range(1, 11))
#: Beyond this |ln(read/measured)| a row pulls no harder.
_LOSS_CAP = 0.7

_Positive = Annotated[float, Field(gt=0)]


class Meter(Config):
    """The collector's loop (facts), and the calibrated constants of the meter."""

    loop_s: _Positive                       # the collector's target
    most_calls: Annotated[int, Field(ge=1)]
    reach_s: _Positive                      # how far back the running mean goes
    before_w: dict[str, dict[str, _Positive]]   # the board's state before a loop, by board and operator

    def own_share(self, period_s: np.ndarray) -> np.ndarray:
        """Share of the reading that the loop itself has, for kernels of *period_s* each: the mean over its length of the part of
        the running mean that lies within it."""
        length_s = np.minimum(self.loop_s, self.most_calls * period_s)
        longer = np.maximum(length_s, self.reach_s)
        share: np.ndarray = np.where(length_s < self.reach_s, length_s / (2 * self.reach_s),
                                     1 - self.reach_s / (2 * longer))
        return share


@cache
def shipped_meter() -> Meter:
    """The meter with its shipped constants."""
    return load(Meter, METER_FILE, kind="meter")


def metered_w(gpu: Gpu, time: KernelTime, rows: Sequence[RawRow], meter: Meter) -> np.ndarray:
    """Board power of *rows* as a meter reads it. It averages over their own measured periods: where the host paces a loop of calls
    the board idles between its kernels. Readings through *meter* hold a part of the state before their loop."""
    period_s = _periods_s(rows)
    above_idle_j = time.energy_j - gpu.device.idle_power_w * time.seconds
    watts: np.ndarray = gpu.device.idle_power_w + above_idle_j / np.maximum(time.seconds, period_s)
    states = meter.before_w
    before = np.array([states.get(row["device"], {}).get(row["op"], np.nan) if _is_noted(row) else np.nan for row in rows])
    own = meter.own_share(period_s)
    return np.where(np.isnan(before), watts, own * watts + (1 - own) * before)


def fit_meter(rows: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> Meter:
    """The meter that *rows* show: the state before a loop is the median reading of the kernels too short to count (no prediction
    takes part), the reach is that of the least mean |ln| of the longer ones' readings, with the constants that *gpus* have."""
    noted = [row for row in rows if row["op"] in _FILLED_BEFORE and row["device"] in gpus
             and _is_noted(row) and number(row, "power_w") > 0]
    before: dict[str, dict[str, float]] = defaultdict(dict)
    for (device, op), members in sorted(split_by(noted, "device", "op").items()):
        short = [number(row, "power_w") for row in members if number(row, "median_us") < _STATE_BELOW_US]
        if short:
            before[device][op] = round(float(np.median(short)))
    start = shipped_meter().model_copy(update={"before_w": dict(before)})
    long = [row for row in noted if number(row, "median_us") >= SCORED_FROM_US]
    if not long:
        return start
    return min((start.model_copy(update={"reach_s": reach}) for reach in _REACHES_S), key=lambda meter: _loss(meter, long, gpus))


def meter_text(text: str, meter: Meter) -> str:
    """*text*, the meter's YAML, with the fitted values replaced; facts and comments stay."""
    states = ", ".join(f"{device}: {{" + ", ".join(f"{op}: {watts:.0f}" for op, watts in sorted(by_op.items())) + "}"
                       for device, by_op in sorted(meter.before_w.items()))
    text = re.sub(r"^reach_s:[^#\n]*", f"reach_s: {meter.reach_s:g}", text, flags=re.MULTILINE)
    return re.sub(r"^before_w:.*$", lambda _: f"before_w: {{{states}}}", text, flags=re.MULTILINE)


def _loss(meter: Meter, rows: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> float:
    losses = []
    for (device, op, dtype), members in split_by(rows, "device", "op", "dtype").items():
        read = metered_w(gpus[device], predict_group(gpus[device], op, dtype, members), members, meter)
        measured = np.array([number(row, "power_w") for row in members])
        losses.append(np.minimum(np.abs(np.log(read / measured)), _LOSS_CAP))
    return float(np.mean(np.concatenate(losses)))


def _periods_s(rows: Sequence[RawRow]) -> np.ndarray:
    return np.array([number(row, "median_us", 0.0) for row in rows]) * 1e-6


def _is_noted(row: RawRow) -> bool:
    return _NOTED in (row.get("extra") or "")
