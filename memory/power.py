"""A memory's energy: its commands priced, its background by state, and its power over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..sim.errors import ConfigError
from ..sim.units import BITS_PER_BYTE
from . import layout as at
from .energy import CommandEnergy, CommandTimes
from .standard import Memory, Role

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
PJ = 1e-12                               # joules


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run did: commands by name, and how long the ranks (or pseudo-channels) spent with a bank open and without."""

    commands: Mapping[str, int]
    open_ps: int                         # summed over every rank of every channel
    closed_ps: int


def command_times(memory: Memory) -> CommandTimes:
    """The times of *memory* that the energy formulas need; a ConfigError names the one that is missing."""
    ticks, organisation = memory.ticks, memory.organisation
    period_ps = float(memory.clock.period_ps)
    missing = [name for name in ("tRAS", "tRP", "tRFC") if name not in ticks]
    if missing:
        raise ConfigError(f"{memory.name} has an energy table, whose formulas need the timing {missing[0]}",
                          key=f"timing.{missing[0]}")
    scopes = organisation.pseudo_channels * organisation.ranks
    return CommandTimes(
        activate_ps=ticks["tRAS"] * period_ps, precharge_ps=ticks["tRP"] * period_ps, burst_ps=ticks["tBL"] * period_ps,
        refresh_ps=ticks["tRFC"] * period_ps,
        refresh_bank_ps=ticks["tRFCpb"] * period_ps if "tRFCpb" in ticks else None,
        burst_bits=organisation.bytes_per_burst * BITS_PER_BYTE, refresh_banks=organisation.banks // scopes)


def command_energy(memory: Memory) -> CommandEnergy | None:
    """What each command of *memory* costs; None where it states no energy."""
    return None if memory.energy is None else memory.energy.per_command(command_times(memory))


def command_prices_pj(memory: Memory, energy: CommandEnergy) -> dict[str, float]:
    """Picojoules of each command by its name; precharges are paid with the activation."""
    by_role: dict[Role, float] = {
        "activate": energy.activate_pj, "read": energy.read_pj, "read_precharge": energy.read_pj, "write": energy.write_pj,
        "write_precharge": energy.write_pj, "refresh_all": energy.refresh_pj,
    }
    if energy.refresh_bank_pj is not None:
        by_role["refresh_bank"] = energy.refresh_bank_pj
    return {name: by_role.get(command.role, 0.0) for name, command in memory.standard.commands.items()}


def energy_actions(memory: Memory, tally: Tally) -> dict[str, tuple[int, float]]:
    """(count, picojoules each) of everything that *memory* did; empty where it states no energy.

    Background is counted in picoseconds of one rank or pseudo-channel: one watt is one picojoule a picosecond.
    """
    energy = command_energy(memory)
    if energy is None:
        return {}
    prices = command_prices_pj(memory, energy)
    _refuse_unpriced(memory, tally, energy)
    actions = {name: (count, prices[name]) for name, count in tally.commands.items() if count and prices[name]}
    actions["standby, a bank open (ps)"] = (tally.open_ps, energy.active_standby_w)
    actions["standby, all closed (ps)"] = (tally.closed_ps, energy.precharge_standby_w)
    return actions


def refuse_unpriced_refresh(memory: Memory, refreshes_by_bank: bool) -> None:
    """Before a run: a ConfigError when it would refresh single banks for which the memory states no energy."""
    energy = command_energy(memory)
    name = memory.standard.by_role("refresh_bank")
    if energy is not None and refreshes_by_bank and name is not None:
        _refuse_unpriced(memory, Tally({name: 1}, 0, 0), energy)


def _refuse_unpriced(memory: Memory, tally: Tally, energy: CommandEnergy) -> None:
    """A refresh of single banks without a price would be free energy."""
    name = memory.standard.by_role("refresh_bank")
    if name is not None and energy.refresh_bank_pj is None and tally.commands.get(name, 0):
        raise ConfigError(f"{memory.name} refreshes bank by bank, and its energy table has no current for that (idd5pb)",
                          key="energy", mend="state idd5pb of every rail, or refresh all banks at once")


def idle_power_w(memory: Memory) -> float:
    """Watts of one channel that waits with all banks closed and is refreshed on time; 0 where it states no energy."""
    energy = command_energy(memory)
    if energy is None:
        return 0.0
    scopes = memory.organisation.pseudo_channels * memory.organisation.ranks
    interval_ps = memory.ticks["tREFI"] * float(memory.clock.period_ps)
    return scopes * (energy.precharge_standby_w + energy.refresh_pj / interval_ps)         # pJ in a picosecond are watts


def total_pj(actions: Mapping[str, tuple[int, float]]) -> float:
    """The sum of all actions."""
    return sum(count * pj for count, pj in actions.values())


def power_over_time(memory: Memory, log: Int64Array, cycles: int, bins: int) -> tuple[FloatArray, FloatArray]:
    """(start of each bin in seconds, average watts of one channel in it) from a command log of *cycles* cycles.

    A command's energy falls into the bin in which it was issued; standby follows the banks that the log opens and closes.
    """
    energy = command_energy(memory)
    if energy is None:
        raise ConfigError(f"{memory.name} states no energy, so it has no power", key="energy")
    prices = command_prices_pj(memory, energy)
    price = np.array([prices[name] for name in memory.standard.commands])
    edges = np.linspace(0, max(1, cycles), bins + 1)
    joules, _ = np.histogram(log[:, at.L_CYCLE], bins=edges, weights=price[log[:, at.L_COMMAND]] * PJ)
    period_s, width = float(memory.clock.period_ps) * 1e-12, float(edges[1])
    watts = joules / (width * period_s)
    for starts, ends in open_intervals(memory, log, cycles):
        share = np.diff(np.interp(edges, *_cumulative(starts, ends, cycles))) / width
        watts += share * energy.active_standby_w + (1 - share) * energy.precharge_standby_w
    return edges[:-1] * period_s, watts


def _cumulative(starts: list[int], ends: list[int], cycles: int) -> tuple[list[int], list[int]]:
    """Cycles with a bank open up to each corner of the timeline."""
    at_cycle, spent = [0], [0]
    for start, end in zip(starts, ends, strict=True):
        at_cycle += [start, end]
        spent += [spent[-1], spent[-1] + end - start]
    return [*at_cycle, cycles], [*spent, spent[-1]]


def open_intervals(memory: Memory, log: Int64Array, cycles: int) -> list[tuple[list[int], list[int]]]:
    """For each rank (or pseudo-channel), when it first has a bank open and when its last one closes, over and over."""
    roles = [command.role for command in memory.standard.commands.values()]
    per_scope = memory.organisation.banks // (memory.organisation.pseudo_channels * memory.organisation.ranks)
    found: list[tuple[list[int], list[int]]] = [([], []) for _ in range(memory.organisation.banks // per_scope)]
    open_banks: list[set[int]] = [set() for _ in found]
    for cycle, command, bank in log[:, (at.L_CYCLE, at.L_COMMAND, at.L_BANK)].tolist():
        scope = bank // per_scope
        banks, (starts, ends) = open_banks[scope], found[scope]
        was_open = bool(banks)
        if roles[command] == "activate":
            banks.add(bank)
        elif roles[command] == "precharge":
            banks.discard(bank)
        elif roles[command] == "precharge_all":
            banks.clear()
        if banks and not was_open:
            starts.append(cycle)
        elif was_open and not banks:
            ends.append(cycle)
    for starts, ends in found:
        ends += [cycles] * (len(starts) - len(ends))
    return found
