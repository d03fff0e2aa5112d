"""The GPU baseline that the authors of CENT measured: Llama 2 on one, two and four A100-80GB under vLLM (ASPLOS 2025).

All queries come at once. ASSUMED: PCIe cards, NVLink bridges between pairs, because the boards hold to 300 W each, which is the
card's limit (the module's is 400 W); and vLLM's own paged attention, after which the authors' logs are named. A word of theirs on
host and backend would overturn either.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..arch.gpu_config import Gpu, assemble, find_gpu
from .contract import Row, compare, skip
from .gpu_hosts import VLLM_HOST_US_PER_SEQUENCE
from .gpu_models import Engine, cache_bytes_per_token, step
from .gpu_rows import RawRow, number
from .gpu_serving import MEMORY_SHARE, Request, simulate
from .gpu_shapes import SHAPES

TABLE = Path(__file__).resolve().parent / "data" / "gpu_cent.csv"
CENT_COLUMNS = {"model", "gpus", "batch", "prompt", "output", "metric", "value", "source"}
TOLERANCE_PCT = 12.0
#: Host time of a step of vLLM's first engine (0.6–0.7): fitted to one row, Llama-2-7B alone on one board, which is not scored.
_HOST_US_PER_STEP = 1146.0
_CALIBRATION = ("llama-7b", "query_latency_s")
#: vLLM's default for sequences at once.
_MOST_SEQUENCES = 256
#: The link class of the measured A100 nodes with bridged pairs (vidur's); cards that meet on the host bridge would be 12 % slower.
_BOARD, _LINK, _LIBRARY = "a100-pcie-80gb", "nvlink3-pairs", "vllm-2024"


def cent_rows(table: Sequence[RawRow]) -> list[Row]:
    """Scores of a table of those columns: query latency and throughput; throughput by context is only reported."""
    return [_row(raw) for raw in table]


def _row(raw: RawRow) -> Row:
    model, metric, value = raw["model"], raw["metric"], number(raw, "value")
    gpus, batch, prompt, output = (int(number(raw, column)) for column in ("gpus", "batch", "prompt", "output"))
    case, group = f"cent/{model}/{gpus}/{batch}/{prompt}/{output}/{metric}", f"cent:{metric}"
    if (model, metric) == _CALIBRATION:
        return skip(case, group, value, "the row that the host time of a step is fitted to")
    if metric.endswith("by_context"):
        got = _decode_rate(model, gpus, batch, prompt + output)
    else:
        end_s = _last_end_s(model, gpus, batch, prompt, output)
        got = end_s if metric == "query_latency_s" else batch * (prompt + output) / end_s
    return compare(case, group, value, got, TOLERANCE_PCT, device=_BOARD)


def _decode_rate(model: str, gpus: int, most: int, context: int) -> float:
    """Tokens per second of steps at *context*, of as many sequences as the cache holds."""
    shape, board = SHAPES[model], _board()
    room_bytes = MEMORY_SHARE * gpus * board.device.dram_capacity_bytes - 2.0 * shape.stored_weights
    batch = max(1, min(most, int(room_bytes / (cache_bytes_per_token(shape, "bf16") * context))))
    device_s = step(board, shape, Engine(0.0, "graph", "bf16", "bf16"), batch=batch, q_len=1, kv_len=context, ranks=gpus).seconds
    return batch / (device_s + _host_s(batch))


@cache
def _last_end_s(model: str, gpus: int, batch: int, prompt: int, output: int) -> float:
    requests = [Request(0.0, prompt, output) for _ in range(batch)]
    simulate(requests, _board(), SHAPES[model], gpus, _MOST_SEQUENCES, _host_s)
    return max(request.end_s for request in requests)


def _host_s(sequences: int) -> float:
    return 1e-6 * (_HOST_US_PER_STEP + VLLM_HOST_US_PER_SEQUENCE * max(1, sequences))


@cache
def _board() -> Gpu:
    return assemble(find_gpu(_BOARD).device.model_copy(update={"link": _LINK, "library": _LIBRARY}))
