"""What the host adds to measured rows, by framework: one constant for each way through it, fitted by `calibrate_hosts`.

LLMCompass times PyTorch calls with `time.time()` and a synchronise. Softmax is an eager call of a kernel of PyTorch's own; a matrix
product goes through the vendor's library, whose heuristic picks a kernel at every call; its layer norm and GELU are `torch.compile`d
functions, whose guards run before every call (software_model/matmul.py, layernorm.py and gelu.py of its repository): three ways
through one framework. The Splitwise profiles ran vLLM of 2023, whose host launches a layer's kernels.
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


class Hosts(Config):
    """Host time of each way through each framework."""

    cuda_eager_call_us: _Microseconds
    cuda_matmul_call_us: _Microseconds
    cuda_compiled_call_us: _Microseconds
    rocm_eager_call_us: _Microseconds
    rocm_matmul_call_us: _Microseconds
    rocm_compiled_call_us: _Microseconds
    vllm_2023_layer_us: _Microseconds           # on the slower host


@cache
def hosts() -> Hosts:
    """The shipped constants."""
    return load(Hosts, HOSTS_FILE, kind="hosts")


def call_field(board: str, operator: str) -> str:
    """The constant of a PyTorch call: by the board's vendor and by the way that the operator takes."""
    vendor = "rocm" if board.startswith("mi") else "cuda"
    way = "compiled" if operator in COMPILED else "matmul" if operator == "matmul" else "eager"
    return f"{vendor}_{way}_call_us"


def layer_us(board: str) -> float:
    """Host time to launch one layer in the Splitwise profiles of *board*."""
    return hosts().vllm_2023_layer_us / HOST_SPEED.get(board, 1.0)


def is_held(key: str) -> bool:
    """Whether a row is kept from the fit of the host constants: by a hash, about every other one."""
    return int(hashlib.sha1(key.encode()).hexdigest(), 16) % 2 == 1
