"""Serving runs: requests that arrive over time, batched continuously, against measured first-token and per-token times.

Each iteration decodes every running sequence and admits waiting prompts up to the engine's token budget (chunked prefill, as
vLLM does). The time of an iteration is that of its decode step plus that of its prompt chunk; both are looked up on a grid of
batch sizes and contexts that is filled on demand.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from statistics import fmean

from ..arch.gpu_config import ELEMENT_BYTES, Gpu, GpuDevice, assemble
from .contract import Row, compare, skip
from .gpu_hosts import VLLM_HOST_US_PER_SEQUENCE
from .gpu_models import Engine, cache_bytes_per_token, step
from .gpu_rows import RawRow, number
from .gpu_shapes import Shape, shape_named

SERVING_COLUMNS = {"arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s", "tpot_ms"}
TOLERANCE_PCT = 15.0
#: No request of a log has more tokens, or takes longer in seconds.
_MOST = 10_000_000
#: vLLM's settings: tokens of one iteration, and share of the memory it may take.
_TOKEN_BUDGET, MEMORY_SHARE = 2048, 0.9
#: `max_num_seqs` that engines are run with (vLLM's defaults by version and board, and the profiles' 128). A log shows which by the
#: sequences that ran side by side; waiting for a place is most of the first-token time.
_SEQUENCE_LIMITS = (128, 256, 512, 1024)
#: Host time of TensorRT-LLM, whose C++ loop hardly sees the batch: one constant a step.
_TRTLLM_HOST_US_PER_STEP = 1500.0
#: Grid of contexts, tokens, and points of the grid of batches in a power of two: a decode step's time is taken as linear between.
_CONTEXT_GRID, _BATCHES_IN_AN_OCTAVE = 256, 16


@dataclass(slots=True)
class Request:
    """One request on its way: what it asked for, what is done, and when its tokens came."""

    arrival_s: float
    prompt: int
    output: int
    prefilled: int = 0
    goal: int = 0                       # tokens to prefill before it decodes: the prompt, and after an eviction all it had
    generated: int = 0
    first_token_s: float = math.nan
    end_s: float = math.nan

    @property
    def tokens(self) -> int:
        """Tokens so far, which is what it takes in the cache."""
        return self.prompt + self.generated


def serving_rows(table: Sequence[RawRow], stem: str, gpus: Mapping[str, Gpu]) -> list[Row]:
    """Mean first-token, per-token and end-to-end time of one run. No column names the board and the model: *stem* does, as
    `serving_FRAMEWORK_DEVICE_MODEL_tpN`."""
    match = re.fullmatch(r"serving_[^_]+_([^_]+)_(.+)_tp(\d+)", stem)
    shape = shape_named(match[2]) if match else None
    reason = ""
    if match is None or shape is None or match[1] not in gpus:
        reason = "the file does not tell board and model"
    elif not all(0 <= number(r, column) <= _MOST for r in table for column in SERVING_COLUMNS):
        reason = "a request of the file lacks a time or a length"
    if reason or match is None or shape is None:
        return [skip(f"{stem}/mean_{metric}_s", "serving", None, reason) for metric in ("ttft", "tpot", "e2e")]
    requests = [Request(number(r, "arrival_s"), int(number(r, "prompt_tokens")), int(number(r, "output_tokens"))) for r in table]
    simulate(requests, gpus[match[1]], shape, int(match[3]), _sequence_limit(table),
             lambda sequences: VLLM_HOST_US_PER_SEQUENCE * 1e-6 * max(1, sequences))
    ours = {"ttft": fmean(r.first_token_s - r.arrival_s for r in requests), "e2e": fmean(r.end_s - r.arrival_s for r in requests),
            "tpot": fmean((r.end_s - r.first_token_s) / (r.output - 1) for r in requests if r.output > 1)}
    measured = {"ttft": fmean(number(r, "ttft_s") for r in table), "e2e": fmean(number(r, "e2e_s") for r in table),
                "tpot": fmean(number(r, "tpot_ms") * 1e-3 for r in table if number(r, "output_tokens") > 1)}
    return [compare(f"{stem}/mean_{metric}_s", "serving", measured[metric], ours[metric], TOLERANCE_PCT, device=match[1])
            for metric in ours]


def _sequence_limit(table: Sequence[RawRow]) -> int:
    """The engine's setting for sequences at once: the least of the usual ones that the log keeps to."""
    changes = [(number(r, "scheduled_s", number(r, "arrival_s")), 1) for r in table]
    changes += [(number(r, "arrival_s") + number(r, "e2e_s"), -1) for r in table]
    side_by_side = max(accumulate(change for _, change in sorted(changes)))
    return next((limit for limit in _SEQUENCE_LIMITS if side_by_side <= limit), _SEQUENCE_LIMITS[-1])


def simulate(
    requests: Sequence[Request], gpu: Gpu, shape: Shape, ranks: int, most_sequences: int, host_s: Callable[[int], float],
) -> None:
    """Run *requests* to their last tokens, at most *most_sequences* at once; *host_s* is the host's time of an iteration by the
    number of sequences that decode. The requests' times are filled in."""
    engine = Engine(0.0, "graph", "bf16", "bf16")

    @cache
    def decode_s(batch: int, context: int) -> float:
        return step(gpu, shape, engine, batch=batch, q_len=1, kv_len=max(1, context), ranks=ranks).seconds

    @cache
    def prefill_s(tokens: int, context: int) -> float:
        return step(gpu, shape, engine, batch=1, q_len=tokens, kv_len=max(tokens, context), ranks=ranks).seconds

    weight_bytes = shape.stored_weights * ELEMENT_BYTES[engine.dtype]
    weights_s = weight_bytes / ranks / gpu.dram_stream_bytes_per_s
    room_bytes = MEMORY_SHARE * gpu.device.dram_capacity_bytes * ranks - weight_bytes
    room = room_bytes / cache_bytes_per_token(shape, engine.kv_dtype)
    waiting, now_s = list(requests), 0.0
    running: list[Request] = []
    while waiting or running:
        if not running and waiting[0].arrival_s > now_s:
            now_s = waiting[0].arrival_s
        held = sum(r.tokens for r in running)
        while held > room and len(running) > 1:     # the cache is full: the last to come gives its place up and starts anew
            held -= running[-1].tokens
            waiting.insert(0, running.pop())
        while waiting and waiting[0].arrival_s <= now_s and len(running) < most_sequences and (
                not running or held + waiting[0].tokens <= room):
            held += waiting[0].tokens
            running.append(waiting.pop(0))
            running[-1].prefilled, running[-1].goal = 0, running[-1].tokens
        decoding = [r for r in running if r.prefilled >= r.goal]
        budget, chunk, context, prompting = _TOKEN_BUDGET - len(decoding), 0, 0, []
        for request in running:
            if request.prefilled < request.goal and budget > 0:
                part = min(budget, request.goal - request.prefilled)
                request.prefilled += part
                budget, chunk, context = budget - part, chunk + part, max(context, request.prefilled)
                prompting.append(request)
        now_s += host_s(len(decoding))
        started_s = now_s
        if decoding:
            contexts = _around(fmean(r.tokens for r in decoding), _CONTEXT_GRID)
            octave = 1 << (len(decoding).bit_length() - 1)
            batches = _around(len(decoding), max(1, octave // _BATCHES_IN_AN_OCTAVE))
            now_s += sum(batch_share * context_share * decode_s(batch, context)
                         for batch, batch_share in batches for context, context_share in contexts)
        if chunk:
            rounded = -(-chunk // 64) * 64
            decoded_s = now_s - started_s
            # One pass over the weights serves the chunk and the decoding sequences together.
            now_s += prefill_s(rounded, max(rounded, context)) - min(decoded_s, weights_s if decoding else 0.0)
        for request in decoding:
            request.generated += 1
        for request in prompting:
            if request.prefilled >= request.goal:
                request.generated += 1
                request.first_token_s = request.first_token_s if request.generated > 1 else now_s
        for request in [r for r in running if r.generated >= r.output]:
            request.end_s = now_s
            running.remove(request)


def _around(value: float, spacing: int) -> list[tuple[int, float]]:
    """The points of a grid on both sides of *value*, each with its share in a linear interpolation; one if *value* is on it."""
    low = int(value // spacing) * spacing
    share = (value - low) / spacing
    return [(low, 1.0 - share), (low + spacing, share)] if share else [(low, 1.0)]


#: Requests of an open-loop run of TensorRT-LLM's own benchmark, and the seed of their Poisson arrivals. Its lengths are fixed.
_OPEN_LOOP_REQUESTS, _SEED = 500, 1
#: TensorRT-LLM's `max_batch_size` in its published runs.
_OPEN_LOOP_SEQUENCES = 2048


def open_loop(gpu: Gpu, shape: Shape, ranks: int, requests_per_s: float, prompt: int, output: int) -> dict[str, float]:
    """Mean first-token time and time between tokens (ms), and output tokens per second, of requests that arrive at random at
    *requests_per_s* (infinite: all at once)."""
    return _open_loop(gpu.device.model_dump_json(), shape, ranks, requests_per_s, prompt, output)


@cache
def _open_loop(device: str, shape: Shape, ranks: int, requests_per_s: float, prompt: int, output: int) -> dict[str, float]:
    """The run on the board whose facts *device* says as JSON: each of its figures is a row of its own."""
    generator = random.Random(_SEED)
    arrival_s, requests = 0.0, []
    for _ in range(_OPEN_LOOP_REQUESTS):
        requests.append(Request(arrival_s, prompt, output))
        arrival_s += generator.expovariate(requests_per_s) if math.isfinite(requests_per_s) else 0.0
    simulate(requests, assemble(GpuDevice.model_validate_json(device)), shape, ranks, _OPEN_LOOP_SEQUENCES,
             lambda _: _TRTLLM_HOST_US_PER_STEP * 1e-6)
    return {"mean_ttft": 1e3 * fmean(r.first_token_s - r.arrival_s for r in requests),
            "mean_itl": 1e3 * fmean((r.end_s - r.first_token_s) / max(1, r.output - 1) for r in requests),
            "output_throughput": _OPEN_LOOP_REQUESTS * output / max(r.end_s for r in requests)}
