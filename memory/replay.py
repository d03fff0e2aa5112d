"""Requests served by the channels of a memory: what came of it, request by request and command by command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..sim.errors import ConfigError
from . import layout as at
from .address import AddressMap, MappingError, parse_mapping
from .advance import advance
from .controller import ControllerConfig, descriptors, tables_for
from .patterns import BoolArray, Requests
from .power import Tally, energy_actions, refuse_unpriced_refresh
from .standard import Memory
from .tables import Tables

Int64Array = npt.NDArray[np.int64]
#: Latencies reported, in percent of the requests.
PERCENTILES = (0, 50, 90, 95, 99, 99.9, 100)


@dataclass(frozen=True, slots=True)
class ChannelRun:
    """One channel's requests in its own order, when each ended, and its first commands."""

    tick: Int64Array                     # first tick at which the request might be offered
    write: BoolArray
    admit: Int64Array                    # tick at which it entered a queue
    finish: Int64Array                   # tick after its last data beat
    state: Int64Array
    log: Int64Array                      # (n, L_SIZE)

    @property
    def latency(self) -> Int64Array:
        """Ticks from entering the controller's queue to the last data beat; before that a request waits at its sender."""
        return self.finish - self.admit


@dataclass(frozen=True, slots=True)
class DramRun:
    """A trace served by a memory: the value that tables, JSON, plots and the verdict are functions of."""

    memory: Memory
    controller: ControllerConfig
    channels: tuple[ChannelRun, ...]
    tables: Tables
    requests: int
    nbytes: int                          # whole bursts
    cycles: int                          # ticks to the last data beat

    @property
    def seconds(self) -> float:
        return self.cycles / self.memory.tick_hz

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds

    @property
    def peak_bytes_per_s(self) -> float:
        """The pin rate of the channels that were simulated."""
        return len(self.channels) * self.memory.channel_bytes_per_s

    def total(self, index: int) -> int:
        """A counter of the state, summed over the channels."""
        return int(sum(int(run.state[index]) for run in self.channels))

    @property
    def commands(self) -> dict[str, int]:
        """Commands issued, by name, over all channels."""
        p = self.tables.params
        counts = sum(run.state[p[at.P_O_COUNT]:p[at.P_O_COUNT] + p[at.P_COMMANDS]] for run in self.channels)
        return {name: int(n) for name, n in zip(self.tables.commands, np.asarray(counts), strict=True)}

    def latency_ns(self, *, writes: bool = False) -> dict[str, float]:
        """Mean and percentiles of the latency of reads (or of writes, to the last beat at the pins); empty without any."""
        of_kind = [run.latency[run.write == writes] for run in self.channels]
        ticks = np.concatenate(of_kind) if of_kind else np.zeros(0)
        if not len(ticks):
            return {}
        tick_ns = 1e9 / self.memory.tick_hz
        named = zip(PERCENTILES, np.percentile(ticks, PERCENTILES), strict=True)
        return {"mean": float(ticks.mean()) * tick_ns} | {f"p{p:g}": float(value) * tick_ns for p, value in named}

    def tally(self) -> Tally:
        """Counts and standby times for the energy."""
        p = self.tables.params
        scopes = int(p[at.P_SCOPES])
        open_cycles = 0
        for run in self.channels:
            s = run.state
            since, is_open = s[p[at.P_O_OPEN_SINCE]:][:scopes], s[p[at.P_O_OPEN_BANKS]:][:scopes] > 0
            open_cycles += int(s[p[at.P_O_OPEN_CYCLES]:][:scopes].sum() + np.maximum(0, self.cycles - since[is_open]).sum())
        period_ps = float(self.memory.clock.period_ps)
        in_all = round(self.cycles * scopes * len(self.channels) * period_ps)
        open_ps = min(in_all, round(open_cycles * period_ps))
        return Tally(self.commands, open_ps, in_all - open_ps)

    def energy(self) -> dict[str, tuple[int, float]]:
        """(count, picojoules each) by action; empty where the memory states no energy."""
        return energy_actions(self.memory, self.tally())


def address_map(memory: Memory, mapping: str | None, channels: int) -> AddressMap:
    """The address map of *channels* channels; a ConfigError says what is wrong with the mapping string."""
    try:
        return parse_mapping(mapping or memory.address_mapping, memory.organisation, channels)
    except MappingError as error:
        where = "--mapping" if mapping else f"the address mapping of {memory.name}"
        raise ConfigError(f"{where}: {error}", key="--mapping", value=mapping) from None


def serve(
    memory: Memory, requests: Requests, controller: ControllerConfig | None = None, *, channels: int | None = None,
    mapping: str | None = None, log_commands: int = 0, progress: Callable[[int, int], None] | None = None,
) -> DramRun:
    """Serve *requests* with *channels* channels of *memory* (all of one device when left out), to the last data beat.

    Without a *controller* it is the one that the memory usually stands behind.

    Each channel takes its requests in order, one a tick at most, as its queues have room; a channel that is full does not hold
    the others up. Channels start together and are independent. The first *log_commands* commands of channel 0 are kept.
    """
    controller = controller or memory.controller
    refuse_unpriced_refresh(memory, controller.refresh == "per_bank")
    count = memory.channels if channels is None else channels
    mapped = address_map(memory, mapping, count)
    _check_addresses(requests, memory, count)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapped, controller)
    burst = requests.address // memory.organisation.bytes_per_burst
    channel, local = mapped.local(burst)
    runs = []
    for c in range(count):
        own = np.flatnonzero(channel == c)
        runs.append(run_channel(tables, local[own], requests.tick[own], requests.write[own], log_commands if c == 0 else 0))
        if progress is not None:
            progress(c + 1, count)
    cycles = max((int(run.finish.max()) for run in runs if len(run.finish)), default=1)
    nbytes = len(requests) * memory.organisation.bytes_per_burst
    return DramRun(memory, controller, tuple(runs), tables, len(requests), nbytes, cycles)


def _check_addresses(requests: Requests, memory: Memory, channels: int) -> None:
    capacity = channels * memory.organisation.channel_bytes
    beyond = np.flatnonzero((requests.address >= capacity) | (requests.address < 0))
    if len(beyond):
        first = int(beyond[0])
        raise ConfigError(f"request {first + 1} is at address {int(requests.address[first]):#x}, beyond the {capacity} bytes of "
                          f"{channels} channel{'s' if channels > 1 else ''} of {memory.name}",
                          mend="use more channels, or a larger memory")


def run_channel(tables: Tables, local: Int64Array, tick: Int64Array, write: BoolArray, log_commands: int = 0) -> ChannelRun:
    """Serve single-burst requests of one channel; gives the end of each."""
    states = tables.new_states(1)
    log = np.zeros((1, log_commands, at.L_SIZE), np.int64)
    if not len(local):
        return ChannelRun(tick, write, tick.copy(), tick.copy(), states[0], log[0])
    desc = descriptors(local, np.ones_like(local), tick, write, 0)[None]
    states[0, at.S_DESC_TAIL] = desc.shape[1]
    transfers = np.array([[desc.shape[1], 0]], np.int64)
    advance(states, tables, desc, transfers, log, np.zeros((1, 2), np.int64), at.NEVER)
    return ChannelRun(tick, write, desc[0, :, at.D_ADMIT].copy(), desc[0, :, at.D_FINISH].copy(), states[0],
                      log[0, :int(states[0, at.S_LOG])].copy())
