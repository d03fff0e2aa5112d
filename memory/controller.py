"""Controller options, the presets that reproduce two public simulators, and the replay of a trace on one channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..sim.errors import ConfigError
from . import layout as at
from .address import AddressMap
from .advance import advance
from .options import ControllerConfig as ControllerConfig
from .standard import DramStandard, Organisation
from .tables import Tables, compile_tables

Int64Array = npt.NDArray[np.int64]
#: The controllers of two public simulators, by what their sources do (Ramulator 2.1, c5b1c3a; DRAMsim3, 2981759).
PRESETS: Mapping[str, ControllerConfig] = {
    "ramulator": ControllerConfig(merge_writes=True, keep_order=False),
    "dramsim3": ControllerConfig(scheduler="banked", merge_writes=True, merge_reads=True, keep_order=False),
}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a trace on one channel gave; cycles are ticks of the memory."""

    last_data_cycle: int
    last_column_cycle: int
    command_counts: dict[str, int]
    row_hits: int
    row_misses: int
    row_conflicts: int
    merged: int
    reads: int
    average_read_latency: float
    maximum_read_latency: int
    open_cycles: int
    log: Int64Array                      # (n, L_SIZE) first commands, when asked for


def tables_for(
    standard: DramStandard, organisation: Organisation, timing: Mapping[str, int], mapping: AddressMap,
    controller: ControllerConfig, *, dependent: bool = False,
) -> Tables:
    """The kernel's tables for a device, its address mapping and its controller."""
    timing = dict(timing)
    _check_options(standard, organisation, timing, controller)
    if controller.refresh == "none":
        timing["tREFI"] = 0
    elif controller.refresh == "per_bank":
        timing["tREFI"] = timing["tREFIpb"]
    parameters = controller.parameters() | {at.P_DEPENDENT: int(dependent)}
    return compile_tables(standard, organisation, timing, segments=mapping.segments, xors=mapping.xors, controller=parameters)


def _check_options(
    standard: DramStandard, organisation: Organisation, timing: Mapping[str, int], controller: ControllerConfig,
) -> None:
    """A ConfigError for a controller that cannot drive this standard."""
    if controller.scheduler == "banked" and (standard.by_role("activate_2") or controller.refresh == "per_bank"):
        raise ConfigError(f"the scheduler 'banked' knows neither two-part activates nor refresh by bank; {standard.name} with "
                          f"refresh {controller.refresh} needs them", key="controller.scheduler", value="banked",
                          allowed=("fr-fcfs", "fcfs"))
    limit = standard.refresh_postponed_max * (organisation.banks if controller.refresh == "per_bank" else 1)
    if controller.refresh != "none" and controller.refresh_postponed_max > limit:
        raise ConfigError(f"{standard.name} lets {standard.refresh_postponed_max} refreshes of all banks be owed at most",
                          key="controller.refresh_postponed_max", value=controller.refresh_postponed_max,
                          allowed=(f"0 to {limit}",))
    if controller.refresh == "per_bank" and (standard.by_role("refresh_bank") is None or "tREFIpb" not in timing):
        raise ConfigError(f"{standard.name} has no refresh by bank (a command of that role and the timing tREFIpb)",
                          key="controller.refresh", value="per_bank", allowed=("all_bank", "none"))


def descriptors(
    start: Int64Array, count: Int64Array, tick: Int64Array | int, write: npt.NDArray[np.bool_] | bool, transfer: int,
) -> Int64Array:
    """Descriptor rows of one channel: runs of *count* consecutive local bursts from *start*, seen from *tick* on."""
    rows = np.zeros((len(start), at.D_SIZE), np.int64)
    rows[:, at.D_START], rows[:, at.D_COUNT], rows[:, at.D_LEFT] = start, count, count
    rows[:, at.D_TICK], rows[:, at.D_WRITE], rows[:, at.D_TRANSFER] = tick, write, transfer
    return rows


def replay(
    tables: Tables, start: Int64Array, tick: Int64Array, write: npt.NDArray[np.bool_], *, count: Int64Array | None = None,
    log_commands: int = 0, run_on: int = 0,
) -> Replay:
    """Serve a trace of requests (or of runs of *count*) on one channel, in order of offering, to its last data beat.

    *run_on* idle cycles after it are simulated besides: refreshes go on.
    """
    states = tables.new_states(1)
    desc = descriptors(start, np.ones_like(start) if count is None else count, tick, write, 0)[None]
    states[0, at.S_DESC_TAIL] = desc.shape[1]
    transfers = np.array([[desc.shape[1], 0]], np.int64)
    log = np.zeros((1, log_commands, at.L_SIZE), np.int64)
    scratch = np.zeros((1, 2), np.int64)
    for until in (at.NEVER, 0):
        until = until or int(states[0, at.S_LAST_DATA]) + 1 + run_on
        advance(states, tables, desc, transfers, log, scratch, until)
    s, p = states[0], tables.params
    counts = s[p[at.P_O_COUNT]:p[at.P_O_COUNT] + p[at.P_COMMANDS]]
    scopes = range(int(p[at.P_SCOPES]))
    open_cycles = sum(
        int(s[p[at.P_O_OPEN_CYCLES] + i])
        + (int(s[at.S_LAST_DATA] - s[p[at.P_O_OPEN_SINCE] + i]) if s[p[at.P_O_OPEN_BANKS] + i] else 0) for i in scopes)
    return Replay(
        last_data_cycle=int(s[at.S_LAST_DATA]), last_column_cycle=int(s[at.S_LAST_COLUMN]),
        command_counts={name: int(n) for name, n in zip(tables.commands, counts, strict=True)},
        row_hits=int(s[at.S_ROW_HITS:at.S_ROW_HITS + 2].sum()), row_misses=int(s[at.S_ROW_MISSES:at.S_ROW_MISSES + 2].sum()),
        row_conflicts=int(s[at.S_ROW_CONFLICTS:at.S_ROW_CONFLICTS + 2].sum()),
        merged=int(s[at.S_MERGED:at.S_MERGED + 2].sum()), reads=int(s[at.S_READS_DONE]),
        average_read_latency=float(s[at.S_READ_LATENCY_SUM]) / max(1, int(s[at.S_READS_DONE])),
        maximum_read_latency=int(s[at.S_READ_LATENCY_MAX]), open_cycles=open_cycles,
        log=log[0, :int(s[at.S_LOG])].copy(),
    )
