"""Families of machines: where the shipped ones lie, and how a file says which family it is of.

A chip's YAML is read by the family that its top-level ``type`` names; one without ``type`` is a machine of parts and links.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..sim import config as config_reader
from ..sim.errors import ConfigError
from ..sim.show import show_config
from ..sim.yaml_reader import find_named
from .einsum_arrays import EinsumConfig, einsum_folder, load_einsum
from .gpu_config import DEVICE_FOLDER, Gpu, load_gpu, shipped_gpus
from .machine import MachineConfig, chip_folder, load_machine, show_chip
from .scalesim import ScaleSimConfig, load_scalesim, scalesim_folder

Machine: TypeAlias = MachineConfig | Gpu | EinsumConfig | ScaleSimConfig


@dataclass(frozen=True, slots=True)
class Family:
    """One way to describe a machine: its folder of shipped files, the value that a file becomes, what reads and what prints one.

    How a machine of a family runs is its entry in `run.ROADS`.
    """

    folder: Path
    machine: type[Machine]
    load: Callable[[Path, tuple[str, ...]], Machine]
    show: Callable[[Any], str]


def _show_gpu(gpu: Gpu) -> str:
    """The board; what it shares with others follows as comments."""
    shared = {f"architecture {gpu.architecture.name}": gpu.architecture, f"library {gpu.library.name}": gpu.library}
    return show_config(gpu.device) + "".join(
        f"\n# {title}\n" + "".join(f"#   {line}\n" for line in show_config(part).splitlines()) for title, part in shared.items())


#: The top-level ``type`` of a chip's YAML (None: it has none) → its family.
FAMILIES: dict[str | None, Family] = {
    None: Family(chip_folder(), MachineConfig, lambda path, sets: load_machine(str(path), sets), show_chip),
    "gpu": Family(DEVICE_FOLDER, Gpu, load_gpu, _show_gpu),
    "einsum": Family(einsum_folder(), EinsumConfig, load_einsum, show_config),
    "scalesim": Family(scalesim_folder(), ScaleSimConfig, load_scalesim, show_config),
}


def find_machine(name: str, sets: tuple[str, ...] = ()) -> Machine:
    """The machine of a shipped name, a YAML file or a SCALE-Sim ``.cfg``, with ``path=value`` assignments applied; any family."""
    if name.endswith(".cfg"):
        return load_scalesim(Path(name), sets)                             # of another simulator
    folders = [family.folder for family in FAMILIES.values()]
    path = _path_of(name, folders)
    document = config_reader.load_document(path, folders, "chip")
    kind = document.value.get("type")
    family = FAMILIES[kind] if kind in FAMILIES else FAMILIES[None]         # whose schema then says what is wrong with it
    return family.load(path, sets)


def _path_of(name: str, folders: list[Path]) -> Path:
    """The file of a shipped name or a path; a board's other names, as measurement tables write them, find it too."""
    try:
        return find_named(name, folders, "chip")
    except ConfigError:
        board = shipped_gpus().get(name)
        if board is None:
            raise
        return DEVICE_FOLDER / f"{board.name}.yaml"


def shipped_names() -> list[str]:
    """Every shipped chip by name, family by family."""
    return [path.stem for family in FAMILIES.values() for path in sorted(family.folder.glob("*.yaml"))]


def show_machine(machine: Machine) -> str:
    """*machine* as YAML that loads again."""
    return next(family for family in FAMILIES.values() if isinstance(machine, family.machine)).show(machine)
