"""Micro-benchmarks of the memory hierarchy: bandwidth by footprint, latency of a pointer chase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch.gpu_config import Gpu
from .contract import Row, compare, skip
from .gpu_rows import RawRow, number

#: A cache keeps a footprint up to this share of its size before misses begin.
_FIT_SHARE = 0.9
#: Launch of back-to-back small kernels: a stream adds host launches to a graph's (gpu-benches: 2.6 against 1.3 µs).
_STREAM_LAUNCH_US = {"graph": 1.3, "stream": 2.6}


def micro_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> list[Row]:
    """Scores of `bandwidth` rows; what our tables have no level for is skipped with that reason."""
    rows: list[Row] = []
    for raw in table:
        if raw["op"] not in ("bandwidth", "latency") or raw["device"] not in gpus:
            continue
        got = bandwidth_gb_per_s(raw, gpus[raw["device"]]) if raw["op"] == "bandwidth" else None
        if got is None:
            rows.append(skip(raw["row_id"], raw["op"], number(raw, "value"), "L1 and latency plateaus are inputs, not results",
                             device=raw["device"]))
        else:
            rows.append(compare(raw["row_id"], raw["op"], number(raw, "value"), got, 15.0, device=raw["device"]))
    return rows


def bandwidth_gb_per_s(raw: RawRow, gpu: Gpu) -> float | None:
    """The rate of a streaming kernel over a footprint, or with few threads; None for rows about L1."""
    notes = raw.get("extra") or ""
    footprint = number(raw, "bytes", float("inf"))
    if notes.startswith("L1/L2"):
        return None
    if notes.startswith("shared-cache"):
        in_l2 = footprint <= _FIT_SHARE * gpu.device.l2_bytes
        return (gpu.l2_bytes_per_s if in_l2 else gpu.dram_stream_bytes_per_s) / 1e9
    if notes.startswith("DRAM stream"):
        return _by_threads(raw, gpu)
    if notes.startswith("back-to-back"):
        launch_us = _STREAM_LAUNCH_US["graph" if "launch=graph" in notes else "stream"]
        warm = footprint <= _FIT_SHARE * gpu.device.l2_bytes
        rate = gpu.l2_bytes_per_s * gpu.architecture.vector_l2_share if warm else gpu.dram_stream_bytes_per_s
        return float(footprint / (launch_us * 1e-6 + footprint / rate) / 1e9)
    return None


def _by_threads(raw: RawRow, gpu: Gpu) -> float | None:
    """Little's law: two blocks on each SM, each thread with one 8-byte load (and one store in flight for `scale`)."""
    block = next((part.partition("=")[2] for part in (raw.get("extra") or "").split(";") if part.startswith("block=")), None)
    if block is None:
        return None
    accesses = 2.0 if "scale" in (raw.get("extra") or "") else 1.0
    in_flight = 2.0 * gpu.device.sms * float(block.rstrip(":")) * 8.0 * accesses
    limited = in_flight / (gpu.architecture.dram_latency_ns * 1e-9)
    return min(limited, gpu.dram_stream_bytes_per_s) / 1e9
