"""On-chip SRAM: capacity, banks with ports, energy per byte."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import Bytes, Hertz, PicojoulesPerBit, Watts


class SramConfig(Config):
    """A scratchpad of *banks* banks, each *bank_width_bytes* wide with one read and one write port, interleaved by words.

    A tile that is spread over all banks moves at most ``banks × bank_width`` bytes a cycle each way. Where the hardware fixes them,
    ``accumulators`` is what partial sums have to themselves, and ``stream`` the most that streamed operands (weights, KV cache)
    occupy, as in a weight FIFO; left out, the mapper shares the capacity out. ``widens`` are the number formats (their group scales
    applied) that converters at the operand ports bring to the format of the other operand, free of time; products in other mixed
    formats wait for the vector unit to unpack them.
    """

    type: Literal["sram"]
    capacity_bytes: Annotated[Bytes, Field(gt=0)]
    banks: Annotated[int, Field(ge=1)]
    bank_width_bytes: Annotated[Bytes, Field(gt=0)]
    clock_hz: Annotated[Hertz, Field(gt=0, le=1e12)]
    read_energy_pj_per_bit: PicojoulesPerBit
    write_energy_pj_per_bit: PicojoulesPerBit
    static_power_w: Watts
    accumulators_bytes: Annotated[Bytes, Field(gt=0)] | None = None
    stream_bytes: Annotated[Bytes, Field(gt=0)] | None = None
    widens: tuple[Literal["fp16", "bf16", "fp8", "fp4", "int8", "int4"], ...] = ()

    @model_validator(mode="after")
    def _shares_fit(self) -> SramConfig:
        fixed = (self.accumulators_bytes or 0) + (self.stream_bytes or 0)
        if fixed >= self.capacity_bytes:
            raise ValueError(f"accumulators and stream take {fixed} bytes of a capacity of {self.capacity_bytes}")
        return self

    @property
    def bytes_per_cycle(self) -> int:
        """Bytes that all read ports (or all write ports) move in one cycle."""
        return self.banks * self.bank_width_bytes

    def compute_bytes_per_s(self, name: str, dma_bytes_per_s: float) -> float:
        """What the ports leave to the compute units, each way, beside DMA at its most; a ConfigError for part *name* where that is
        nothing."""
        left = self.peak_bytes_per_s - dma_bytes_per_s
        if left <= 0:
            raise ConfigError(f"the ports of {name!r} move {self.peak_bytes_per_s:.4g} B/s each way; DMA alone may need "
                              f"{dma_bytes_per_s:.4g} B/s", key=f"parts.{name}.bank_width", value=self.bank_width_bytes,
                              mend=f"raise parts.{name}.banks or bank_width, or narrow the links")
        return left

    @property
    def peak_bytes_per_s(self) -> float:
        return self.bytes_per_cycle * self.clock_hz
