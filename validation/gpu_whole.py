"""Measured whole forward passes: prefill and decode of served models, layer stacks, serving runs.

The profiles ran eagerly, so the device waits for the host in small batches: one host constant for the framework, fitted by
`calibrate_hosts` to half of the decode rows; the other half is scored apart too, as `…:held`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch.gpu_config import ELEMENT_BYTES, Gpu
from .contract import Row, compare, skip
from .gpu_hosts import is_held, layer_us
from .gpu_models import SHAPES, Engine, Step, cache_bytes_per_token, step
from .gpu_rows import RawRow, note, number

TOLERANCE_PCT = 15.0
_MODELS = {"llama2-70b": "llama-70b", "bloom-176b": "bloom-176b", "gpt2_large": "gpt2-large", "bert_large": "bert-large",
           "gpt3_xl": "gpt3-xl", "gpt3_27": "gpt3-2.7b", "Llama-3.x-70B": "llama-3-70b", "Llama-3.x-405B": "llama-3-405b"}


def whole_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu], skip_reason: Mapping[str, str | None]) -> list[Row]:
    """Scores of the `e2e_*` rows; *skip_reason* gives the flag of each row id that must be left out."""
    rows: list[Row] = []
    for raw in table:
        if not raw["op"].startswith("e2e_") or number(raw, "power_w") > 0:
            continue
        reason = skip_reason.get(raw["row_id"])
        expected = number(raw, "median_us") if raw["op"] != "e2e_throughput" else number(raw, "value")
        shape = SHAPES.get(_MODELS.get(note(raw, "model") or "", ""))
        if reason is None and shape is None:
            reason = f"no shape of the model {note(raw, 'model')!r}"
        facts = {"device": raw["device"], "dtype": raw["dtype"]}
        if reason is not None:
            rows.append(skip(raw["row_id"], raw["op"], expected, reason, **facts))
            continue
        gpu = gpus[raw["device"]]
        got = _throughput(raw, gpu) if raw["op"] == "e2e_throughput" else device_pass(raw, gpu).seconds * 1e6
        low, high = number(raw, "us_lo"), number(raw, "us_hi")
        spread = (low, high) if number(raw, "n_meas", 1.0) >= 2 and low > 0 and high > 0 else (None, None)
        rows.append(compare(raw["row_id"], raw["op"], expected, got, TOLERANCE_PCT, low=spread[0], high=spread[1],
                            held=raw["op"] != "e2e_throughput" and is_held(raw["row_id"]), **facts))
    return rows


def device_pass(raw: RawRow, gpu: Gpu) -> Step:
    """The forward pass of an `e2e_prefill` or `e2e_decode` row, with its host."""
    shape = SHAPES[_MODELS[note(raw, "model") or ""]]
    engine = Engine(layer_us(gpu.name), "eager", raw["dtype"] if raw["dtype"] != "fp4" else "nvfp4")
    return step(gpu, shape, engine, batch=int(number(raw, "batch")), q_len=int(number(raw, "q_len")),
                kv_len=int(number(raw, "kv_len")), ranks=int(number(raw, "ranks", 1.0)))


def _throughput(raw: RawRow, gpu: Gpu) -> float:
    """Offline throughput at the batch that the KV space holds: prompts in chunks, then steps at the mean context."""
    shape = SHAPES[_MODELS[note(raw, "model") or ""]]
    engine = Engine(0.0, "graph", "nvfp4", "fp8")
    prompt, output = int(number(raw, "q_len")), int(number(raw, "kv_len"))
    ranks = int(number(raw, "ranks", 1.0))
    free = ranks * gpu.device.dram_capacity_bytes - shape.stored_weights * ELEMENT_BYTES["nvfp4"]
    batch = max(1, min(2048, int(0.95 * free / (cache_bytes_per_token(shape, "fp8") * (prompt + output)))))
    chunk = max(1, min(batch, 8192 // prompt))
    prompts_s = step(gpu, shape, engine, batch=chunk, q_len=prompt, kv_len=prompt, ranks=ranks).seconds * batch / chunk
    steps_s = output * step(gpu, shape, engine, batch=batch, q_len=1, kv_len=prompt + output // 2, ranks=ranks).seconds
    return batch * output / (prompts_s + steps_s)
