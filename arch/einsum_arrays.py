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

    Register files are left out: the artifact adds up the accesses of one PE's file out of 65 536, which is nothing.
    """

    dram_line: float
    buffer_read: float
    buffer_write: float
    mac: float = 17.1645
    add: float = 8.3395
    max: float = 0.028036
    exp: float = 94.6475
    divide: float = 36.251153


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

#: The artifact does not publish the buffer energies of its runs: its table (485 / 451 pJ a line) is of one small macro. They are
#: solved from four rows of its results (and the counts of accesses in ``mapping/cascade_energy.py`` were settled with the visible
#: rows in sight, so that only rows not seen then are a test). 16 MiB: the read from FuseMax's linear layers of BERT
#: 1K (both operands of each MAC come from the buffer, 256 PEs share a word), the write from FuseMax's attention, BERT 16K. 32 MiB:
#: from unfused attention, BERT and XLM 16K (what the head size adds is reads). Overturned by the energy table of those runs.
_BUFFER_16_MIB_PJ = (14_580.0, 8_500.0)
_BUFFER_32_MIB_PJ = (31_000.0, 16_200.0)

FUSEMAX = EinsumMachine("fusemax", 256, 940e6, 16 * 2**20, _MEMORY, EinsumEnergies(_DRAM_LINE_PJ, *_BUFFER_16_MIB_PJ))
FLAT = EinsumMachine("flat", 256, 940e6, 32 * 2**20, _MEMORY, EinsumEnergies(_DRAM_LINE_PJ, *_BUFFER_32_MIB_PJ))
