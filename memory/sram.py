"""On-chip SRAM: capacity, banks with ports, energy per byte."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..sim.config import Config
from ..sim.units import Bytes, Hertz, PicojoulesPerBit, Watts


class SramConfig(Config):
    """A scratchpad of *banks* banks, each *bank_width_bytes* wide with one read and one write port, interleaved by words.

    A tile that is spread over all banks moves at most ``banks × bank_width`` bytes a cycle each way.
    """

    type: Literal["sram"]
    capacity_bytes: Annotated[Bytes, Field(gt=0)]
    banks: Annotated[int, Field(ge=1)]
    bank_width_bytes: Annotated[Bytes, Field(gt=0)]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    read_energy_pj_per_bit: PicojoulesPerBit
    write_energy_pj_per_bit: PicojoulesPerBit
    static_power_w: Watts

    @property
    def bytes_per_cycle(self) -> int:
        """Bytes that all read ports (or all write ports) move in one cycle."""
        return self.banks * self.bank_width_bytes

    @property
    def peak_bytes_per_s(self) -> float:
        return self.bytes_per_cycle * self.clock_hz
