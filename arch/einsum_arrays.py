"""The FLAT and FuseMax accelerators: a 2-D array and a 1-D array around one buffer, and what each action costs.

Source of every figure unless noted: the public artifact of Nayak et al., "FuseMax", MICRO 2024 (FPSG-UIUC/micro24-fusemax-artifact,
yamls/proposal and yamls/baselines for the machines, yamls/area_energy for the energies, Accelergy plug-ins at 45 nm; HBM2).
"""

from __future__ import annotations

from dataclasses import dataclass

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
    mac: float = 17.1645
    add: float = 8.3395
    max: float = 0.028036
    exp: float = 94.6475
    divide: float = 36.251153
    register_read: float = 2.194455
    register_write: float = 1.906455


@dataclass(frozen=True, slots=True)
class EinsumMachine:
    """*n*×*n* PEs, *n* vector lanes, a buffer, and a memory."""

    name: str
    n: int
    clock_hz: float
    buffer_bytes: int
    memory: FlatMemory
    energies: EinsumEnergies


_MEMORY = FlatMemory(bytes_per_s=400 * 2**30)
_DRAM_LINE_PJ = 249.6                # HBM2 at 3.9 pJ/bit

#: Energy of a 4096-bit read and write of one macro of 16 MiB (32 768 rows) and of 32 MiB (65 536 rows). The artifact names the
#: buffers (architecture/accel_*/accel-top-2d-path.yaml) and leaves their energies to Accelergy's CACTI plug-in, which has no
#: table for them in the artifact; these are own runs of CACTI 7 with that plug-in's default configuration (hwcomponents-cacti
#: 1.0.40: 45 nm, lstp cells and periphery, 300 K, ED², fast access, normal interconnect, one read-write port). Not fitted: with
#: them the artifact's linear layers, most of whose buffer accesses are reads of both operands of each MAC, come out within 0.01
#: % (XLM 0.6 %).
_BUFFER_16_MIB_PJ = (12_512.7, 15_751.4)
_BUFFER_32_MIB_PJ = (23_854.6, 27_097.5)

FUSEMAX = EinsumMachine("fusemax", 256, 940e6, 16 * 2**20, _MEMORY, EinsumEnergies(_DRAM_LINE_PJ, *_BUFFER_16_MIB_PJ))
FLAT = EinsumMachine("flat", 256, 940e6, 32 * 2**20, _MEMORY, EinsumEnergies(_DRAM_LINE_PJ, *_BUFFER_32_MIB_PJ))
