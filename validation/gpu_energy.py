"""Measured energy per output token of served models (ML.ENERGY): steady decode batches of vLLM, all boards together.

A row tells model, mean batch, boards and the mean length of answers. In the steady state each step decodes the batch and, on
average, prefills batch / answer length new prompts: the joules per output token are those of both. Where less than half a prompt
comes with a step, the median time between tokens is that of a step without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch.gpu_config import Gpu
from .contract import Row, compare, skip
from .gpu_hosts import VLLM_HOST_US_PER_SEQUENCE
from .gpu_models import Engine, step
from .gpu_rows import UNPREDICTABLE, RawRow, note, number
from .gpu_shapes import Shape, shape_named

#: Reported, not promised: what the engine does between steps is not in the rows.
TOLERANCE_PCT = 25.0
#: Tokens of a prompt. ASSUMED: the tasks' mean is not in the rows; answers of 600–9000 tokens make it weigh little.
_PROMPT_TOKENS = 300
#: Dense models of today, one of which stands in for a model of a kind that no shape says.
_STAND_INS = ("qwen3-8b", "qwen3-14b", "qwen3-32b", "gemma-3-12b", "gemma-3-27b", "llama-3-8b", "llama-3-70b", "llama-3-405b")
_FORMATS = {"bfloat16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4"}


def energy_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu]) -> list[Row]:
    """Two scores of each row of energy per token: the joules, and the time between tokens."""
    rows: list[Row] = []
    for raw in table:
        if raw["op"] != "e2e_decode" or not number(raw, "power_w") > 0:
            continue
        wanted = {f"{raw['row_id']}/J_per_token": ("e2e_energy", number(raw, "value")),
                  f"{raw['row_id']}/itl_us": ("e2e_itl", number(raw, "median_us"))}
        try:
            found = _predict(raw, gpus)
        except UNPREDICTABLE as error:
            found = f"no prediction: {error}"
        for case, (group, expected) in wanted.items():
            if isinstance(found, str):
                rows.append(skip(case, group, expected, found, device=raw["device"]))
            else:
                rows.append(compare(case, group, expected, found[group], TOLERANCE_PCT, device=raw["device"]))
    return rows


def _predict(raw: RawRow, gpus: Mapping[str, Gpu]) -> dict[str, float] | str:
    """Joules per token and µs per step, or why there are none."""
    if raw["device"] not in gpus:
        return f"no description of the device {raw['device']!r}"
    if raw["dtype"] not in _FORMATS:
        return f"no format {raw['dtype']!r}"
    shape = _shape(raw)
    gpu, batch, ranks = gpus[raw["device"]], max(1, round(number(raw, "batch"))), int(number(raw, "ranks", 1.0))
    answer = max(1.0, float(note(raw, "avg_out") or 0.0))
    engine = Engine(0.0, "graph", _FORMATS[raw["dtype"]], "bf16")
    one = step(gpu, shape, engine, batch=batch, q_len=1, kv_len=_PROMPT_TOKENS + int(answer / 2), ranks=ranks)
    prompt = step(gpu, shape, engine, batch=1, q_len=_PROMPT_TOKENS, kv_len=_PROMPT_TOKENS, ranks=ranks)
    prompts = batch / answer
    host_s = VLLM_HOST_US_PER_SEQUENCE * 1e-6 * batch
    joules = one.energy_j + prompts * prompt.energy_j + ranks * gpu.device.idle_power_w * host_s
    seconds = one.seconds + host_s + (prompts * prompt.seconds if prompts >= 0.5 else 0.0)
    return {"e2e_energy": joules / batch, "e2e_itl": seconds * 1e6}


def _shape(raw: RawRow) -> Shape:
    """The model's shape; where its attention or its layers are of a kind that a `Shape` cannot say (state space, chunks), the
    dense model with the nearest number of active parameters stands in, and the row counts against us."""
    found = shape_named(note(raw, "model") or "")
    if found is not None:
        return found
    active = 1e9 * float(note(raw, "active_B") or 8.0)
    return min(filter(None, map(shape_named, _STAND_INS)), key=lambda shape: abs(shape.weights - active))
