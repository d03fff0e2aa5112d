"""Reading measured GPU rows and predicting them: the bridge between reference tables and `arch/gpu_*`.

A table is recognised by the columns that it must have, never by its name. Rows of one board, operator and format are
predicted together, as arrays.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..arch import gpu_attention, gpu_gemm, gpu_moe, gpu_vector
from ..arch.gpu_collectives import OPERATIONS
from ..arch.gpu_config import ELEMENT_BYTES, Gpu
from ..arch.gpu_kernel import KernelTime
from ..sim.errors import ConfigError

RawRow = Mapping[str, str]

#: Columns that make a table one of measured operators.
MEASURED_COLUMNS = {"device", "dtype", "op", "m", "n", "k", "median_us", "us_lo", "us_hi", "n_meas", "flag"}
VECTOR_OPS = ("rmsnorm", "add_rmsnorm", "layernorm", "softmax", "activation", "rope", "add", "embed")
KERNEL_OPS = ("gemm", "attention_decode", "attention_prefill", "moe", *VECTOR_OPS)
#: Flags that say that the data was in L2 when the kernel began.
WARM_FLAGS = ("l2_warm", "l2_maybe", "l2_assist")
#: Searches for the largest rate multiply operands that are in their narrow format already.
SEARCHED_FLAG = "best_of_search"


#: What a row of each operator must give, and which of its notes.
_NEEDED = {"gemm": ("m", "n", "k"), "attention_decode": ("batch", "heads", "kv_heads", "head_dim", "kv_len"),
           "attention_prefill": ("batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len"), "moe": ("m", "n", "k"),
           **dict.fromkeys(VECTOR_OPS, ("m", "n")), **dict.fromkeys(OPERATIONS, ("bytes", "ranks"))}
_NEEDED |= {"e2e_prefill": ("batch", "q_len", "kv_len"), "e2e_decode": ("batch", "q_len", "kv_len"),
            "e2e_throughput": ("q_len", "kv_len", "value")}
_NEEDED_NOTES = {"moe": ("experts", "topk")}
#: Notes that must be numbers above 0 where they are given.
_NUMERIC_NOTES = {"moe": ("experts", "topk", "ep", "active")}
#: What a row that cannot be predicted may raise on its way.
UNPREDICTABLE = (ValueError, KeyError, ZeroDivisionError, OverflowError, ConfigError)


def lacking(row: RawRow) -> str | None:
    """Why *row* does not say enough to be predicted, or None."""
    op = row["op"]
    timed = ("median_us",) if op in _NEEDED and op != "e2e_throughput" else ()
    for column in (*_NEEDED.get(op, ()), *timed):
        if not 0 < number(row, column) < math.inf:
            return f"the row gives no {column}"
    for key in _NUMERIC_NOTES.get(op, ()):
        text = note(row, key)
        if text is not None and not _is_positive(text):
            return f"the row's note {key} is {text!r}, no number above 0"
    ranks = number(row, "ranks", 1.0)
    if op in _NEEDED and op not in KERNEL_OPS and not (ranks >= 1 and ranks.is_integer()):
        return f"the row's ranks are {row['ranks']!r}, no whole number above 0"
    if op.startswith("e2e_") and 0 < number(row, "batch") < 1:
        return f"the row's batch is {row['batch']!r}, less than a sequence"
    if op == "attention_decode" and not 1 <= number(row, "q_len", 1.0) < math.inf:
        return f"the row's q_len is {row['q_len']!r}, less than a token"
    if op in OPERATIONS and op != "send_recv" and ranks < 2:
        return "a collective of one rank moves nothing"
    if op in ("attention_prefill", "attention_decode") and number(row, "kv_len") < number(row, "q_len", 1.0):
        return "the row's cache is shorter than its queries"
    if op in ("attention_prefill", "attention_decode") and number(row, "heads") % number(row, "kv_heads"):
        return "the row's heads are no multiple of its KV heads"
    if op == "gemm" and not number(row, "batch", 1.0) > 0:
        return "the row gives no batch"
    for key in _NEEDED_NOTES.get(row["op"], ()):
        if note(row, key) is None:
            return f"the row's notes give no {key}"
    if (op in KERNEL_OPS or op.startswith("e2e_")) and row["dtype"] not in ELEMENT_BYTES:
        return f"no model of the number format {row['dtype']!r}"
    return None


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; empty for a file without a header. A line with too few cells has empty ones."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return list(csv.DictReader(file, restval=""))


def number(row: RawRow, column: str, default: float = float("nan")) -> float:
    """The number in *column*, or *default* when the cell is empty, missing or no number."""
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else default
    except ValueError:
        return default


def note(row: RawRow, key: str) -> str | None:
    """The value of `key=value` among the `;`-separated notes of a row (shape facts such as experts=8)."""
    for part in (row.get("extra") or "").split(";"):
        name, _, value = part.partition("=")
        if name.strip() == key:
            return value.strip()
    return None


def is_warm(row: RawRow) -> bool:
    flags = (row.get("flag") or "").split()
    return any(flag in WARM_FLAGS for flag in flags)


def predict_kernels(rows: Sequence[RawRow], gpu_of: Callable[[str], Gpu]) -> list[KernelTime | None]:
    """The prediction for each row of a kernel operator (`KERNEL_OPS`), in order; None for other rows."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row["op"] in KERNEL_OPS:
            groups[(row["device"], row["op"], row["dtype"])].append(index)
    result: list[KernelTime | None] = [None] * len(rows)
    for (device, op, dtype), members in groups.items():
        time = predict_group(gpu_of(device), op, dtype, [rows[i] for i in members])
        for position, index in enumerate(members):
            result[index] = take(time, position)
    return result


def take(time: KernelTime, index: int) -> KernelTime:
    """Element *index* of an array of kernels."""
    return KernelTime(*(np.atleast_1d(np.broadcast_to(getattr(time, name), time.seconds.shape)[index])
                        for name in KernelTime.__slots__))


def predict_group(gpu: Gpu, op: str, dtype: str, rows: Sequence[RawRow]) -> KernelTime:
    """Predict *rows*, all of one board, operator and format."""
    column = _Columns(rows)
    warm = np.array([is_warm(row) for row in rows])
    if op == "gemm":
        searched = np.array([SEARCHED_FLAG in (row.get("flag") or "").split() for row in rows])
        return gpu_gemm.gemm(gpu, column("m"), column("n"), column("k"), batch=column("batch", 1.0), dtype=dtype, l2_warm=warm,
                             quantise=~searched)
    if op == "attention_decode" and np.all(column("q_len", 1.0) == 1):
        return gpu_attention.decode(gpu, column("batch"), column("heads"), column("kv_heads"), column("head_dim"),
                                    column("kv_len"), dtype=dtype, l2_warm=warm)
    if op in ("attention_decode", "attention_prefill"):             # several new tokens: speculative decoding
        return gpu_attention.prefill(gpu, column("batch"), column("heads"), column("kv_heads"), column("head_dim"),
                                     column("q_len", 1.0), column("kv_len"), dtype=dtype, l2_warm=warm)
    if op == "moe":
        return _predict_moe(gpu, dtype, rows, column, warm)
    plain = gpu_vector.vector(gpu, op, column("m"), column("n"), dtype=dtype, l2_warm=warm)
    is_gated = column("k", 1.0) == 2
    if op != "activation" or not np.any(is_gated):
        return plain
    gated = gpu_vector.vector(gpu, "gated_activation", column("m"), column("n"), dtype=dtype, l2_warm=warm)
    return KernelTime(*(np.where(is_gated, getattr(gated, field), getattr(plain, field)) for field in KernelTime.__slots__))


class _Columns:
    """The numbers of a column over a group of rows."""

    def __init__(self, rows: Sequence[RawRow]) -> None:
        self._rows = rows

    def __call__(self, name: str, default: float = float("nan")) -> np.ndarray:
        return np.array([number(row, name, default) for row in self._rows])


def _predict_moe(gpu: Gpu, dtype: str, rows: Sequence[RawRow], column: _Columns, warm: np.ndarray) -> KernelTime:
    experts = np.array([float(note(row, "experts") or "nan") for row in rows])
    ep = np.array([float(note(row, "ep") or 1) for row in rows])
    top_k = np.array([float(note(row, "topk") or "nan") for row in rows])
    local = experts / ep
    active = np.array([float(note(row, "active") or "nan") for row in rows])
    tokens = column("m")
    balanced = np.minimum(local, np.maximum(1.0, tokens * top_k / ep))
    return gpu_moe.moe(gpu, tokens, column("n"), column("k"), local, top_k / ep,
                       active=np.where(np.isnan(active), balanced, active), dtype=dtype, l2_warm=warm)


def split_by(rows: Iterable[RawRow], *columns: str) -> dict[tuple[str, ...], list[RawRow]]:
    """Rows by the values of *columns*, in order of first appearance."""
    groups: dict[tuple[str, ...], list[RawRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(c) or "" for c in columns), []).append(row)
    return groups
