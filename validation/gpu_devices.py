"""The boards that a validation run knows: the shipped ones, with a `devices.csv` of the reference laid over them.

A figure in the reference's table wins where it differs from our copy of that table (`data/gpu_devices.csv`); where it says
the same, our YAML keeps its own, sourced figure (it may say why it differs). A device of the table without YAML is made from
its row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ..arch.gpu_config import Gpu, GpuDevice, assemble, shipped_gpus
from ..sim.errors import ConfigError
from .gpu_rows import number, read_table

DEVICE_COLUMNS = {"device", "arch", "sm_or_cu", "max_mhz", "dram_GBps", "l2_MB", "fp32_TFLOPs", "bf16_TFLOPs", "tdp_W"}
_SHIPPED_TABLE = Path(__file__).resolve().parent / "data" / "gpu_devices.csv"
#: Architecture of a row by its family name; where two dies share the name, the memory tells them apart.
_FAMILIES = {"Pascal": "pascal", "Volta": "volta", "Turing": "turing", "Ampere": "ampere", "Hopper": "hopper", "Ada": "ada",
             "Blackwell": "blackwell", "CDNA1": "cdna1", "CDNA2": "cdna2", "CDNA3": "cdna3", "CDNA4": "cdna4", "RDNA2": "rdna2"}
_GRAPHICS_DIES = {"ampere": "ampere-ga102", "blackwell": "blackwell-rtx"}
_HBM_FROM_GB_PER_S = 1200.0
#: Device fields that a column of the table sets, with the factor to our unit.
_OVERRIDES = {"sm_or_cu": ("sms", 1.0), "max_mhz": ("clock_hz", 1e6), "dram_GBps": ("dram_bandwidth_bytes_per_s", 1e9),
              "l2_MB": ("l2_bytes", 1e6), "tdp_W": ("power_limit_w", 1.0), "link_GBps_per_dir": ("link_bandwidth_bytes_per_s", 1e9),
              "dram_GiB": ("dram_capacity_bytes", 2.0**30)}


def known_gpus(reference: Path | None) -> dict[str, Gpu]:
    """Boards by every name they go by, with the devices tables found under *reference* laid over them."""
    gpus = dict(shipped_gpus())
    if reference is None:
        return gpus
    shipped_rows = {row["device"]: row for row in read_table(_SHIPPED_TABLE)}
    for path in csv_files(reference):
        table = read_table(path)
        if not table or not set(table[0]) >= DEVICE_COLUMNS:
            continue
        for line, row in enumerate(table, start=2):
            name = row["device"]
            if name in gpus:
                try:
                    gpus[name] = with_overrides(gpus[name], row, shipped_rows.get(name, {}))
                except ValueError as error:
                    raise ConfigError(f"{name}: {error}", file=str(path), line=line, value=name,
                                      mend="mend the cell, or leave it empty to keep the shipped figure") from None
                continue
            try:
                gpus[name] = from_row(row)
            except (ValueError, ZeroDivisionError, ConfigError):
                continue                            # too little to make a board of: its rows are skipped with that reason
    return gpus


def csv_files(reference: Path) -> list[Path]:
    """The CSV files that *reference* is or holds."""
    return [reference] if reference.is_file() else sorted(reference.rglob("*.csv"))


def with_overrides(gpu: Gpu, row: Mapping[str, str], shipped_row: Mapping[str, str]) -> Gpu:
    """*gpu* with the figures of *row* that differ from *shipped_row*; a ValueError where they make no board."""
    update: dict[str, object] = {}
    for column, (field, factor) in _OVERRIDES.items():
        value = number(row, column)
        if value == value and (not shipped_row or value != number(shipped_row, column)):
            if not 0 < value < math.inf:
                raise ValueError(f"{column} is {row[column]!r}; a number above 0 is wanted")
            update[field] = round(value * factor) if field in ("sms", "l2_bytes", "dram_capacity_bytes") else value * factor
    if not update:
        return gpu
    try:
        device = GpuDevice.model_validate(gpu.device.model_dump() | update)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(str(first["msg"]).removeprefix("Value error, ")) from None
    return Gpu(device, gpu.architecture, gpu.library)


def from_row(row: Mapping[str, str]) -> Gpu:
    """A board that only the table knows: its figures, and per-SM rates of its architecture's family."""
    told = row["arch"].replace(" ", "").lower()
    family = next((family for name, family in _FAMILIES.items() if name.lower() in told), None)
    if family is None:
        raise ValueError(f"no architecture is known as {row['arch']!r}")
    if number(row, "dram_GBps") < _HBM_FROM_GB_PER_S:
        family = _GRAPHICS_DIES.get(family, family)
    sms, clock_hz = int(number(row, "sm_or_cu")), number(row, "max_mhz") * 1e6
    rated_hz = number(row, "spec_boost_mhz", number(row, "max_mhz")) * 1e6
    kin = next((g for g in shipped_gpus().values() if g.architecture.name == family), None)

    def per_sm(column: str) -> float:
        return float(number(row, column, 0.0) * 1e12 / (sms * rated_hz))

    halves = per_sm("bf16_TFLOPs")
    kin_rates = kin.device.tensor_flops_per_cycle_per_sm if kin else {"fp16": 1.0, "bf16": 1.0, "int8": 2.0}
    rates = {"fp8": per_sm("fp8_TFLOPs"), "fp4": per_sm("fp4_TFLOPs")} | {
        pipe: halves * kin_rates[pipe] / kin_rates["fp16"] for pipe in ("fp16", "bf16", "int8", "tf32") if pipe in kin_rates}
    device = GpuDevice(
        name=row["device"], architecture=family, sms=sms, clock_hz=clock_hz,
        fp32_flops_per_cycle_per_sm=per_sm("fp32_TFLOPs") or 128.0,
        tensor_flops_per_cycle_per_sm={k: v for k, v in rates.items() if v > 0},
        lane_flops_per_cycle_per_sm=kin.device.lane_flops_per_cycle_per_sm if kin else {},
        l2_bytes=int(number(row, "l2_MB") * 1e6),
        l2_bytes_per_cycle=kin.device.l2_bytes_per_cycle / kin.device.sms * sms if kin else 30.0 * sms,
        dram_bandwidth_bytes_per_s=number(row, "dram_GBps") * 1e9,
        dram_efficiency=kin.device.dram_efficiency if kin else 0.9,
        dram_capacity_bytes=int(number(row, "dram_GiB", 16.0) * 2**30), power_limit_w=number(row, "tdp_W"),
        idle_power_w=0.1 * number(row, "tdp_W"),        # ASSUMED: as for the shipped boards without a measured figure
        link=kin.device.link if kin else "pcie4",
        link_bandwidth_bytes_per_s=number(row, "link_GBps_per_dir", 32.0) * 1e9,
    )
    return assemble(device)
