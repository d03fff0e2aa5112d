"""Measures GPU kernels on the machine at hand, and writes rows in the format that `tilesim validate gpu` reads.

    python -m tilesim.validation.measure_gpu OUT.csv [--device NAME] [--ops gemm,attention,vector] [--quick]

Needs torch with CUDA or ROCm (an extra; nothing else of tilesim imports it). Each kernel runs inside a captured graph where
capture works, L2 is flushed between repeats for cold rows, and a row is the median of its repeats with their 10th and 90th
percentile as `us_lo` and `us_hi`. Board power is read while a kernel repeats for a second; clock, driver and library versions
stand in `extra`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("row_id", "device", "dtype", "op", "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len", "ranks",
           "bytes", "flops", "median_us", "us_lo", "us_hi", "n_meas", "power_w", "value", "unit", "flag", "extra", "source_repo",
           "source_path", "licence")
#: Larger than any L2 (256 MB Infinity Cache of MI300X): writing it evicts what a kernel left behind.
_FLUSH_BYTES = 512 * 2**20
_REPEATS, _QUICK_REPEATS = 25, 7
#: Launches in one captured graph: their sum is timed, so that event resolution (0.5–1 µs) does not show.
_LAUNCHES_PER_GRAPH = 10
_POWER_WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel to time: its columns of the row, and what runs it."""

    op: str
    dtype: str
    columns: Mapping[str, float]
    least_bytes: float
    flops: float
    warm: bool = False
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Repeats of one case, µs, and the board power while it repeated (None where it cannot be read)."""

    case: Case
    repeats_us: tuple[float, ...]
    power_w: float | None = None


def row_of(measurement: Measurement, device: str, setting: str) -> dict[str, str]:
    """The CSV row of *measurement*; its id depends on the case and the device alone."""
    case = measurement.case
    ordered = sorted(measurement.repeats_us)
    key = f"{device}|{case.op}|{case.dtype}|{sorted(case.columns.items())}|{case.warm}"
    notes = ";".join([*(f"{name}={value}" for name, value in case.notes.items()), setting])
    row = dict.fromkeys(COLUMNS, "")
    row |= {name: f"{value:g}" for name, value in case.columns.items()}
    row |= {
        "row_id": hashlib.sha1(key.encode()).hexdigest()[:10], "device": device, "dtype": case.dtype, "op": case.op,
        "bytes": f"{case.least_bytes:.0f}", "flops": f"{case.flops:.0f}",
        "median_us": f"{statistics.median(ordered):.5g}", "us_lo": f"{percentile(ordered, 0.1):.5g}",
        "us_hi": f"{percentile(ordered, 0.9):.5g}", "n_meas": str(len(ordered)), "flag": "l2_warm" if case.warm else "",
        "power_w": "" if measurement.power_w is None else f"{measurement.power_w:.1f}", "extra": notes,
        "source_repo": "own measurement", "source_path": "validation/measure_gpu.py", "licence": "MIT",
    }
    return row


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which *share* of the sorted values lie, interpolated."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def cases(ops: Sequence[str], quick: bool) -> Iterator[Case]:
    """The shapes to time: layers of 8B and 70B decoders, from one token to a long prompt."""
    tokens = (1, 16, 128, 2048) if quick else (1, 8, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    if "gemm" in ops:
        yield from (gemm_case(m, n, k) for n, k in ((6144, 4096), (28672, 4096), (4096, 14336), (10240, 8192)) for m in tokens)
    if "attention" in ops:
        yield from (decode_case(b, 32, 8, 128, kv) for b in (1, 16, 64) for kv in (1024, 8192))
        yield from (prefill_case(b, 32, 8, 128, q) for b, q in ((1, 512), (1, 4096), (8, 1024)))
    if "vector" in ops:
        yield from (vector_case(op, m, 4096) for op in ("rmsnorm", "add", "softmax", "gated_activation") for m in tokens)


def gemm_case(m: int, n: int, k: int, dtype: str = "bf16") -> Case:
    return Case("gemm", dtype, {"m": m, "n": n, "k": k, "batch": 1}, 2.0 * (m * k + k * n + m * n), 2.0 * m * n * k)


def decode_case(batch: int, heads: int, kv_heads: int, head_dim: int, kv_len: int, dtype: str = "bf16") -> Case:
    columns = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "q_len": 1, "kv_len": kv_len}
    return Case("attention_decode", dtype, columns, 4.0 * batch * head_dim * (kv_heads * kv_len + heads),
                4.0 * batch * heads * head_dim * kv_len)


def prefill_case(batch: int, heads: int, kv_heads: int, head_dim: int, q_len: int, dtype: str = "bf16") -> Case:
    columns = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "q_len": q_len, "kv_len": q_len}
    return Case("attention_prefill", dtype, columns, 4.0 * batch * head_dim * q_len * (heads + kv_heads),
                4.0 * batch * heads * head_dim * q_len * (q_len + 1) / 2.0)


def vector_case(op: str, m: int, n: int, dtype: str = "bf16") -> Case:
    tensors = {"rmsnorm": 2, "add": 3, "softmax": 2, "gated_activation": 3}[op]
    name, inputs = ("activation", 2) if op == "gated_activation" else (op, 1)
    return Case(name, dtype, {"m": m, "n": n, "k": inputs}, 2.0 * tensors * m * n, 5.0 * m * n)


class Bench:
    """Runs cases on the first visible GPU with torch."""

    def __init__(self, repeats: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU; on a machine with one, install torch with CUDA or ROCm")
        self.repeats = repeats
        self._flush = self.torch.empty(_FLUSH_BYTES, dtype=self.torch.int8, device="cuda")

    def measure(self, case: Case) -> Measurement:
        """Time *case* and read the board's power while it repeats."""
        kernel = self.kernel(case)
        for _ in range(3):
            kernel()
        self.torch.cuda.synchronize()
        run, launches = self._captured(kernel) if case.warm else (kernel, 1)
        repeats = [self._timed_us(run, flush=not case.warm) / launches for _ in range(self.repeats)]
        return Measurement(case, tuple(repeats), self._power_w(kernel))

    def kernel(self, case: Case) -> Callable[[], object]:
        """What runs *case* once."""
        torch, c = self.torch, {name: int(value) for name, value in case.columns.items()}
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[case.dtype]

        def tensor(*sizes: int) -> Any:
            return torch.randn(*sizes, device="cuda", dtype=kind)

        if case.op == "gemm":
            inputs, weight = tensor(c["m"], c["k"]), tensor(c["n"], c["k"])
            return lambda: torch.nn.functional.linear(inputs, weight)
        if case.op.startswith("attention"):
            query = tensor(c["batch"], c["heads"], c["q_len"], c["head_dim"])
            key, value = (tensor(c["batch"], c["kv_heads"], c["kv_len"], c["head_dim"]) for _ in range(2))
            causal = case.op == "attention_prefill"
            attend = torch.nn.functional.scaled_dot_product_attention
            return lambda: attend(query, key, value, is_causal=causal, enable_gqa=True)
        first, second = tensor(c["m"], c["n"]), tensor(c["m"], c["n"])
        scale = tensor(c["n"])
        return {
            "rmsnorm": lambda: torch.nn.functional.rms_norm(first, (c["n"],), scale),
            "add": lambda: first + second,
            "softmax": lambda: torch.softmax(first, -1),
            "activation": lambda: torch.nn.functional.silu(first) * second,
        }[case.op]

    def _captured(self, kernel: Callable[[], object]) -> tuple[Callable[[], object], int]:
        """A graph of several launches of *kernel*, and how many; the kernel itself where it cannot be captured."""
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                for _ in range(_LAUNCHES_PER_GRAPH):
                    kernel()
            return graph.replay, _LAUNCHES_PER_GRAPH
        except RuntimeError:
            return kernel, 1

    def _timed_us(self, run: Callable[[], object], *, flush: bool) -> float:
        torch = self.torch
        if flush:
            self._flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e3

    def _power_w(self, kernel: Callable[[], object]) -> float | None:
        """Mean of the board's readings while *kernel* repeats for a second; None where no tool reads it."""
        readings: list[float] = []
        end_s = time.monotonic() + _POWER_WINDOW_S
        while time.monotonic() < end_s:
            for _ in range(20):
                kernel()
            watts = read_power_w()
            if watts is None:
                return None
            readings.append(watts)
            self.torch.cuda.synchronize()
        return statistics.fmean(readings[len(readings) // 3:]) if readings else None


def read_power_w() -> float | None:
    """Board power of the first GPU from the vendor's tool, or None."""
    try:
        text = subprocess.run(["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", "0"],
                              capture_output=True, text=True, timeout=5, check=True).stdout
        return float(text.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def read_setting(torch: Any) -> str:
    """Clock, driver and library versions, as notes of a row."""
    notes = [f"torch={torch.__version__}", f"cuda={getattr(torch.version, 'cuda', None) or getattr(torch.version, 'hip', None)}"]
    try:
        text = subprocess.run(["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader",
                               "-i", "0"], capture_output=True, text=True, timeout=5, check=True).stdout
        driver, clock, limit = (part.strip() for part in text.strip().split(","))
        notes += [f"driver={driver}", f"max_clock={clock}", f"limit={limit}"]
    except (OSError, subprocess.SubprocessError, ValueError):
        notes.append("driver=unknown")
    return ";".join(notes)


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write *rows* to a temporary file beside *path* and rename it: never a half-written table."""
    with tempfile.NamedTemporaryFile("w", newline="", dir=path.parent, delete=False, encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(file.name, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="measure_gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", help="name of the board in the rows; the driver's name without it")
    parser.add_argument("--ops", default="gemm,attention,vector")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    try:
        bench = Bench(_QUICK_REPEATS if options.quick else _REPEATS)
    except (ImportError, RuntimeError) as error:
        sys.stderr.write(f"measure_gpu: {error}\n")
        return 2
    device = options.device or bench.torch.cuda.get_device_name(0).replace(" ", "-")
    setting = read_setting(bench.torch)
    rows = []
    for case in cases(options.ops.split(","), options.quick):
        rows.append(row_of(bench.measure(case), device, setting))
        sys.stderr.write(f"{case.op} {case.columns}: {rows[-1]['median_us']} µs\n")
    write_rows(options.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
