"""What the host adds to measured rows, by framework: one constant for each way through it, fitted by `calibrate_hosts`.

LLMCompass times PyTorch calls with `time.time()` and a synchronise. Softmax is an eager call of a kernel of PyTorch's own; a
matrix product goes through the vendor's library, whose heuristic picks a kernel at every call; its layer norm and GELU are
`torch.compile`d functions, whose guards run before every call (software_model/matmul.py, layernorm.py and gelu.py of its
repository): three ways through one framework. The Splitwise profiles ran vLLM of 2023, whose host launches a layer's kernels: the
attention of a step is one call of its extension, that of a prompt goes through xFormers, which looks for an operator in Python at
every layer (vllm/model_executor/layers/attention.py of v0.2).
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..sim.config import Config, load

HOSTS_FILE = Path(__file__).resolve().parent / "data" / "gpu_hosts.yaml"
_Microseconds = Annotated[float, Field(ge=0)]

#: Operators that LLMCompass compiled.
COMPILED = ("layernorm", "gelu")
#: Speed of one host thread behind a board, over that behind the A100 profiles. The A100 machines have a Zen 2 (EPYC 7V12, 3.3–3.4
#: GHz), the H100 ones a Golden Cove (Xeon 8480C, 3.8 GHz): 3.8/3.4 of the clock, and twice 19 % more instructions a cycle (AMD on
#: Zen 3 over Zen 2, Intel on Golden Cove over its predecessor). ASSUMED: that predecessor is as fast as Zen 3; one thread of
#: the launching process timed on both machines would overturn it.
HOST_SPEED = {"a100-80gb": 1.0, "h100-80gb": 3.8 / 3.4 * 1.19 * 1.19}


#: Host time that vLLM shows for each sequence of a batch: scheduling, sampling, detokenising. The framework's constant: what
#: measured steps of 100–4000 sequences take beyond the device in CUDA graphs, over their sequences (36–44 µs on four boards).
VLLM_HOST_US_PER_SEQUENCE = 40.0


class Hosts(Config):
    """Host time of each way through each framework."""

    cuda_eager_call_us: _Microseconds
    cuda_matmul_call_us: _Microseconds
    cuda_compiled_call_us: _Microseconds
    rocm_eager_call_us: _Microseconds
    rocm_matmul_call_us: _Microseconds
    rocm_compiled_call_us: _Microseconds
    vllm_2023_layer_us: _Microseconds           # of a step, on the slower host
    vllm_2023_prompt_layer_us: _Microseconds


@cache
def hosts() -> Hosts:
    """The shipped constants."""
    return load(Hosts, HOSTS_FILE, kind="hosts")


def call_field(board: str, operator: str) -> str:
    """The constant of a PyTorch call: by the board's vendor and by the way that the operator takes."""
    vendor = "rocm" if board.startswith("mi") else "cuda"
    way = "compiled" if operator in COMPILED else "matmul" if operator == "matmul" else "eager"
    return f"{vendor}_{way}_call_us"


def vllm_2023_sequence_us(ranks: int) -> float:
    """Host time of one sequence in vLLM of 2023: the driver hands the batch to each of *ranks* workers in turn, pickled anew for
    each (vllm/engine/llm_engine.py of v0.2, `_run_workers`: one Ray call a worker)."""
    return VLLM_HOST_US_PER_SEQUENCE * ranks


def layer_us(board: str, *, is_decode: bool) -> float:
    """Host time to launch one layer in the Splitwise profiles of *board*."""
    constants = hosts()
    slow_us = constants.vllm_2023_layer_us if is_decode else constants.vllm_2023_prompt_layer_us
    return slow_us / HOST_SPEED.get(board, 1.0)


def is_held(key: str) -> bool:
    """Whether a row is kept from the fit of the host constants: by a hash, about every other one."""
    return int(hashlib.sha1(key.encode()).hexdigest(), 16) % 2 == 1
