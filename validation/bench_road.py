"""CPU seconds of the whole road: start-up, mapping and a step of a model, or one large product, each in a process of its own; and
of mapping alone, for the first time and again with the search's choices kept."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from ..arch.machine import MachineConfig, load_machine
from ..mapping.mapper import map_graph
from ..workloads.graph import OperatorGraph
from ..workloads.phases import decode, prefill
from .bench import Line

_LLAMA = ("run", "--arch", "hbm-npu", "--model", "llama-3.2-1b")
COMMANDS = {
    "tilesim --help": ("--help",),
    "llama-3.2-1b, prefill 512, hbm-npu": (*_LLAMA, "--phase", "prefill", "--prompt", "512"),
    "llama-3.2-1b, decode at 2048, hbm-npu": (*_LLAMA, "--phase", "decode", "--context", "2048"),
    "gpt3-175b, one layer, decode at 2048, hbm-npu with 6 stacks": (
        "run", "--arch", "hbm-npu", "--set", "parts.hbm.stacks=6", "--model", "gpt3-175b", "--layers", "1", "--phase", "decode",
        "--context", "2048"),
    "gpt3-175b, one layer, prefill 2048, hbm-npu with 6 stacks": (
        "run", "--arch", "hbm-npu", "--set", "parts.hbm.stacks=6", "--model", "gpt3-175b", "--layers", "1", "--phase", "prefill",
        "--prompt", "2048"),
    "2048 x 2048 x 2048, gemmini-default": ("op", "--arch", "gemmini-default", "gemm", "2048", "2048", "2048", "--dtype", "int8"),
    "gpt2, decode at 512, hbm-npu": ("run", "--arch", "hbm-npu", "--model", "gpt2", "--phase", "decode", "--context", "512"),
}


def benchmarks() -> Iterator[Line]:
    """The least of three runs of each command, after one that fills the kernel cache."""
    for case, arguments in COMMANDS.items():
        yield Line(case, min([_cpu_s(arguments) for _ in range(4)][1:]))
    yield from _mapping()


def _mapping() -> Iterator[Line]:
    """One layer of GPT-3 175B between embedding and head, on six stacks of HBM; the rate is that of its records."""
    machine = load_machine("hbm-npu", ("parts.hbm.stacks=6",))
    map_graph(decode("gpt2", context=64, layers=1).lower(), load_machine("hbm-npu"))      # loads the compiled kernels
    layers = {"prefill 2048": prefill("gpt3-175b", prompt=2048, layers=1),
              "decode at 2048": decode("gpt3-175b", context=2048, layers=1)}
    for phase, layer in layers.items():
        graph = layer.lower()
        for when in ("first", "again"):
            seconds, records = _mapping_s(graph, machine)
            yield Line(f"mapping a layer of gpt3-175b, {phase}, {when}", seconds, records / seconds, "records/s")


def _mapping_s(graph: OperatorGraph, machine: MachineConfig) -> tuple[float, int]:
    """(CPU seconds, distinct records) of mapping *graph*."""
    before = time.process_time()
    program = map_graph(graph, machine)
    seconds = time.process_time() - before
    return seconds, sum(len(segment.records) for segment in {id(step.segment): step.segment for step in program.steps}.values())


def _cpu_s(arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "tilesim", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
