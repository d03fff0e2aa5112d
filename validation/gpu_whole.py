"""Measured whole forward passes: prefill and decode of served models, layer stacks, serving runs.

The profiles ran eagerly, so the device waits for the host in small batches: one constant for a layer of a step and one for a layer
of a prompt, each fitted by `calibrate_hosts` to half of its rows; the other half is scored apart too, as `…:held`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arch.gpu_config import ELEMENT_BYTES, Gpu
from .contract import Row, compare, skip
from .gpu_hosts import is_held, layer_us, vllm_2023_sequence_us
from .gpu_models import Engine, Step, cache_bytes_per_token, step
from .gpu_rows import UNPREDICTABLE, RawRow, note, number
from .gpu_shapes import Shape, shape_named

TOLERANCE_PCT = 15.0


def whole_rows(table: Sequence[RawRow], gpus: Mapping[str, Gpu], skip_reason: Mapping[str, str | None]) -> list[Row]:
    """Scores of the `e2e_*` rows; *skip_reason* gives the flag of each row id that must be left out."""
    rows: list[Row] = []
    for raw in table:
        if not raw["op"].startswith("e2e_") or number(raw, "power_w") > 0:
            continue
        reason = skip_reason.get(raw["row_id"])
        expected = number(raw, "median_us") if raw["op"] != "e2e_throughput" else number(raw, "value")
        shape = shape_named(note(raw, "model") or "")
        if reason is None and shape is None:
            reason = f"no shape of the model {note(raw, 'model')!r}"
        facts = {"device": raw["device"], "dtype": raw["dtype"]}
        if reason is not None:
            rows.append(skip(raw["row_id"], raw["op"], expected, reason, **facts))
            continue
        gpu = gpus[raw["device"]]
        try:
            got = _throughput(raw, gpu) if raw["op"] == "e2e_throughput" else device_pass(raw, gpu).seconds * 1e6
        except UNPREDICTABLE as error:
            rows.append(skip(raw["row_id"], raw["op"], expected, f"no prediction: {error}", **facts))
            continue
        low, high = number(raw, "us_lo"), number(raw, "us_hi")
        spread = (low, high) if number(raw, "n_meas", 1.0) >= 2 and low > 0 and high > 0 else (None, None)
        rows.append(compare(raw["row_id"], raw["op"], expected, got, TOLERANCE_PCT, low=spread[0], high=spread[1],
                            held=raw["op"] != "e2e_throughput" and is_held(raw["row_id"]), **facts))
    return rows


def device_pass(raw: RawRow, gpu: Gpu) -> Step:
    """The forward pass of an `e2e_prefill` or `e2e_decode` row, with its host."""
    ranks = int(number(raw, "ranks", 1.0))
    engine = Engine(layer_us(gpu.name, is_decode=raw["op"] == "e2e_decode"), "eager", _format(raw),
                    host_us_per_sequence=vllm_2023_sequence_us(ranks))
    return step(gpu, _shape(raw), engine, batch=int(number(raw, "batch")), q_len=int(number(raw, "q_len")),
                kv_len=int(number(raw, "kv_len")), ranks=ranks)


def _shape(raw: RawRow) -> Shape:
    shape = shape_named(note(raw, "model") or "")
    assert shape is not None, "rows of other models are skipped"
    return shape


def _format(raw: RawRow) -> str:
    return "nvfp4" if raw["dtype"] == "fp4" else raw["dtype"]


def _throughput(raw: RawRow, gpu: Gpu) -> float:
    """Offline throughput at the batch that the KV space holds: prompts in chunks, then steps at the mean context."""
    shape, weights = _shape(raw), _format(raw)
    cache = "fp8" if ELEMENT_BYTES[weights] < 2.0 else weights            # engines narrow both or neither
    engine = Engine(0.0, "graph", weights, cache)
    prompt, output = int(number(raw, "q_len")), int(number(raw, "kv_len"))
    ranks = int(number(raw, "ranks", 1.0))
    free = ranks * gpu.device.dram_capacity_bytes - shape.stored_weights * ELEMENT_BYTES[weights]
    batch = max(1, min(2048, int(0.95 * free / (cache_bytes_per_token(shape, cache) * (prompt + output)))))
    chunk = max(1, min(batch, 8192 // prompt))
    prompts_s = step(gpu, shape, engine, batch=chunk, q_len=prompt, kv_len=prompt, ranks=ranks).seconds * batch / chunk
    steps_s = output * step(gpu, shape, engine, batch=batch, q_len=1, kv_len=prompt + output // 2, ranks=ranks).seconds
    return batch * output / (prompts_s + steps_s)
