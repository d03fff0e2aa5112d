"""Families of machines: where the shipped ones lie, and how a file says which family it is of.

A chip's YAML is read by the family that its top-level ``type`` names; one without ``type`` is a machine of parts and links.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..sim import config as config_reader
from ..sim.show import show_config
from ..sim.yaml_reader import find_named
from .gpu_config import DEVICE_FOLDER, Gpu, load_gpu
from .machine import MachineConfig, chip_folder, load_machine
from .systolic_scalesim import machine_of

Machine: TypeAlias = MachineConfig | Gpu


@dataclass(frozen=True, slots=True)
class Family:
    """One way to describe a machine: its folder of shipped files, and what reads such a file."""

    folder: Path
    load: Callable[[Path, tuple[str, ...]], Machine]


#: The top-level ``type`` of a chip's YAML (None: it has none) → its family.
FAMILIES: dict[str | None, Family] = {
    None: Family(chip_folder(), lambda path, sets: load_machine(str(path), sets)),
    "gpu": Family(DEVICE_FOLDER, load_gpu),
}


def find_machine(name: str, sets: tuple[str, ...] = ()) -> Machine:
    """The machine of a shipped name, a YAML file or a SCALE-Sim ``.cfg``, with ``path=value`` assignments applied; any family."""
    if name.endswith(".cfg"):
        return machine_of(Path(name), sets)                                # of another simulator
    folders = [family.folder for family in FAMILIES.values()]
    path = find_named(name, folders, "chip")
    document = config_reader.load_document(path, folders, "chip")
    kind = document.value.get("type")
    family = FAMILIES[kind] if kind in FAMILIES else FAMILIES[None]         # whose schema then says what is wrong with it
    return family.load(path, sets)


def shipped_names() -> list[str]:
    """Every shipped chip by name, family by family."""
    return [path.stem for family in FAMILIES.values() for path in sorted(family.folder.glob("*.yaml"))]


def show_machine(machine: Machine) -> str:
    """*machine* as YAML that loads again; what a board shares with others follows as comments."""
    if isinstance(machine, MachineConfig):
        return show_config(machine)
    shared = {f"architecture {machine.architecture.name}": machine.architecture, f"library {machine.library.name}": machine.library}
    return show_config(machine.device) + "".join(
        f"\n# {title}\n" + "".join(f"#   {line}\n" for line in show_config(part).splitlines()) for title, part in shared.items())
