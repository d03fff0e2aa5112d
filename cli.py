"""The command line: arguments in, a report out. What it does is in ``run.py``; what it prints, in ``sim/tables.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from . import __version__, cli_compare, cli_dram, cli_reproduce, cli_validate
from .sim.errors import ConfigError, TilesimError

if TYPE_CHECKING:
    from .sim.report import Report
    from .workloads.network import Inference
    from .workloads.phases import Workload

EXIT_BAD_INPUT = 2
OPERATORS = ("gemm", "attention", "conv", "lstm", "norm", "softmax", "elementwise")
#: Options of operators that take no value.
_SWITCHES = ("--exact", "--explain", "--quiet", "--full")
LISTS = ("chips", "memories", "models", "systems", "technologies")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it ran, 2 for bad input, with one message on stderr."""
    arguments = _parser().parse_args(_operator_first(list(sys.argv[1:] if argv is None else argv)))
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except TilesimError as error:
        print(f"tilesim: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # the reader left: nothing more to say
        return 0
    except KeyboardInterrupt:
        print("tilesim: interrupted; nothing was written", file=sys.stderr)
        return 130


def _operator_first(words: list[str]) -> list[str]:
    """``op --arch CHIP gemm 8 8 8`` as ``op gemm 8 8 8 --arch CHIP``: options may stand before the operator too.

    They come last, so that one with several values (``--filter 3 3``) does not take the sizes for its own.
    """
    if words[:1] != ["op"]:
        return words
    for place in range(1, len(words)):
        if words[place] in OPERATORS and not _wants_value(words[place - 1]):
            return ["op", words[place], *words[place + 1:], *words[1:place]]
    return words


def _wants_value(word: str) -> bool:
    """Whether *word* is an option whose value comes next; switches may be shortened (``--qui``)."""
    return word.startswith("--") and "=" not in word and not any(switch.startswith(word) for switch in _SWITCHES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tilesim", description="Simulate AI accelerators, tile by tile and DRAM command by "
                                     "DRAM command.")
    parser.add_argument("--version", action="version", version=f"tilesim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_op(commands)
    cli_compare.add_parser(commands, _add_workload, _workload)
    cli_dram.add_parser(commands)
    cli_validate.add_parser(commands)
    cli_reproduce.add_parser(commands)
    _add_list(commands)
    _add_show(commands)
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", required=True, metavar="CHIP|FILE",
                        help="a shipped chip (tilesim list chips), your YAML, or a SCALE-Sim .cfg")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="path=value",
                        help="change the machine, such as parts.hbm.stacks=4; may be repeated")
    parser.add_argument("--dtype", default="bf16", metavar="NAME", help="number format: bf16, fp8, int8 … (default bf16)")
    parser.add_argument("--attention", choices=("auto", "unfused", "flash"), default="auto", help="how attention is mapped")
    parser.add_argument("--tp", type=int, default=None, metavar="N",
                        help="tensor parallel over N devices (default: what the machine says, else 1)")
    parser.add_argument("--objective", choices=("latency", "energy", "edp"), default="latency",
                        help="what the search for mappings of products and attention makes small (default latency)")
    parser.add_argument("--mapping", metavar="FILE", help="YAML of constraints that mappings of products and attention keep to")
    parser.add_argument("--explain", action="store_true",
                        help="print each mapping: loop nest, bytes by level, predicted cycles, the runner-up and why it lost")
    parser.add_argument("--exact", action="store_true", help="switch every reduction off")
    parser.add_argument("--json", metavar="FILE|-", help="write the report as JSON")
    parser.add_argument("--csv", metavar="FILE|-", help="write one line for each operator")
    parser.add_argument("--trace", metavar="FILE", help="write a Chrome trace (opens in ui.perfetto.dev)")
    parser.add_argument("--plots", metavar="DIR", help="write plots as PNG")
    parser.add_argument("--quiet", action="store_true", help="print no table")


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="run a model on a machine", description="Run a phase of a model on a machine.")
    _add_workload(parser)
    _add_machine(parser)
    parser.set_defaults(command=_run)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="MODEL|FILE",
                        help="a shipped model (tilesim list models), a Hugging Face config.json, a YAML of layers, a "
                             "SCALE-Sim topology.csv, or an ONNX file (tilesim[onnx])")
    parser.add_argument("--phase", choices=("prefill", "decode"), help="of a transformer; a network of layers has none")
    parser.add_argument("--batch", type=int, metavar="N", help="sequences or items (default 1, or what an ONNX file fixes)")
    parser.add_argument("--prompt", type=int, metavar="N", help="prefill: tokens of each sequence (default 512)")
    parser.add_argument("--context", type=int, metavar="N",
                        help="decode: tokens attended to, the new one included (default 2048)")
    parser.add_argument("--layers", type=int, metavar="N", help="simulate the first N layers of the model")
    for name in ("weights", "activations", "kv"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"number format of {name}, such as int4-g128; default: --dtype")
    parser.add_argument("--embedding", metavar="NAME", help="number format of embedding tables and head; default: that of the "
                        "weights, but 16 bits where weights have fewer")


def _add_op(commands: Any) -> None:
    parser = commands.add_parser("op", help="run one operator on a machine", description="Run one operator on a machine.")
    kinds = parser.add_subparsers(title="operators", required=True, metavar="OPERATOR")
    gemm = kinds.add_parser("gemm", help="C [M, N] = A [M, K] · B [K, N]")
    for name in ("M", "N", "K"):
        gemm.add_argument(name.lower(), type=int, metavar=name)
    gemm.add_argument("--batch", type=int, default=1, metavar="N")
    attention = kinds.add_parser("attention", help="softmax(q Kᵀ) V")
    attention.add_argument("--heads", type=int, required=True, metavar="N")
    attention.add_argument("--kv-heads", type=int, metavar="N", help="default: heads")
    attention.add_argument("--head-dim", type=int, required=True, metavar="N")
    attention.add_argument("--q", type=int, required=True, metavar="N", help="query tokens")
    attention.add_argument("--context", type=int, required=True, metavar="N", help="tokens attended to, queries included")
    attention.add_argument("--batch", type=int, default=1, metavar="N")
    attention.add_argument("--full", action="store_true", help="no causal mask")
    conv = kinds.add_parser("conv", help="convolution of [BATCH, HEIGHT, WIDTH, CHANNELS]")
    for name in ("height", "width", "channels", "filters"):
        conv.add_argument(name, type=int, metavar=name.upper())
    conv.add_argument("--filter", type=int, nargs="+", default=[3], metavar="N", help="window: height and width (default 3)")
    conv.add_argument("--stride", type=int, default=1, metavar="N")
    conv.add_argument("--padding", type=int, default=0, metavar="N", help="zeros on every side (default 0)")
    conv.add_argument("--groups", type=int, default=1, metavar="N", help="as many as channels: depth-wise")
    conv.add_argument("--batch", type=int, default=1, metavar="N")
    lstm = kinds.add_parser("lstm", help="LSTM layers over steps of inputs [BATCH, INPUT]")
    for name in ("batch", "input", "hidden"):
        lstm.add_argument(name, type=int, metavar=name.upper())
    lstm.add_argument("--steps", type=int, default=1, metavar="N")
    lstm.add_argument("--layers", type=int, default=1, metavar="N")
    norm = kinds.add_parser("norm", help="rmsnorm or layernorm of [ROWS, COLS]")
    norm.add_argument("--function", choices=("rmsnorm", "layernorm"), default="rmsnorm")
    softmax = kinds.add_parser("softmax", help="softmax of each row of [ROWS, COLS]")
    elementwise = kinds.add_parser("elementwise", help="add, mul, silu, gelu, silu_mul … of [ROWS, COLS]")
    elementwise.add_argument("function")
    for rows in (norm, softmax, elementwise):
        rows.add_argument("rows", type=int, metavar="ROWS")
        rows.add_argument("cols", type=int, metavar="COLS")
    for kind, sub in (("gemm", gemm), ("attention", attention), ("conv", conv), ("lstm", lstm), ("norm", norm),
                      ("softmax", softmax), ("elementwise", elementwise)):
        _add_machine(sub)
        sub.set_defaults(command=_op, kind=kind)


def _add_list(commands: Any) -> None:
    parser = commands.add_parser("list", help="list what is shipped")
    parser.add_argument("what", choices=LISTS)
    parser.set_defaults(command=_list)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser("show", help="show a chip, a memory or a technology as resolved: every quantity and source")
    parser.add_argument("name", metavar="CHIP|MEMORY|TECHNOLOGY|FILE")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="path=value")
    parser.set_defaults(command=_show)


def _workload(arguments: argparse.Namespace) -> Workload | Inference:
    from .workloads.network import inference, is_network
    from .workloads.phases import decode, prefill
    from .workloads.shipped import load_model

    if is_network(arguments.model):
        for option in ("phase", "prompt", "context", "layers", "kv", "embedding"):
            if getattr(arguments, option) is not None:
                raise ConfigError(f"--{option} makes no sense for {arguments.model}: it is a network of layers", key=f"--{option}",
                                  mend=f"leave --{option} out")
        return inference(arguments.model, batch=arguments.batch, dtype=arguments.dtype, weights=arguments.weights,
                         activations=arguments.activations)
    if arguments.phase is None:
        load_model(arguments.model)                     # a name that is none is a better complaint than a missing phase
        raise ConfigError("a transformer runs in a phase", key="--phase", allowed=("prefill", "decode"),
                          mend="add --phase prefill or --phase decode")
    stray = {"prefill": "context", "decode": "prompt"}[arguments.phase]
    if getattr(arguments, stray) is not None:
        meant = {"prefill": "--prompt N", "decode": "--context N"}[arguments.phase]
        raise ConfigError(f"--{stray} makes no sense with --phase {arguments.phase}", key=f"--{stray}",
                          value=getattr(arguments, stray), mend=f"use {meant}, or the other phase")
    batch = 1 if arguments.batch is None else arguments.batch
    prompt = 512 if arguments.prompt is None else arguments.prompt
    context = 2048 if arguments.context is None else arguments.context
    formats: dict[str, Any] = {
        "layers": arguments.layers, "dtype": arguments.dtype, "weights": arguments.weights, "activations": arguments.activations,
        "kv": arguments.kv, "embedding": arguments.embedding}
    if arguments.phase == "prefill":
        return prefill(arguments.model, prompt=prompt, batch=batch, **formats)
    return decode(arguments.model, context=context, batch=batch, **formats)


def _run(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments)
    from .arch.families import find_machine
    from .run import simulate

    workload = _workload(arguments)
    machine = find_machine(arguments.arch, tuple(arguments.sets))
    _tell_cost(arguments, machine, workload.lower())
    with _Progress(arguments) as progress:
        report = simulate(machine, workload, exact=arguments.exact,
                          trace=arguments.trace is not None, **_mapping(arguments), progress=progress.update,
                          tensor_parallel=arguments.tp)
    return _output(report, arguments, f"{workload.model.name}-{workload.phase}")


def _mapping(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that steer the mapper."""
    from .mapping.constraints import load_constraints

    return {"attention": arguments.attention, "objective": arguments.objective,
            "constraints": None if arguments.mapping is None else load_constraints(arguments.mapping)}


def _op(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments)
    from .arch.families import find_machine
    from .run import run_graph
    from .workloads.single import single_operator

    graph, described = single_operator(arguments.kind, vars(arguments))
    machine = find_machine(arguments.arch, tuple(arguments.sets))
    _tell_cost(arguments, machine, graph)
    with _Progress(arguments) as progress:
        report = run_graph(machine, graph, str(graph.graph["name"]), 0, described, exact=arguments.exact,
                           trace=arguments.trace is not None, **_mapping(arguments), progress=progress.update,
                           tensor_parallel=arguments.tp)
    return _output(report, arguments, arguments.kind)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what == "chips":
        from .arch.families import shipped_names

        print("\n".join(shipped_names()))
        return 0
    if arguments.what == "technologies":
        from .arch.technology import shipped_technologies

        print("\n".join(shipped_technologies()))
        return 0
    folder = Path(__file__).parent / "configs" / arguments.what
    for path in sorted(folder.iterdir()):
        if path.suffix in (".yaml", ".json"):
            print(path.stem)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from .memory.show import is_memory, show_memory

    if is_memory(arguments.name):
        if arguments.sets:
            raise ConfigError("--set changes chips, not memories", key="--set", mend="write a YAML that extends the memory")
        print(show_memory(arguments.name), end="")
        return 0
    from .arch.families import find_machine, show_machine
    from .arch.technology import find_technology, shipped_technologies, show_technology

    if arguments.name in shipped_technologies():
        print(show_technology(find_technology(arguments.name)), end="")
        return 0
    print(show_machine(find_machine(arguments.name, tuple(arguments.sets))), end="")
    return 0


def _tell_cost(arguments: argparse.Namespace, machine: Any, graph: Any) -> None:
    """Before an exact run: how much it will simulate, and about how long that takes."""
    from .run import exact_cost
    from .sim.units import si_text

    cost = exact_cost(machine, graph) if arguments.exact and not arguments.quiet else None
    if cost is not None:
        print(f"exact: at least {cost[0]:,} DRAM bursts, about {si_text(cost[1], 's', 2)} of CPU time", file=sys.stderr)


class _Progress:
    """A progress bar on stderr while a person watches, and only then."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._shown = sys.stderr.isatty() and not arguments.quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def update(self, done: int, total: int) -> None:
        if not self._shown:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("operators", total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that could not be written before the run, so that no result is lost."""
    from .sim.files import check_writable

    targets = [target for target in (arguments.json, arguments.csv, arguments.trace) if target is not None]
    if targets.count("-") > 1:
        raise ConfigError("two outputs to stdout at once", key="--json", mend="give one of them a file")
    files = [Path(target).resolve() for target in targets if target != "-" and not Path(target).is_char_device()]
    if len(set(files)) < len(files):
        raise ConfigError("two outputs to the same file; the second would replace the first", file=str(files[0]))
    for target in targets:
        check_writable(target)
    if arguments.plots is not None:
        folder = Path(arguments.plots).resolve()
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise ConfigError(f"--plots wants a folder; {existing} is none, or may not be written", file=arguments.plots)


def _output(report: Report, arguments: argparse.Namespace, stem: str) -> int:
    from .sim.files import write_output

    if arguments.json is not None:
        write_output(arguments.json, lambda stream: stream.write(report.to_json()))
    if arguments.csv is not None:
        write_output(arguments.csv, report.write_csv)
    if arguments.trace is not None:
        timeline = report.timeline
        assert timeline is not None
        write_output(arguments.trace, timeline.write_chrome)
    if arguments.plots is not None:
        from .sim.plots import write_all

        for path in write_all(report, Path(arguments.plots), stem):
            print(f"wrote {path}", file=sys.stderr)
    if not arguments.quiet and "-" not in (arguments.json, arguments.csv, arguments.trace):
        from rich.console import Console

        from .sim.tables import render

        width = None if sys.stdout.isatty() else 150
        render(report, Console(width=width, highlight=False))
    if arguments.explain:
        _explain(report, sys.stderr if "-" in (arguments.json, arguments.csv) else sys.stdout)
    return 0


def _explain(report: Report, stream: TextIO) -> None:
    """Each distinct mapping once: the layers of a model share theirs."""
    from .mapping.explain import explain
    from .sim.tables import grouped

    for name, group in grouped(report.operators):
        print(explain(name, group[0].mapping), file=stream)
