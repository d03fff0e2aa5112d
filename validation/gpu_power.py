"""Board power: kernels whose power was read while they ran, over their measured period, and sweeps of arithmetic intensity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch.gpu_collectives import OPERATIONS
from ..arch.gpu_config import Gpu
from .contract import Row, compare, skip
from .gpu_meter import SCORED_FROM_US, metered_w, shipped_meter
from .gpu_rows import KERNEL_OPS, UNPREDICTABLE, RawRow, note, number, predict_kernels

TOLERANCE_PCT = 10.0
#: Times of these kernels, reported apart: one run of one framework each, and the host paces the smaller 8-bit products (50, 75
#: and 150 µs whatever the shape).
TIME_TOLERANCE_PCT = 20.0


def power_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu], reasons: Mapping[str, str | None]) -> list[Row]:
    """Scores of the rows that carry a board power; *reasons*: why a row cannot be predicted, by its id."""
    metered = [raw for raw in table if number(raw, "power_w") > 0 and raw["op"] in KERNEL_OPS]
    rows = [skip(raw["row_id"], f"power:{raw['op']}", number(raw, "power_w"), str(reasons[raw["row_id"]]), device=raw["device"])
            for raw in metered if reasons[raw["row_id"]] is not None]
    kernels = [raw for raw in metered if reasons[raw["row_id"]] is None]
    for raw, time in zip(kernels, predict_kernels(kernels, gpus.__getitem__), strict=True):
        assert time is not None
        short = "" if number(raw, "median_us", 0.0) >= SCORED_FROM_US else ":lt100us"
        watts = float(metered_w(gpus[raw["device"]], time, [raw], shipped_meter())[0])
        rows.append(compare(raw["row_id"], f"power:{raw['op']}{short}", number(raw, "power_w"), watts, TOLERANCE_PCT,
                            device=raw["device"], dtype=raw["dtype"]))
        rows.append(compare(raw["row_id"], f"metered:{raw['op']}{short}", number(raw, "median_us"), float(time.seconds[0]) * 1e6,
                            TIME_TOLERANCE_PCT, device=raw["device"], dtype=raw["dtype"]))
    for raw in table:
        if not number(raw, "power_w") > 0 or raw["op"] in KERNEL_OPS:
            continue
        if raw["op"] == "roofline" and raw["device"] in gpus:
            try:
                rows.append(_sweep_row(raw, gpus[raw["device"]]))
            except UNPREDICTABLE as error:
                reason = f"no prediction: {error}"
                rows.append(skip(raw["row_id"], "power:roofline", number(raw, "power_w"), reason, device=raw["device"]))
        elif raw["op"] in OPERATIONS:
            rows.append(skip(raw["row_id"], f"power:{raw['op']}", number(raw, "power_w"), reasons[raw["row_id"]] or
                             "collectives have no energy of their own: links and switches are no part of a board",
                             device=raw["device"]))
        elif raw["op"] == "power":
            rows.append(skip(raw["row_id"], "power:power", number(raw, "power_w"),
                             "the kernel's operation and byte counts are not in the row", device=raw["device"]))
    return rows


def _sweep_row(raw: RawRow, gpu: Gpu) -> Row:
    """A point of an FMA sweep: the rates are measured, the watts are predicted from them."""
    flops_per_s, bytes_per_s = number(raw, "value") * 1e9, float(note(raw, "GB/s") or "nan") * 1e9
    watts = steady_power_w(gpu, flops_per_s, bytes_per_s, raw["dtype"] or "fp32")
    return compare(raw["row_id"], "power:roofline", number(raw, "power_w"), watts, TOLERANCE_PCT, device=raw["device"],
                   dtype=raw["dtype"])


def steady_power_w(gpu: Gpu, flops_per_s: float, dram_bytes_per_s: float, dtype: str) -> float:
    """Board power of a kernel that keeps these rates up, at full clock or at the limit."""
    architecture = gpu.architecture
    dynamic_w = (flops_per_s * gpu.pj_per_flop(dtype)
                 + dram_bytes_per_s * (architecture.pj_per_dram_byte + architecture.pj_per_l2_byte)) * 1e-12
    return min(gpu.device.power_limit_w, gpu.device.idle_power_w + dynamic_w)
