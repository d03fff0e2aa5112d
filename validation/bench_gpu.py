"""CPU seconds of the GPU model, kernels and report: one layer, whole steps, a 70B decode step on eight GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ..arch.gpu_config import find_gpu
from ..run import run_graph, simulate
from ..workloads.phases import decode, prefill
from ..workloads.shipped import load_model
from .bench import Line

#: Runs of each case, of which the least counts: what others do on the machine is not ours.
REPEATS = 5


def benchmarks() -> Iterator[Line]:
    """The least of some runs of each case, after one that reads the configs."""
    board = find_gpu("h100-sxm")
    layer = decode(load_model("llama-3.1-8b").model_copy(update={"layers": 1}), context=2048)
    graph = layer.lower()
    yield _line("one layer of llama-3.1-8b, decode, h100-sxm", lambda: run_graph(board, graph, "layer", 1, {}))
    yield _line("llama-3.1-8b, decode at 2048, h100-sxm", lambda: simulate(board, decode("llama-3.1-8b")))
    yield _line("llama-3.1-8b, prefill 2048, h100-sxm", lambda: simulate(board, prefill("llama-3.1-8b", prompt=2048)))
    yield _line("llama-3.1-70b, decode at 2048, batch 16, 8 × h100-sxm",
                lambda: simulate(board, decode("llama-3.1-70b", batch=16), tensor_parallel=8))


def _line(case: str, work: Callable[[], object]) -> Line:
    work()
    return Line(case, min(_cpu_s(work) for _ in range(REPEATS)))


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
