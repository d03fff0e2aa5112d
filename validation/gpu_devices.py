"""The boards that a validation run knows: the shipped ones, with a `devices.csv` of the reference laid over them.

A figure in the reference's table wins where it differs from our copy of that table (`data/gpu_devices.csv`); where it says
the same, our YAML keeps its own, sourced figure (it may say why it differs). A device of the table without YAML is made from
its row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from ..arch.gpu_config import Gpu, GpuDevice, assemble, shipped_gpus
from ..sim.errors import ConfigError
from .gpu_rows import number, read_table

#: PCI Express of 16 lanes: bytes per second each way.
_PCIE_RATES = {"pcie3": 17e9, "pcie4": 34e9, "pcie5": 68e9}
_FURTHER_COLUMNS = ("spec_boost_mhz", "fp8_TFLOPs", "fp4_TFLOPs", "link_GBps_per_dir", "dram_GiB")
DEVICE_COLUMNS = {"device", "arch", "sm_or_cu", "max_mhz", "dram_GBps", "l2_MB", "fp32_TFLOPs", "bf16_TFLOPs", "tdp_W"}
_SHIPPED_TABLE = Path(__file__).resolve().parent / "data" / "gpu_devices.csv"
#: Architecture of a row by its family name; a family that we do not know takes that of the nearest board.
_FAMILIES = {"Pascal": "pascal", "Volta": "volta", "Turing": "turing", "Ampere": "ampere", "Hopper": "hopper", "Ada": "ada",
             "Blackwell": "blackwell", "CDNA1": "cdna1", "CDNA2": "cdna2", "CDNA3": "cdna3", "CDNA4": "cdna4", "RDNA": "rdna2",
             "Maxwell": "pascal"}
#: Where two dies share a name: the graphics one, and the products of 16 bits that an SM of the other does in a cycle.
_GRAPHICS_DIES = {"ampere": ("ampere-ga102", 2048.0), "blackwell": ("blackwell-rtx", 8192.0)}
_HBM_FROM_GB_PER_S = 1200.0
#: Families whose row states an L2 of a few MB, behind which a larger cache stands before the memory: ours is the larger one's size.
_MEMORY_SIDE_CACHE = ("cdna3", "cdna4", "rdna2")
#: The library of boards whose architecture no serving engine of today has kernels for; the others' is the schema's.
_OLD_LIBRARIES = {"pascal": "eager-2023", "volta": "eager-2023", "turing": "eager-2023", "cdna1": "eager-rocm-2023",
                  "cdna2": "eager-rocm-2023"}
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


def from_row(row: Mapping[str, str], shipped: Iterable[Gpu] | None = None) -> Gpu:
    """A board that only the table knows. What its row does not say is that of the nearest of the *shipped* boards (ours) of its
    architecture, by SM where it grows with them. SMs and DRAM rate must be told: a ValueError without them."""
    for column in ("sm_or_cu", "dram_GBps"):
        if not 0 < number(row, column) < math.inf:
            raise ValueError(f"the row of {row['device']!r} gives no {column}")
    boards = list({id(gpu): gpu for gpu in (shipped_gpus().values() if shipped is None else shipped)}.values())
    family = _family(row)
    kin = _nearest(row, [gpu for gpu in boards if gpu.architecture.name == family] or boards).device
    siblings = [gpu.device for gpu in boards if gpu.device.architecture == (family or kin.architecture)] or [kin]
    told = {column: number(row, column, 0.0) for column in (*DEVICE_COLUMNS - {"device", "arch"}, *_FURTHER_COLUMNS)}
    sms = int(told["sm_or_cu"])
    clock_hz = 1e6 * (told["max_mhz"] or told["spec_boost_mhz"]) or kin.clock_hz
    rated_hz = 1e6 * told["spec_boost_mhz"] or clock_hz
    power_w = told["tdp_W"] or kin.power_limit_w * sms / kin.sms
    link, link_rate = _link(told["link_GBps_per_dir"] * 1e9, siblings, kin)

    def per_sm(column: str, kins: float) -> float:
        """Operations of an SM in a cycle, a power of two on every board: data sheets state peaks at clocks of their own."""
        stated = told[column] * 1e12 / (sms * rated_hz)
        return float(2.0 ** round(math.log2(stated))) if stated else kins

    kins = kin.tensor_flops_per_cycle_per_sm
    halves = per_sm("bf16_TFLOPs", kins.get("fp16", 0.0))
    sixteen_bits: tuple[str, ...] = ("fp16", "bf16", "tf32")
    rates = {pipe: halves * kins[pipe] / kins["fp16"] for pipe in sixteen_bits if pipe in kins}
    if rates:       # the matrix pipes of 8 and 4 bits have two and four times the rate of 16 bits, whatever accumulates
        rates |= {"int8": kins.get("int8", 0.0), "fp8": min(2.0 * halves, per_sm("fp8_TFLOPs", kins.get("fp8", 0.0))),
                  "fp4": min(4.0 * halves, per_sm("fp4_TFLOPs", kins.get("fp4", 0.0)))}
    l2_bytes = round(told["l2_MB"] * 1e6) or round(kin.l2_bytes * sms / kin.sms)
    return assemble(GpuDevice(
        name=row["device"], architecture=family or kin.architecture, library=_OLD_LIBRARIES.get(family or "", "fused-2025"),
        sms=sms, clock_hz=clock_hz, fp32_flops_per_cycle_per_sm=per_sm("fp32_TFLOPs", kin.fp32_flops_per_cycle_per_sm),
        tensor_flops_per_cycle_per_sm={pipe: rate for pipe, rate in rates.items() if rate > 0},
        lane_flops_per_cycle_per_sm=kin.lane_flops_per_cycle_per_sm,
        l2_bytes=max(l2_bytes, kin.l2_bytes) if family in _MEMORY_SIDE_CACHE else l2_bytes,
        l2_bytes_per_cycle=kin.l2_bytes_per_cycle / kin.sms * sms,
        dram_bandwidth_bytes_per_s=told["dram_GBps"] * 1e9, dram_efficiency=median(d.dram_efficiency for d in siblings),
        dram_capacity_bytes=round(told["dram_GiB"] * 2**30) or kin.dram_capacity_bytes, power_limit_w=power_w,
        # An awake board's share of its limit is much the same within an architecture.
        idle_power_w=power_w * median(d.idle_power_w / d.power_limit_w for d in siblings),
        link=link, link_bandwidth_bytes_per_s=link_rate))


def _family(row: Mapping[str, str]) -> str | None:
    """The architecture that *row* means, or None where no name of it is known."""
    told = re.sub(r"[^a-z0-9]", "", row["arch"].lower())
    family = next((family for name, family in _FAMILIES.items() if name.lower() in told), None)
    if family not in _GRAPHICS_DIES:
        return family
    graphics, large_rate = _GRAPHICS_DIES[family]
    mhz = number(row, "spec_boost_mhz", number(row, "max_mhz"))
    rate = number(row, "bf16_TFLOPs") * 1e6 / (number(row, "sm_or_cu") * mhz)
    is_graphics = rate < 0.7 * large_rate if math.isfinite(rate) else number(row, "dram_GBps") < _HBM_FROM_GB_PER_S
    return graphics if is_graphics else family


def _nearest(row: Mapping[str, str], boards: Sequence[Gpu]) -> Gpu:
    """The board whose figures are the nearest to those that *row* gives, in their logarithms."""
    def distance(gpu: Gpu) -> float:
        figures = [(number(row, column) * factor, float(getattr(gpu.device, field)))
                   for column, (field, factor) in _OVERRIDES.items()]
        return sum(abs(math.log(told / ours)) for told, ours in figures if 0 < told < math.inf and ours > 0)

    return min(boards, key=distance)


def _link(rate: float, siblings: Sequence[GpuDevice], kin: GpuDevice) -> tuple[str, float]:
    """Link class and rate: those of PCI Express up to its rates, else the class of the sibling with the nearest rate."""
    if not rate:
        return kin.link, kin.link_bandwidth_bytes_per_s
    wired = [device for device in siblings if device.link_bandwidth_bytes_per_s > 0 and device.link != "none"]
    same = [device for device in wired if abs(math.log(device.link_bandwidth_bytes_per_s / rate)) < 0.5]
    if same:
        alike = min(same, key=lambda device: (device is not kin, abs(math.log(device.link_bandwidth_bytes_per_s / rate))))
        return alike.link, rate
    pcie = next((name for name, most in _PCIE_RATES.items() if rate <= most), None)
    return pcie or (wired[0].link if wired else "pcie5"), rate
