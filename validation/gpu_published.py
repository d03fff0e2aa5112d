"""Published GPU figures: GEMM and attention kernels, static-batch and max-load generation, batch-1 prefill and decode.

One row of `published_*.csv` is one printed number. A framework that shows in its numbers has one host constant (`ENGINES`).
Rows that our kernels do not cover (training passes, ratios between kernels, vendors without a description) are skipped with
that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..arch import gpu_attention, gpu_gemm
from ..arch.gpu_collectives import link_class
from ..arch.gpu_config import ELEMENT_BYTES, Gpu, assemble
from .contract import Row, compare, skip
from .gpu_models import Engine, Step, cache_bytes_per_token, generation_s, step
from .gpu_published_ops import board_named, decode_attention, grouped_gemm, narrow_weights
from .gpu_rows import UNPREDICTABLE, RawRow, number
from .gpu_serving import open_loop
from .gpu_shapes import Shape, shape_named

PUBLISHED_COLUMNS = {"device", "n_dev", "kind", "name", "shape", "batch", "isl", "osl", "dtype", "framework", "metric", "value"}
TOLERANCE_PCT = 12.0
#: A framework by the beginning of its name: (its kernels' library, host µs per layer, how the host shows).
#: TensorRT-LLM 0.5: first tokens of 128-token prompts take 2.5–3 ms longer than the device for 28–32 layers. The rest 0.
ENGINES: dict[str, tuple[str, Engine]] = {
    "TensorRT-LLM v0.5": ("trtllm-2023", Engine(94.0, "queued")),
    "TensorRT-LLM v0.6": ("trtllm-2023", Engine(94.0, "queued")),
    "TensorRT-LLM v0.17": ("fused-2025", Engine(0.0, "graph")),
    "TensorRT-LLM": ("fused-2025", Engine(0.0, "graph")),
    "vLLM": ("fused-2025", Engine(0.0, "graph")),
    "MLC": ("fused-2025", Engine(0.0, "graph")),
    # The baselines of QServe, spring of 2024. ASSUMED: the masked attention of the year before. Models whose heads share K and V
    # come out at the pace of a kernel that reads both for each head (3–26 % off, 30–100 % too fast with packed heads); a build log
    # of theirs would overturn it.
    "TRT-LLM": ("trtllm-2023", Engine(0.0, "graph")),
    **dict.fromkeys(("QServe", "Atom", "QuaRot"), ("fused-2025", Engine(0.0, "graph"))),
    # Eager steps of one sequence take 22.1 ms for 32 layers on an A100, whatever the context.
    **dict.fromkeys(("HF torch eager", "HuggingFace eager"), ("eager-2023", Engine(690.0, "eager"))),
    # Its int8 kernels of late 2024 multiply narrow weights as they are; before, 64 tokens and more went through cuBLAS in 16 bits
    # (ggml-cuda.cu, MMQ_MAX_BATCH_SIZE).
    **dict.fromkeys(("llama.cpp CUDA int8", "llama.cpp CUDA (2025)"), ("fused-2025", Engine(0.0, "graph"))),
    "llama.cpp": ("fused-2025", Engine(0.0, "graph", dequantises_from_tokens=64)),
}
_OPERATORS: dict[str, Callable[[RawRow, Gpu], float | None]] = {
    "attention_decode": decode_attention, "grouped_gemm": grouped_gemm, "w4a16_linear_layers": narrow_weights}
_QUANTISED_WEIGHTS = {"q4_k_m": "int4", "q4_0": "int4", "f16": "fp16", "16-bit": "fp16", "fp8": "fp8", "fp4": "nvfp4",
                      "w8a8": "int8", "w4a16": "int4", "w4a4": "int4", "w4a8kv4": "int4"}
#: What "over PCIe" means for a board that has faster links too.
_PCIE_LINK = "pcie4-switched"
#: llama.cpp prefills in chunks of so many tokens (`n_ubatch`, its default) unless a row says otherwise.
_MICROBATCH = 512
#: Boards whose prefill energies come from their own meter, read once a second, and what it reads of the idle board: passes of
#: less than a second all read 5.5 W, longer ones as many times the power of the pass as seconds went by. ASSUMED: both were
#: inferred from these very rows, whose source does not describe its meter; a description of it would overturn them.
_ONE_HERTZ_METER_IDLE_W = {"jetson-agx-orin": 5.5}
#: Share of free memory that paged KV may take (README of the tables).
_KV_SHARE = 0.95


def published_rows(table: Sequence[RawRow], stem: str, gpus: Mapping[str, Gpu]) -> list[Row]:
    """Scores of one published table; *stem* names it in the groups."""
    return [_row(raw, stem, gpus) for raw in table]


def _row(raw: RawRow, stem: str, gpus: Mapping[str, Gpu]) -> Row:
    group = f"published:{stem}:{raw['metric']}"
    case = "/".join(raw.get(c) or "-" for c in
                    ("device", "n_dev", "name", "shape", "batch", "isl", "osl", "context", "dtype", "framework", "metric"))
    value = number(raw, "value")
    if value != value:
        return skip(case, group, None, f"the value {raw['value']!r} is no number")
    board = board_named(raw["device"], gpus)
    if board is None:
        return skip(case, group, value, f"no description of the device {raw['device']!r}")
    if (raw.get("quality") or "").startswith("C"):
        return skip(case, group, value, "quality C: dominated by an effect that a hardware model should not reproduce")
    predict = _predictor(raw)
    try:
        got = predict(raw, board) if predict is not None else None
    except UNPREDICTABLE as error:
        return skip(case, group, value, f"no prediction: {error}")
    if got is None:
        return skip(case, group, value, f"no model of {raw['name']!r} with {raw['framework'] or 'this framework'!r}")
    return compare(case, group, value, got, TOLERANCE_PCT, device=raw["device"], quality=raw.get("quality") or "")


def _predictor(raw: RawRow) -> Callable[[RawRow, Gpu], float | None] | None:
    """What can predict the figure of *raw*, or None."""
    if raw["kind"] == "op" and raw["name"].startswith("gemm"):
        return _gemm if "naive" not in raw["framework"] else None
    if raw["kind"] == "op" and raw["name"] == "attention_fwd":
        return _attention if raw["framework"].startswith(("FlashAttention", "cuDNN", "Triton")) else None
    if raw["kind"] == "op":
        return next((predict for start, predict in _OPERATORS.items() if raw["name"].startswith(start)), None)
    if raw["kind"] == "model" and "open loop" in (raw["batch"] or ""):
        return _serving
    if raw["kind"] == "model":
        return {"first_token_latency": _first_token, "output_throughput": _static_batch,
                "output_throughput_per_gpu": _static_batch, "throughput_max_load_total": _max_load,
                "ttft": _first_token, "decode_time": _decode_time, "decode_energy": _decode_energy,
                "prefill_energy": _prefill_energy, "steady_state_decode_power": _decode_power,
                "decode_throughput": _decode_rate, "prefill_throughput": _prefill_rate, "prefill_latency": _first_token,
                "decode_latency_total": _decode_ms, "max_output_throughput": _max_load,
                "total_throughput_in_plus_out": _total_rate}.get(raw["metric"])
    return None


def _shape_numbers(raw: RawRow) -> dict[str, float]:
    return {key.strip(): float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", raw.get("shape") or "")}


def _dtype(raw: RawRow) -> str:
    text = raw["dtype"].lower()
    if "fp8" in text:
        return "fp8_block" if "block" in raw["name"] else "fp8"
    return next((name for name in ("tf32", "fp32", "bf16", "fp16") if name in text), "bf16")


def _gemm(raw: RawRow, gpu: Gpu) -> float | None:
    sizes = _shape_numbers(raw)
    if not {"M", "N", "K"} <= set(sizes):
        return None
    m, n, k = sizes["M"], sizes["N"], sizes["K"]
    dtype = _dtype(raw)
    seconds = float(gpu_gemm.gemm(gpu, m, n, k, dtype=dtype, quantise=False).seconds[0])
    moved = m * k * ELEMENT_BYTES[dtype] + k * n * ELEMENT_BYTES[dtype] + m * n * 2.0
    if raw["metric"] == "latency":
        return seconds * 1e3
    return moved / seconds / 1e9 if raw["metric"] == "achieved_bandwidth" else 2.0 * m * n * k / seconds / 1e12


def _attention(raw: RawRow, gpu: Gpu) -> float | None:
    sizes = _shape_numbers(raw)
    batch, tokens, causal = number(raw, "batch"), number(raw, "isl"), sizes.get("causal", 0.0) == 1.0
    time = gpu_attention.prefill(gpu, batch, sizes["heads"], sizes["heads"], sizes["head_dim"], tokens, tokens,
                                 dtype=_dtype(raw), causal=causal)
    flops = 4.0 * tokens**2 * sizes["head_dim"] * sizes["heads"] * batch * (0.5 if causal else 1.0)
    return flops / float(time.seconds[0]) / 1e12


def _engine(raw: RawRow, gpu: Gpu) -> tuple[Gpu, Engine] | None:
    found = next((ENGINES[key] for key in ENGINES if raw["framework"].startswith(key)), None)
    if found is None:
        return None
    library, engine = found
    dtype = _QUANTISED_WEIGHTS.get(raw["dtype"].lower(), _dtype(raw))
    kv_dtype = "int4" if raw["dtype"].endswith("kv4") else "fp8" if dtype in ("fp8", "nvfp4") else "fp16"
    engine = replace(engine, dtype=dtype, kv_dtype=kv_dtype)
    return assemble(gpu.device.model_copy(update={"library": library})), engine


def _model(raw: RawRow, gpu: Gpu) -> tuple[Gpu, Engine, Shape, int] | None:
    found, shape = _engine(raw, gpu), shape_named(raw["name"])
    return None if found is None or shape is None else (*found, shape, int(number(raw, "n_dev", 1.0)))


def _first_token(raw: RawRow, gpu: Gpu) -> float | None:
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, ranks = parts
    prompt = int(number(raw, "isl"))
    return step(board, shape, engine, batch=int(number(raw, "batch", 1.0)), q_len=prompt, kv_len=prompt, ranks=ranks).seconds * 1e3


def _static_batch(raw: RawRow, gpu: Gpu) -> float | None:
    if (parts := _model(raw, gpu)) is None or "static" not in raw["framework"]:
        return None
    board, engine, shape, ranks = parts
    batch, prompt, output = int(number(raw, "batch")), int(number(raw, "isl")), int(number(raw, "osl", 128.0))
    seconds = generation_s(board, shape, engine, batch=batch, prompt=prompt, output=output, ranks=ranks)
    return batch * output / seconds / (ranks if raw["metric"].endswith("per_gpu") else 1)


def _max_load(raw: RawRow, gpu: Gpu) -> float | None:
    """Throughput with as many sequences as the memory's KV space holds, prompts and steps sharing the device in turn."""
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, ranks = parts
    prompt, output = int(number(raw, "isl")), int(number(raw, "osl"))
    free = ranks * board.device.dram_capacity_bytes - shape.stored_weights * ELEMENT_BYTES[engine.dtype]
    batch = int(_KV_SHARE * free / (cache_bytes_per_token(shape, engine.kv_dtype) * (prompt + output)))
    if batch < 1:
        return None
    # The batch that was run if the row tells it, else the engine's `max_batch_size` in the published runs at most.
    batch = min(batch, 2048) if number(raw, "batch") != number(raw, "batch") else int(number(raw, "batch"))
    chunk = max(1, min(batch, 8192 // prompt))
    prompt_s = step(board, shape, engine, batch=chunk, q_len=prompt, kv_len=prompt, ranks=ranks).seconds * batch / chunk
    steps_s = output * step(board, shape, engine, batch=batch, q_len=1, kv_len=prompt + output // 2, ranks=ranks).seconds
    return batch * output / (prompt_s + steps_s)


def _serving(raw: RawRow, gpu: Gpu) -> float | None:
    """A figure of an online run: requests arrive at the rate in the row, the engine batches them continuously."""
    shape, rate = shape_named(raw["name"]), re.search(r"qps=(INF|[\d.]+)", raw["batch"])
    if shape is None or rate is None:
        return None
    found = open_loop(gpu, shape, int(number(raw, "n_dev", 1.0)), float("inf") if rate[1] == "INF" else float(rate[1]),
                      int(number(raw, "isl")), int(number(raw, "osl")))
    return found.get(raw["metric"])


def _decode_rate(raw: RawRow, gpu: Gpu) -> float | None:
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, boards = parts
    # Layers split over boards run one after another, as on one board; only "TP" divides each layer.
    ranks = boards if " TP " in raw["framework"] else 1
    context = int(number(raw, "context", 512.0))
    link = link_class(_PCIE_LINK) if "over PCIe" in raw["framework"] else None
    return 1.0 / step(board, shape, engine, batch=1, q_len=1, kv_len=context, ranks=ranks, link=link).seconds


def _decode_ms(raw: RawRow, gpu: Gpu) -> float | None:
    seconds = _decode_time(raw, gpu)
    return None if seconds is None else 1e3 * seconds


def _total_rate(raw: RawRow, gpu: Gpu) -> float | None:
    """Tokens of prompts and answers per second, of one static batch."""
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, ranks = parts
    batch, prompt, output = (int(number(raw, column)) for column in ("batch", "isl", "osl"))
    return batch * (prompt + output) / generation_s(board, shape, engine, batch=batch, prompt=prompt, output=output, ranks=ranks)


def _decode_steps(raw: RawRow, gpu: Gpu) -> tuple[int, Step] | None:
    """How many steps a generation takes, and the step at its mean context."""
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, ranks = parts
    prompt, output = int(number(raw, "isl")), int(number(raw, "osl"))
    batch, context = int(number(raw, "batch", 1.0)), prompt + output // 2
    return output, step(board, shape, engine, batch=batch, q_len=1, kv_len=context, ranks=ranks)


def _decode_time(raw: RawRow, gpu: Gpu) -> float | None:
    found = _decode_steps(raw, gpu)
    return None if found is None else found[0] * found[1].seconds


def _decode_energy(raw: RawRow, gpu: Gpu) -> float | None:
    found = _decode_steps(raw, gpu)
    return None if found is None else found[0] * found[1].energy_j


def _decode_power(raw: RawRow, gpu: Gpu) -> float | None:
    found = _decode_steps(raw, gpu)
    return None if found is None else found[1].energy_j / found[1].seconds


def _prefill_energy(raw: RawRow, gpu: Gpu) -> float | None:
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, ranks = parts
    prompt = int(number(raw, "isl"))
    one = step(board, shape, engine, batch=int(number(raw, "batch", 1.0)), q_len=prompt, kv_len=prompt, ranks=ranks)
    idle_w = _ONE_HERTZ_METER_IDLE_W.get(board.name)
    return one.energy_j if idle_w is None else metered_j(one, idle_w)


def metered_j(one: Step, idle_w: float) -> float:
    """What a meter that reads once a second makes of a pass: the first reading is still of the idle board."""
    readings = 1 + int(one.seconds)
    return (idle_w + (readings - 1) * one.energy_j / one.seconds) / readings * one.seconds


def _prefill_rate(raw: RawRow, gpu: Gpu) -> float | None:
    if (parts := _model(raw, gpu)) is None:
        return None
    board, engine, shape, boards = parts
    prompt = int(number(raw, "isl", number(raw, "context", 1024.0)))
    chunk = min(prompt, int(_shape_numbers(raw).get("microbatch", _MICROBATCH)))
    chunks = -(-prompt // chunk)
    # Half the prompt stands for its mean prefix. Boards that split the layers work on as many chunks at once (a pipeline).
    seconds = step(board, shape, engine, batch=1, q_len=chunk, kv_len=max(chunk, (prompt + chunk) // 2)).seconds
    stages = 1 if " TP " in raw["framework"] else boards
    return prompt / (seconds * (chunks + stages - 1) / stages)
