"""The measured rows of LLMCompass (ISCA 2024): PyTorch operators timed on the host, launch and synchronise included.

`time.time()` stands around the call and a device synchronise, so every time holds a host part: one constant for eager kernels of
PyTorch's own, one for calls of the vendor's matrix library and one for compiled functions (`gpu_hosts`), fitted to half of these
rows; the other half is scored apart, as `…:held`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch import gpu_gemm, gpu_vector
from ..arch.gpu_collectives import collective_seconds
from ..arch.gpu_config import Gpu, GpuLibrary, named_library
from ..sim.errors import ConfigError
from .contract import Row, compare, skip
from .gpu_hosts import COMPILED, call_field, hosts, is_held
from .gpu_rows import RawRow, number

LLMCOMPASS_COLUMNS = {"device", "dtype", "op", "batch", "M", "N", "K", "bytes", "measured_s"}
TOLERANCE_PCT = {"matmul": 10.0, "softmax": 9.0, "layernorm": 8.0, "allreduce": 20.0, "gpt3_layer": 8.0}
_BOARDS = {"A100": "a100-sxm-80gb", "A100x4-NVLink3": "a100-sxm-80gb", "MI210": "mi210"}


def llmcompass_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> list[Row]:
    """Scores by operator; the operators of the GPT-3 layer form one group, with the layer's sum as a row."""
    rows: list[Row] = []
    layers: dict[str, list[Row]] = {}
    for raw in table:
        operator = "gpt3_layer" if raw["op"].startswith("gpt3_layer") else raw["op"]
        group = f"llmcompass:{operator}" if _family(raw) == "A100" else f"llmcompass:{operator}:{_family(raw)}"
        case = "/".join([raw["device"], raw["op"], *(raw[c] or "-" for c in ("batch", "M", "N", "K", "bytes"))])
        measured_us = number(raw, "measured_s") * 1e6
        seconds = predict_s(raw, gpus)
        if seconds is None:
            rows.append(skip(case, group, measured_us, f"no operator {raw['op']!r}", device=raw["device"]))
            continue
        row = compare(case, group, measured_us, seconds * 1e6, TOLERANCE_PCT.get(operator, 15.0), device=raw["device"],
                      held=host_field(raw) is not None and is_held(shape_key(raw)))
        rows.append(row)
        if operator == "gpt3_layer":
            layers.setdefault("prefill" if "prefill" in raw["op"] else "decode", []).append(row)
    for phase, members in layers.items():
        expected = sum(row.expected or 0.0 for row in members)
        got = sum(row.got or 0.0 for row in members)
        rows.append(compare(f"A100x4-NVLink3/gpt3_layer/{phase}", "llmcompass:gpt3_layer:sum", expected, got,
                            TOLERANCE_PCT["gpt3_layer"], device="A100x4-NVLink3"))
    return rows


def _family(raw: RawRow) -> str:
    return "MI210" if raw["device"].startswith("MI210") else "A100"


def predict_s(raw: RawRow, gpus: Mapping[str, Gpu]) -> float | None:
    """Host part and kernel of one row, or None for an operator that we do not know."""
    device_s = kernel_s(raw, gpus)
    if device_s is None:
        return None
    field = host_field(raw)
    return device_s + (getattr(hosts(), field) * 1e-6 if field is not None else 0.0)


def host_field(raw: RawRow) -> str | None:
    """The host constant that the row shows; collectives were timed on the devices."""
    operator = _operator(raw["op"])
    return None if operator == "allreduce" else call_field(_board(raw), operator)


def shape_key(raw: RawRow) -> str:
    """What says whether the row is kept from the fit: its operator and shape, on any board."""
    return "|".join(raw[c] or "" for c in ("op", "batch", "M", "N", "K", "bytes"))


def kernel_s(raw: RawRow, gpus: Mapping[str, Gpu]) -> float | None:
    """The row's time on the device, or None for an operator that we do not know."""
    gpu = gpus.get(raw["device"]) or gpus[_board(raw)]
    dtype = "fp32" if "fp32" in raw["dtype"] else "fp16"
    operator = _operator(raw["op"])
    m, n, k, batch = (number(raw, c, 1.0) for c in ("M", "N", "K", "batch"))
    eager = Gpu(gpu.device, gpu.architecture, _library(operator, _board(raw)))
    try:
        if operator == "matmul":
            return float(gpu_gemm.gemm(eager, m, n, k, batch=batch, dtype=dtype, l2_warm=True).seconds[0])
        if operator == "allreduce":
            return collective_seconds(eager, "allreduce", number(raw, "bytes"), 4)
        name = {"gelu": "activation"}.get(operator, operator)
        return float(gpu_vector.vector(eager, name, m, n, dtype=dtype, l2_warm=True).seconds[0])
    except ConfigError:
        return None


def _board(raw: RawRow) -> str:
    return _BOARDS.get(raw["device"], "a100-sxm-80gb")


def _library(operator: str, board: str) -> GpuLibrary:
    """The kernels of a call, whose launch is the host's part here, not the gap between events."""
    name = "eager-rocm-2023" if board.startswith("mi") else "compiled-2023" if operator in COMPILED else "eager-2023"
    return named_library(name).model_copy(update={"host_gap_us": 0.0})


def _operator(op: str) -> str:
    """The operator of a row; those of the GPT-3 layer by the part of their name that says it."""
    if not op.startswith("gpt3_layer"):
        return op
    lowered = op.lower()
    for key in ("allreduce", "layernorm", "softmax", "gelu"):
        if key in lowered:
            return key
    return "matmul"
