"""Machines of a 2-D array and a 1-D array around one buffer, as FLAT's and FuseMax's papers have them, and what each action costs.

They are shipped in ``configs/einsum`` and run attention and matrix products by the designs of ``mapping/cascade`` and
``mapping/flat_run``; they have no parts and links.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .. import configs
from ..sim import config as config_reader
from ..sim.config import Config
from ..sim.units import BITS_PER_BYTE, Bytes, BytesPerSecond, Hertz, Picojoules, PicojoulesPerBit

WORD_BYTES = 2                       # fp16 everywhere
DRAM_LINE_BYTES = 8                  # the artifact's energy unit of DRAM: 64 bits
BUFFER_LINE_WORDS = 256              # and of the buffer: a row of 4096 bits


@dataclass(frozen=True, slots=True)
class FlatMemory:
    """The artifact's memory: a rate, shared by all transfers. No latency, rows, banks or refresh."""

    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class EinsumEnergies:
    """Energy of one action, in picojoules. *mac*, *add*, … are fp16 functional units.

    Register files of the PEs are left out: the artifact adds up the accesses of one file out of 65 536, which is nothing. The file
    between the 2-D and the 1-D array is one, and counts (*register_read*, *register_write*).
    """

    dram_line: float
    buffer_read: float
    buffer_write: float
    mac: float
    add: float
    max: float
    exp: float
    divide: float
    register_read: float
    register_write: float


@dataclass(frozen=True, slots=True)
class EinsumMachine:
    """*n*×*n* PEs, *n* vector lanes, a buffer, and a memory."""

    name: str
    n: int
    clock_hz: float
    buffer_bytes: int
    memory: FlatMemory
    energies: EinsumEnergies


class EinsumEnergyConfig(Config):
    """The energies as a file states them: a bit of DRAM, a row of 4096 bits of the buffer, one operation of a unit."""

    dram_pj_per_bit: PicojoulesPerBit
    buffer_read_pj: Picojoules
    buffer_write_pj: Picojoules
    mac_pj: Picojoules
    add_pj: Picojoules
    max_pj: Picojoules
    exp_pj: Picojoules
    divide_pj: Picojoules
    register_read_pj: Picojoules
    register_write_pj: Picojoules


class EinsumConfig(Config):
    """A chip of this family: *size*×*size* PEs and *size* lanes, and the design by which attention runs on them.

    The memory is an ideal one, *bandwidth* shared by all transfers, and as large as asked.
    """

    type: Literal["einsum"]
    name: str
    description: str
    design: Literal["binding", "architecture", "flat", "unfused"]
    size: Annotated[int, Field(ge=1, le=1024)]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    buffer_bytes: Annotated[Bytes, Field(gt=0)]
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(gt=0)]
    energy: EinsumEnergyConfig

    @property
    def machine(self) -> EinsumMachine:
        """The machine as the mapping knows it."""
        e = self.energy
        return EinsumMachine(
            self.name, self.size, self.clock_hz, self.buffer_bytes, FlatMemory(self.bandwidth_bytes_per_s),
            EinsumEnergies(e.dram_pj_per_bit * BITS_PER_BYTE * DRAM_LINE_BYTES, e.buffer_read_pj, e.buffer_write_pj, e.mac_pj,
                           e.add_pj, e.max_pj, e.exp_pj, e.divide_pj, e.register_read_pj, e.register_write_pj))


def einsum_folder() -> Path:
    """Where the shipped chips of this family are."""
    return Path(configs.__path__[0]) / "einsum"


def load_einsum(path: Path, sets: tuple[str, ...] = ()) -> EinsumConfig:
    """The chip in the YAML at *path*, with ``path=value`` assignments applied."""
    return config_reader.load(EinsumConfig, path, folders=[einsum_folder()], kind="chip", sets=sets)


FUSEMAX = load_einsum(einsum_folder() / "fusemax.yaml").machine
FLAT = load_einsum(einsum_folder() / "flat.yaml").machine
