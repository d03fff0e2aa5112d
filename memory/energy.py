"""What DRAM commands cost: from datasheet currents (Micron's power-calculation method) or from published energy per bit.

Both kinds of table give the same thing, a :class:`CommandEnergy`: picojoules for each command of one rank (or pseudo-channel),
all of its devices together, and the watts that the rank draws with a bank open and with all banks closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..sim.config import Config
from ..sim.units import Amperes, Picojoules, PicojoulesPerBit, Volts, Watts

#: Where an energy is measured: at the DRAM device, the package (stack with its base die and PHY), or the board's supply.
Boundary = Literal["device", "package", "board"]
#: Places on the way from the cells to the host, in the order in which a read passes them.
PLACES = ("bank", "bank_group", "buffer_die", "host")
Place = Literal["bank", "bank_group", "buffer_die", "host"]


@dataclass(frozen=True, slots=True)
class CommandTimes:
    """What the formulas need of one memory's timing."""

    activate_ps: float                   # tRAS: the row is open at least so long
    precharge_ps: float                  # tRP
    burst_ps: float                      # the data bus is busy so long
    refresh_ps: float                    # tRFC
    refresh_bank_ps: float | None        # tRFCpb
    burst_bits: int
    refresh_banks: int                   # banks that one all-bank refresh covers


@dataclass(frozen=True, slots=True)
class CommandEnergy:
    """Energy of one command of one rank or pseudo-channel, and its background power by state."""

    activate_pj: float                   # one row opened and closed again
    read_pj: float                       # one burst
    write_pj: float
    refresh_pj: float                    # one all-bank refresh
    refresh_bank_pj: float | None        # one bank's refresh; None where the table does not say
    active_standby_w: float              # at least one bank open
    precharge_standby_w: float           # all banks closed


class Rail(Config):
    """One supply of a device and what it draws in each state (JEDEC's names; averages over a refresh-free loop)."""

    voltage_v: Volts
    idd0_a: Amperes                      # one bank, activate and precharge back to back
    idd2n_a: Amperes                     # all banks closed
    idd3n_a: Amperes                     # banks open, nothing moves
    idd4r_a: Amperes                     # read bursts back to back
    idd4w_a: Amperes
    idd5b_a: Amperes                     # refresh back to back
    idd5pb_a: Amperes | None = None      # one bank's refresh back to back

    def watts(self, current_a: float) -> float:
        return self.voltage_v * current_a


class CurrentEnergy(Config):
    """Energy from datasheet currents: Micron TN-41-01 (DDR3) and TN-40-07 (DDR4), which subtract the standby current below.

    *devices* stand behind one rank or pseudo-channel: 8 of a 64-bit rank of x8 parts, one half where the currents are of a whole
    channel of two pseudo-channels. Output drivers and termination are no part of IDD; *read_io* and *write_io* add them.
    """

    type: Literal["currents"]
    boundary: Boundary
    devices: Annotated[float, Field(gt=0)]
    rails: Annotated[dict[str, Rail], Field(min_length=1)]
    read_io_pj_per_bit: PicojoulesPerBit = 0.0
    write_io_pj_per_bit: PicojoulesPerBit = 0.0
    source: str

    def per_command(self, times: CommandTimes) -> CommandEnergy:
        """Picojoules of each command: (current above standby) · voltage · time; watts times picoseconds are picojoules."""
        rails, n = self.rails.values(), self.devices
        activate = sum(r.watts(r.idd0_a - r.idd3n_a) * times.activate_ps + r.watts(r.idd0_a - r.idd2n_a) * times.precharge_ps
                       for r in rails)
        read = n * times.burst_ps * sum(r.watts(r.idd4r_a - r.idd3n_a) for r in rails)
        write = n * times.burst_ps * sum(r.watts(r.idd4w_a - r.idd3n_a) for r in rails)
        refresh_bank: float | None = None
        if times.refresh_bank_ps is not None and all(r.idd5pb_a is not None for r in rails):
            refresh_bank = n * times.refresh_bank_ps * sum(r.watts((r.idd5pb_a or 0.0) - r.idd3n_a) for r in rails)
        return CommandEnergy(
            activate_pj=n * activate,
            read_pj=read + times.burst_bits * self.read_io_pj_per_bit,
            write_pj=write + times.burst_bits * self.write_io_pj_per_bit,
            refresh_pj=n * times.refresh_ps * sum(r.watts(r.idd5b_a - r.idd3n_a) for r in rails),
            refresh_bank_pj=refresh_bank,
            active_standby_w=n * sum(r.watts(r.idd3n_a) for r in rails),
            precharge_standby_w=n * sum(r.watts(r.idd2n_a) for r in rails),
        )


class Stage(Config):
    """One stretch of the way between the cells and the host, and what a bit costs on it."""

    to: Place
    read_pj_per_bit: PicojoulesPerBit
    write_pj_per_bit: PicojoulesPerBit


class BitEnergy(Config):
    """Energy from published figures: a row's activation, then picojoules for each bit and stretch of the way.

    A unit inside the memory that takes its data at a place (a bank, a bank group, the buffer die) pays the stages up to there.
    """

    type: Literal["per_bit"]
    boundary: Boundary
    activate_pj: Picojoules              # one row opened and closed again
    path: Annotated[tuple[Stage, ...], Field(min_length=1)]
    refresh_pj: Picojoules | None = None          # left out: the activation of one row in every bank
    refresh_bank_pj: Picojoules | None = None     # left out: the activation of one row
    active_standby_w: Watts = 0.0        # of one rank or pseudo-channel
    precharge_standby_w: Watts = 0.0
    source: str

    def read_pj_per_bit(self, to: Place = "host") -> float:
        """From the cells to *to*, the activation of the row left out."""
        return sum(stage.read_pj_per_bit for stage in self.path if PLACES.index(stage.to) <= PLACES.index(to))

    def write_pj_per_bit(self, to: Place = "host") -> float:
        """From *to* to the cells."""
        return sum(stage.write_pj_per_bit for stage in self.path if PLACES.index(stage.to) <= PLACES.index(to))

    def per_command(self, times: CommandTimes) -> CommandEnergy:
        """Picojoules of each command."""
        return CommandEnergy(
            activate_pj=self.activate_pj,
            read_pj=times.burst_bits * self.read_pj_per_bit(),
            write_pj=times.burst_bits * self.write_pj_per_bit(),
            refresh_pj=self.activate_pj * times.refresh_banks if self.refresh_pj is None else self.refresh_pj,
            refresh_bank_pj=self.activate_pj if self.refresh_bank_pj is None else self.refresh_bank_pj,
            active_standby_w=self.active_standby_w, precharge_standby_w=self.precharge_standby_w,
        )


#: The kinds of energy table that a memory may state.
EnergyTable = CurrentEnergy | BitEnergy
