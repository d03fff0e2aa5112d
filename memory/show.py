"""A memory's resolved table as text: every quantity with its unit, every timing in ticks and time, every rule, and the sources."""

from __future__ import annotations

from pathlib import Path

from ..sim import config as config_reader
from ..sim.show import show_config
from ..sim.units import si_text
from ..sim.yaml_reader import Document, find_named, read_text
from .power import command_energy, command_prices_pj
from .standard import DramStandard, Memory, evaluate, load_memory, shipped


def is_memory(name: str) -> bool:
    """Whether *name* is a shipped memory, or a YAML file that describes one."""
    if name in {path.stem for path in shipped("memories").glob("*.yaml")}:
        return True
    path = Path(name)
    if not name or path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    keys = dict(line.split(":", 1) for line in read_text(path).splitlines() if ":" in line and not line.startswith((" ", "#")))
    parent = keys.get("extends", "").split("#")[0].strip()
    return "organisation" in keys or is_memory(parent) or is_memory(str(path.parent / parent))


def show_memory(name: str) -> str:
    """The memory *name* as text."""
    memory = load_memory(name)
    folders = [shipped("memories")]
    document = config_reader.load_document(find_named(name, folders, "memory"), folders, "memory")
    parts = [
        [f"{memory.name}: {memory.description}" if memory.description else memory.name, f"source: {memory.source}", ""],
        _overview(memory), _timing(memory, document), _energy(memory), _rules(memory, memory.standard)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _overview(memory: Memory) -> list[str]:
    organisation, tick_ns = memory.organisation, 1e9 / memory.tick_hz
    sizes = ", ".join(f"{count} {level.replace('_', ' ')}s" for level, count in organisation.level_sizes.items() if count > 1)
    return [
        f"standard         {memory.standard.name}",
        f"tick             {si_text(memory.tick_hz, 'Hz', 7)} ({tick_ns:.4g} ns)",
        f"channels         {memory.channels}, each of {sizes or 'one bank'}",
        f"banks            {organisation.banks} a channel, {organisation.rows} rows of {organisation.row_bytes} B",
        f"burst            {organisation.bytes_per_burst} B in {memory.ticks['tBL']} ticks",
        f"capacity         {memory.channels * organisation.channel_bytes / 2**30:g} GiB",
        f"pin rate         {si_text(memory.channels * memory.channel_bytes_per_s, 'B/s')}",
        f"address mapping  {memory.address_mapping}", ""]


def _timing(memory: Memory, document: Document) -> list[str]:
    lines = ["timing            ticks         ns  as written, and why"]
    for name, ticks in memory.ticks.items():
        note = _comment(document, ("timing", name))
        written = str(memory.timing[name]) if isinstance(memory.timing[name], str) else ""
        words = "; ".join(part for part in (written, note) if part)
        lines.append(f"  {name:12s} {ticks:8d} {ticks * 1e9 / memory.tick_hz:10.3f}  {words}".rstrip())
    return [*lines, ""]


def _comment(document: Document, path: tuple[str, ...]) -> str:
    """The comment on the line of the YAML that *path* comes from."""
    file, line = document.mark(path)
    if line is None or not Path(str(file)).is_file():
        return ""
    return Path(str(file)).read_text(encoding="utf-8").splitlines()[line - 1].partition("#")[2].strip()


def _energy(memory: Memory) -> list[str]:
    energy = command_energy(memory)
    if energy is None or memory.energy is None:
        return ["energy            none stated", ""]
    lines = [f"energy            at the {memory.energy.boundary}; {memory.energy.source}"]
    for name, pj in command_prices_pj(memory, energy).items():
        if pj:
            lines.append(f"  {name:12s} {si_text(pj * 1e-12, 'J')}")
    lines += [f"  standby      {si_text(energy.active_standby_w, 'W')} with a bank open, "
              f"{si_text(energy.precharge_standby_w, 'W')} with all closed (each rank or pseudo-channel)"]
    return [*lines, *("  " + line for line in show_config(memory.energy).splitlines()), ""]


def _rules(memory: Memory, standard: DramStandard) -> list[str]:
    lines = [f"commands          {standard.source}"]
    for name, command in standard.commands.items():
        lines.append(f"  {name:8s} {command.role}, {command.scope}, {command.bus} bus, {command.clocks} tick"
                     + ("s" if command.clocks > 1 else ""))
    lines += ["", "rules             ticks  level, commands, formula"]
    for rule in standard.rules:
        window = f", over {rule.window} commands" if rule.window > 1 else ""
        sibling = ", between siblings" if rule.sibling else ""
        lines.append(f"  {evaluate(rule.wait, memory.ticks):21d}  {rule.level}: {' '.join(rule.after)} -> {' '.join(rule.before)}: "
                     f"{rule.wait}{window}{sibling}")
    return lines
