"""CPU seconds of the whole road: start-up, mapping, a prefill and a decode step of a 1B model, each in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

from .bench import Line

_LLAMA = ("run", "--arch", "hbm-npu", "--model", "llama-3.2-1b")
COMMANDS = {
    "tilesim --help": ("--help",),
    "llama-3.2-1b, prefill 512, hbm-npu": (*_LLAMA, "--phase", "prefill", "--prompt", "512"),
    "llama-3.2-1b, decode at 2048, hbm-npu": (*_LLAMA, "--phase", "decode", "--context", "2048"),
    "gpt2, decode at 512, hbm-npu": ("run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "512"),
}


def benchmarks() -> Iterator[Line]:
    """The least of three runs of each command, after one that fills the kernel cache."""
    for case, arguments in COMMANDS.items():
        yield Line(case, min([_cpu_s(arguments) for _ in range(4)][1:]))


def _cpu_s(arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "tilesim", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
