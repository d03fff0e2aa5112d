"""``tilesim dram``: serve a trace or a pattern with a memory, and say what bound it. What it does is in ``memory/``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .sim.errors import ConfigError

if TYPE_CHECKING:
    from .memory.controller import ControllerConfig
    from .memory.curves import CurvePoint
    from .memory.patterns import Requests
    from .memory.replay import DramRun
    from .memory.standard import Memory
    from .memory.verdict import Verdict

SCHEMA = "tilesim.dram/1"
#: Commands of channel 0 that the verdict and the power over time look at.
JUDGED_COMMANDS = 50_000
POWER_BINS = 200
#: Requests a channel for each point of a curve, at most.
POINT_REQUESTS = 20_000


def add_parser(commands: Any) -> None:
    """Add the subcommand to the parser's *commands*."""
    parser = commands.add_parser("dram", help="serve a memory trace or pattern, command by command",
                                 description="Serve a trace or a pattern with a memory: bandwidth, latency, commands, energy, and "
                                 "in words what bound it.")
    parser.add_argument("--memory", required=True, metavar="NAME|FILE",
                        help="a shipped memory (tilesim list memories) or your YAML")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trace", metavar="FILE", help="requests, one a line: '0x1a40 R', 'ST 4096' …; plain or gzip")
    what.add_argument("--pattern", metavar="PATTERN", help="sequential, random, stride or mix")
    parser.add_argument("-n", dest="count", type=int, default=100_000, metavar="N", help="requests of a pattern (default 100000)")
    parser.add_argument("--reads", type=float, default=1.0, metavar="SHARE", help="share of reads of a pattern, 0 to 1 (default 1)")
    parser.add_argument("--interval", type=float, default=0.0, metavar="TICKS",
                        help="memory clocks between two requests (default 0: as fast as the memory takes them)")
    parser.add_argument("--stride", type=int, default=4096, metavar="BYTES", help="distance of a stride pattern (default 4096)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--channels", type=int, metavar="N", help="channels (default: those of one device)")
    parser.add_argument("--mapping", metavar="FIELDS", help="address mapping, such as RoBaBgCoCh (default: the memory's)")
    parser.add_argument("--controller", metavar="PRESET", help="ramulator or dramsim3 (default: the one the memory states)")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="key=value",
                        help="change the controller, such as read_queue=64; may be repeated")
    parser.add_argument("--curve", action="store_true", help="a bandwidth-latency curve instead of one run (with --pattern)")
    parser.add_argument("--reference", metavar="PATH", help="measured curves to draw beside ours (with --curve --plots)")
    parser.add_argument("--system", metavar="TEXT", help="draw only measured systems whose name holds TEXT (with --curve)")
    parser.add_argument("--on-chip-latency", metavar="TIME",
                        help="added to our curve when it is drawn (default 0 ns; with --curve)")
    parser.add_argument("--json", metavar="FILE|-", help="write the result as JSON")
    parser.add_argument("--plots", metavar="DIR", help="write plots as PNG")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve what *arguments* say; gives the exit status."""
    from .memory.standard import load_memory
    from .sim.files import check_writable

    if arguments.json is not None:
        check_writable(arguments.json)
    if arguments.plots is not None and Path(arguments.plots).exists() and not Path(arguments.plots).is_dir():
        raise ConfigError("is a file; --plots wants a folder", file=arguments.plots)
    if arguments.channels is not None and not 1 <= arguments.channels <= 1024:
        raise ConfigError(f"{arguments.channels} channels cannot be simulated", key="--channels", mend="give 1 to 1024")
    memory = load_memory(arguments.memory)
    controller = _controller(arguments, memory)
    return _curve(arguments, memory, controller) if arguments.curve else _one(arguments, memory, controller)


def _controller(arguments: argparse.Namespace, memory: Memory) -> ControllerConfig:
    from .memory.controller import PRESETS, ControllerConfig
    from .sim import config as config_reader
    from .sim.yaml_reader import Document, set_value

    if arguments.controller is not None and arguments.controller not in PRESETS:
        raise ConfigError(f"{arguments.controller!r} is no controller preset", key="--controller", value=arguments.controller,
                          allowed=tuple(PRESETS))
    base = PRESETS[arguments.controller] if arguments.controller is not None else memory.controller
    document = Document(base.model_dump())
    for assignment in arguments.sets:
        set_value(document, assignment)
    return config_reader.from_document(ControllerConfig, document)


def _requests(arguments: argparse.Namespace, memory: Memory) -> Requests:
    from .memory.patterns import check_interval, make_requests
    from .memory.trace_file import read_trace

    check_interval(arguments.interval)
    if arguments.trace is not None:
        return read_trace(Path(arguments.trace), interval_ticks=arguments.interval)
    channels = arguments.channels or memory.channels
    return make_requests(arguments.pattern, arguments.count, burst_bytes=memory.organisation.bytes_per_burst,
                         capacity_bytes=channels * memory.organisation.channel_bytes, read_share=arguments.reads,
                         interval_ticks=arguments.interval, stride_bytes=arguments.stride, seed=arguments.seed)


def _one(arguments: argparse.Namespace, memory: Memory, controller: ControllerConfig) -> int:
    from .memory.replay import serve
    from .memory.verdict import judge

    for option, value in (("--reference", arguments.reference), ("--system", arguments.system),
                          ("--on-chip-latency", arguments.on_chip_latency)):
        if value is not None:
            raise ConfigError(f"{option} would have no effect: it is for --curve", key=option, mend="add --curve --plots DIR")
    served = serve(memory, _requests(arguments, memory), controller, channels=arguments.channels, mapping=arguments.mapping,
                   log_commands=JUDGED_COMMANDS)
    verdict = judge(served)
    data = result_data(served, verdict)
    _write_json(arguments, data)
    if arguments.plots is not None and memory.energy is not None:
        _plot_power(served, Path(arguments.plots))
    if not arguments.quiet and arguments.json != "-":
        _print(data)
    return 0


def _curve(arguments: argparse.Namespace, memory: Memory, controller: ControllerConfig) -> int:
    from .memory.curves import READ_SHARES, bandwidth_latency, plot_curves, read_measured
    from .sim.units import UnitError, parse_quantity

    if arguments.pattern is None:
        raise ConfigError("a curve needs a pattern to offer at rising load", key="--curve",
                          mend="give --pattern instead of --trace")
    try:
        on_chip_ns = float(parse_quantity(arguments.on_chip_latency or "0 ns", "time (s)")) / 1e3
    except UnitError as error:
        raise ConfigError(f"--on-chip-latency: {error}", key="--on-chip-latency", value=arguments.on_chip_latency) from None
    measured = read_measured(Path(arguments.reference), arguments.system or "") if arguments.reference is not None else []
    shares = (arguments.reads,) if arguments.reads != 1.0 else READ_SHARES
    channels = arguments.channels or memory.channels
    points = bandwidth_latency(
        memory, pattern=arguments.pattern, read_shares=shares, count=min(arguments.count, POINT_REQUESTS * channels),
        channels=channels, controller=controller, mapping=arguments.mapping, stride_bytes=arguments.stride,
        seed=arguments.seed, progress=_progress if sys.stderr.isatty() and not arguments.quiet else None)
    peak = channels * memory.channel_bytes_per_s
    _write_json(arguments, {
        "schema": SCHEMA, "tilesim_version": __version__, "memory": memory.name, "channels": channels, "pattern": arguments.pattern,
        "peak_bytes_per_s": peak, "on_chip_latency_ns": on_chip_ns,
        "curve": [{"read_share": p.read_share, "offered_bytes_per_s": p.offered_bytes_per_s, "bytes_per_s": p.bytes_per_s,
                   "latency_ns": p.latency_ns, "latency_p99_ns": p.latency_p99_ns} for p in points]})
    if arguments.plots is not None:
        figure = plot_curves(points, f"{memory.name}, {_channels(channels)}, {arguments.pattern}", peak_bytes_per_s=peak,
                             measured=measured, on_chip_latency_ns=on_chip_ns)
        _save(figure, Path(arguments.plots) / f"{memory.name}-{arguments.pattern}-curve.png")
    if not arguments.quiet and arguments.json != "-":
        _print_curve(memory, points, peak)
    return 0


def _channels(number: int) -> str:
    return f"{number} channel{'' if number == 1 else 's'}"


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} points", end="\n" if done == total else "", file=sys.stderr, flush=True)


def result_data(served: DramRun, verdict: Verdict) -> dict[str, Any]:
    """The result as plain data: what JSON holds and the tables show."""
    from .memory import layout as at
    from .memory.power import total_pj

    energy = served.energy()
    joules = total_pj(energy) * 1e-12
    boundary = served.memory.energy.boundary if served.memory.energy is not None else None
    return {
        "schema": SCHEMA, "tilesim_version": __version__, "memory": served.memory.name, "description": served.memory.description,
        "channels": len(served.channels), "requests": served.requests, "bytes": served.nbytes, "cycles": served.cycles,
        "seconds": served.seconds, "bytes_per_s": served.bytes_per_s, "peak_bytes_per_s": served.peak_bytes_per_s,
        "latency_ns": {"read": served.latency_ns(), "write": served.latency_ns(writes=True)},
        "rows": {name: served.total(first) + served.total(first + 1) for name, first in (
            ("hits", at.S_ROW_HITS), ("misses", at.S_ROW_MISSES), ("conflicts", at.S_ROW_CONFLICTS))},
        "merged": served.total(at.S_MERGED) + served.total(at.S_MERGED + 1), "commands": served.commands,
        "energy_j": joules if energy else None, "power_w": joules / served.seconds if energy else None,
        "pj_per_bit": joules * 1e12 / (served.nbytes * 8) if energy else None, "energy_boundary": boundary,
        "energy": [{"action": name, "count": count, "pj_each": pj, "joules": count * pj * 1e-12}
                   for name, (count, pj) in energy.items()],
        "verdict": {"words": verdict.lines(), "shares": verdict.shares() if verdict.covered_cycles else {},
                    "judged_cycles": verdict.covered_cycles, "cycles": verdict.total_cycles},
    }


def _write_json(arguments: argparse.Namespace, data: dict[str, Any]) -> None:
    from .sim.files import write_output

    if arguments.json is not None:
        write_output(arguments.json, lambda stream: stream.write(json.dumps(data, allow_nan=False, indent=1) + "\n"))


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    figure.savefig(partial, format="png", dpi=144, metadata={"Software": None})
    partial.rename(path)
    print(f"wrote {path}", file=sys.stderr)


def _plot_power(served: DramRun, folder: Path) -> None:
    """Power of channel 0 over time, as far as its commands were kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .memory import layout as at
    from .memory.power import power_over_time

    log = served.channels[0].log
    if not len(log):
        return
    seconds, watts = power_over_time(served.memory, log, int(log[-1, at.L_CYCLE]) + 1, POWER_BINS)
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step(seconds * 1e6, watts, where="post", color="#0072B2")
    axes.set(xlabel="time (µs)", ylabel="power of channel 0 (W)", title=f"{served.memory.name}: power over time")
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    _save(figure, folder / f"{served.memory.name}-power.png")


def _print(data: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from .sim.units import si_text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    share = 100 * data["bytes_per_s"] / data["peak_bytes_per_s"]
    table.add_row("memory", f"{data['memory']}, {_channels(data['channels'])}: {data['description']}")
    table.add_row("served", f"{data['requests']:,} requests, {si_text(data['bytes'], 'B')} in {si_text(data['seconds'], 's')} "
                            f"({data['cycles']:,} ticks)")
    table.add_row("bandwidth", f"{si_text(data['bytes_per_s'], 'B/s')}, {share:.1f} % of the pin rate "
                               f"{si_text(data['peak_bytes_per_s'], 'B/s')}")
    for kind, latency in data["latency_ns"].items():
        if latency:
            table.add_row(f"{kind} latency", ", ".join(f"{name} {value:.1f}" for name, value in latency.items()) + " ns")
    table.add_row("rows", ", ".join(f"{count:,} {name}" for name, count in data["rows"].items()))
    table.add_row("commands", ", ".join(f"{name} {count:,}" for name, count in data["commands"].items() if count))
    if data["energy_j"] is not None:
        table.add_row("energy", f"{si_text(data['energy_j'], 'J')}, {si_text(data['power_w'], 'W')}, "
                                f"{data['pj_per_bit']:.2f} pJ/bit at the {data['energy_boundary']}")
        parts = sorted(data["energy"], key=lambda line: -line["joules"])
        table.add_row("", ", ".join(f"{line['action']} {100 * line['joules'] / data['energy_j']:.0f} %" for line in parts))
    else:
        table.add_row("energy", "the memory states none")
    for k, words in enumerate(data["verdict"]["words"]):
        table.add_row("verdict" if k == 0 else "", words)
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)


def _print_curve(memory: Memory, points: list[CurvePoint], peak: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{memory.name}: bandwidth and latency under load", title_justify="left")
    for heading in ("reads", "offered GB/s", "GB/s", "of pin rate", "mean ns", "p99 ns"):
        table.add_column(heading, justify="right")
    for point in points:
        table.add_row(f"{100 * point.read_share:.0f} %", f"{point.offered_bytes_per_s / 1e9:.1f}", f"{point.bytes_per_s / 1e9:.1f}",
                      f"{100 * point.bytes_per_s / peak:.1f} %", f"{point.latency_ns:.1f}", f"{point.latency_p99_ns:.1f}")
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)
