"""The DRAM of a machine, co-simulated: transfers in flight together meet in the controllers' queues.

A transfer is a set of byte ranges. Each becomes, for every channel, one run of consecutive channel-local bursts, and the kernel
expands it. One process advances the compiled controllers to the next event of the simulation or the next end of a transfer,
whichever is first. It runs after all ordinary events of its time, so that all requests of a cycle are queued before it is decided.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import simpy
from pydantic import Field, field_validator

from ..sim.clock import Clock
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import PS_PER_S, Picoseconds
from . import layout as at
from .address import AddressMap, MappingError, parse_mapping
from .channels import Channels
from .controller import ControllerConfig, tables_for
from .power import Tally, energy_actions, idle_power_w, refuse_unpriced_refresh, total_pj
from .standard import Memory, load_memory
from .tables import Tables
from .traffic import Traffic, added, asked_ranges, steady_counts

Int64Array = npt.NDArray[np.int64]
#: SimPy runs events of one time by priority, 0 and 1 being its own; the memory comes after all of them.
AFTER_ALL = 1 << 20


class DramConfig(Config):
    """A DRAM part of a machine: *stacks* devices of one memory, their address mapping and their controllers."""

    type: Literal["dram"]
    memory: str | Memory                         # a shipped name, a path, or the whole table in place
    stacks: Annotated[int, Field(ge=1, le=1024)] = 1
    address_mapping: str | None = None           # the memory's own when left out
    controller: ControllerConfig = ControllerConfig()               # what it leaves out is the memory's own
    on_chip_latency_ps: Annotated[Picoseconds, Field(ge=0)] = 0     # added to every read: controller pipeline, PHY, network

    @field_validator("memory")
    @classmethod
    def _memory_exists(cls, value: str | Memory) -> str | Memory:
        if isinstance(value, str):
            try:
                load_memory(value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @property
    def device(self) -> Memory:
        """The memory's table."""
        return load_memory(self.memory) if isinstance(self.memory, str) else self.memory

    @property
    def control(self) -> ControllerConfig:
        """The controller's options: those stated here over those of the memory."""
        return self.controller.over(self.device.controller)

    @property
    def channels(self) -> int:
        """Controllers: each serves the pseudo-channels of one channel."""
        return self.stacks * self.device.channels

    @property
    def capacity_bytes(self) -> int:
        return self.channels * self.device.organisation.channel_bytes

    @property
    def peak_bytes_per_s(self) -> float:
        """The pin rate."""
        return self.channels * self.device.channel_bytes_per_s

    @property
    def idle_w(self) -> float:
        """Power of all channels that wait with their banks closed, refreshed on time."""
        return self.channels * idle_power_w(self.device)

    def clock(self) -> Clock:
        """The clock whose cycles the tables count."""
        return self.device.clock

    def address_map(self) -> AddressMap:
        """Where each byte lives."""
        return parse_mapping(self.address_mapping or self.device.address_mapping, self.device.organisation, self.channels)


def _map_and_tables(config: DramConfig) -> tuple[AddressMap, Tables]:
    try:
        mapping = config.address_map()
    except MappingError as error:
        raise ConfigError(str(error), key="address_mapping") from None
    device = config.device
    tables = tables_for(device.standard, device.organisation, device.ticks, mapping, config.control)
    refuse_unpriced_refresh(device, config.control.refresh == "per_bank")
    return mapping, tables


class DramSystem:
    """The channels of one DRAM part in a SimPy environment."""

    def __init__(
        self, env: simpy.Environment, config: DramConfig, *, exact: bool = False, like: DramSystem | None = None,
    ) -> None:
        """*like*: another system of the same *config*, whose tables need not be made again."""
        self.env, self.config, self.exact = env, config, exact
        self.clock = config.clock()
        self.capacity_bytes, self.peak_bytes_per_s = config.capacity_bytes, config.peak_bytes_per_s
        self.num_channels = config.channels * config.device.organisation.pseudo_channels
        self.read_bytes = self.written_bytes = 0                # as asked for
        self.read_burst_bytes = self.written_burst_bytes = 0    # whole bursts that cover them
        self._map: AddressMap
        self.tables: Tables
        self._map, self.tables = _map_and_tables(config) if like is None else (like._map, like.tables)
        self.channels = Channels(self.tables, config.channels, config.control.refresh_phases, exact=exact)
        self._transfers = np.zeros((16, at.X_SIZE), np.int64)
        self._bound = np.zeros((16, 2), np.int64)
        self._free_transfers = list(range(15, -1, -1))
        self._pending: dict[int, tuple[simpy.Event, int]] = {}
        self._wake: simpy.Event | None = None
        self._replayed: dict[str, Any] = {}
        self._passed_ps = 0                                     # time of periods that were replayed
        self.last_burst_bytes = 0
        env.process(self._serve())

    # -- requests ----------------------------------------------------------------------------------------------------

    def transfer(self, ranges: npt.ArrayLike, write: bool) -> simpy.Event:
        """Move the byte *ranges*, (n, 2) of address and size; the event comes when the last data beat has moved.

        Bursts are whole: a range that covers part of a burst moves all of it. Reads take the on-chip latency besides.
        """
        asked = asked_ranges(ranges, self.capacity_bytes)
        done, self.last_burst_bytes = self.env.event(), 0
        if not len(asked):
            return done.succeed()
        nbytes = int(asked[:, 1].sum())
        start, end = self._bursts(asked)
        moved = self.last_burst_bytes = int((end - start).sum()) * self.config.device.organisation.bytes_per_burst
        if write:
            self.written_bytes, self.written_burst_bytes = self.written_bytes + nbytes, self.written_burst_bytes + moved
        else:
            self.read_bytes, self.read_burst_bytes = self.read_bytes + nbytes, self.read_burst_bytes + moved
        x = self._new_transfer()
        self.channels.submit(self._map.asked(start, end), self.clock.cycle_at(int(self.env.now)), write, self._transfers, x,
                             idle=not self._pending)
        self._pending[x] = (done, 0 if write else self.config.on_chip_latency_ps)
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.succeed()
        return done

    def _bursts(self, asked: Int64Array) -> tuple[Int64Array, Int64Array]:
        """First and one-past-last burst of each range; ranges that follow each other are joined."""
        size = self.config.device.organisation.bytes_per_burst
        start, end = asked[:, 0] // size, -(-(asked[:, 0] + asked[:, 1]) // size)
        if len(start) > 1:
            begins = np.concatenate(([True], (start[1:] > end[:-1]) | (start[1:] < start[:-1])))
            first = np.flatnonzero(begins)
            start, end = start[first], np.maximum.reduceat(end, first)
        return start, end

    def _new_transfer(self) -> int:
        if not self._free_transfers:
            size = len(self._transfers)
            self._transfers = np.concatenate((self._transfers, np.zeros_like(self._transfers)))
            self._bound = np.zeros((2 * size, 2), np.int64)
            self._free_transfers = list(range(2 * size - 1, size - 1, -1))
        return self._free_transfers.pop()

    # -- time --------------------------------------------------------------------------------------------------------

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        """Process: advance the channels whenever something is in flight, never past the next event of the simulation."""
        env = self.env
        while True:
            if not self._pending:
                self._wake = env.event()
                yield self._wake
                yield self._after_all(0)
            horizon = self._next_event_ps()
            until = at.NEVER if horizon is None else self.clock.cycle_at(horizon)
            if self._advance(until):
                continue
            assert horizon is not None, "transfers are in flight and no end of one is in sight"
            yield self._after_all(max(0, horizon - int(env.now)))

    def _advance(self, until: int) -> bool:
        """Run the kernel to cycle *until* or to the end of a transfer; gives whether one ended."""
        if not self.channels.advance(self._transfers, self._bound, until):
            return False
        for x in [x for x in self._pending if self._transfers[x, at.X_LEFT] == 0]:
            done, extra_ps = self._pending.pop(x)
            end_ps = self.clock.ps_of(int(self._transfers[x, at.X_FINISH])) + extra_ps
            self._free_transfers.append(x)
            done._ok, done._value = True, None
            self.env.schedule(done, delay=max(0, end_ps - int(self.env.now)))
        return True

    def _next_event_ps(self) -> int | None:
        """The time of the next event that is not a memory's own waiting, or None when there is none."""
        times = [entry[0] for entry in self.env._queue if entry[1] < AFTER_ALL]
        return int(min(times)) if times else None

    def _after_all(self, delay_ps: int) -> simpy.Event:
        """An event after all ordinary ones of its time."""
        event = self.env.event()
        event._ok, event._value = True, None
        schedule: Any = self.env.schedule                   # SimPy's stubs know only its own two priorities
        schedule(event, priority=AFTER_ALL, delay=delay_ps)
        return event

    # -- what it did -------------------------------------------------------------------------------------------------

    def _settle(self, end_ps: int) -> int:
        """Bring every channel to the end of the run, however far the last transfer led it; gives that cycle of its own clock.

        Idle channels refresh too: without this their count would depend on how far ahead they happened to run.
        """
        assert not self._pending, "a run ends when its transfers have"
        end = self.clock.cycle_at(end_ps - self._passed_ps)
        self._advance(end)
        return end

    def reduction(self) -> dict[str, Any]:
        """Which channels were simulated for which: the symmetry reduction as the report names it."""
        return {"name": "channel symmetry", "used": not self.exact and self.channels.fewest < self.config.channels,
                "channels": self.config.channels, "classes": self.channels.most,
                "premise": "channels of one class had the same state and the same requests"}

    def counters(self) -> dict[str, Any]:
        """Counts over all channels, each class weighted by its members, and of periods that were replayed."""
        return added(self.channels.counters(), self._replayed)

    def counted(self, now_ps: int) -> dict[str, Any]:
        """The counters so far, as :meth:`replay` takes them."""
        counts = self.counters()
        del counts["refreshes_owed_max"]
        open_cycles = self.channels.open_cycles(self.clock.cycle_at(now_ps - self._passed_ps))
        return counts | {"at_ps": now_ps, "open_cycles": open_cycles + self._replayed.get("open_cycles", 0),
                         "refresh_owed_ps": self.clock.ps_of(1) * self.channels.refreshes_owed() * self._refresh_ticks()}

    @property
    def burst_bytes(self) -> int:
        return self.config.device.organisation.bytes_per_burst

    @property
    def refresh_interval_ps(self) -> int:
        """The time in which every bank is refreshed once, or would be."""
        p = self.tables.params
        if p[at.P_REFI] <= 0:
            return self.clock.ps_of(self.config.device.ticks["tREFI"])
        return self.clock.ps_of(int(p[at.P_REFI]) << (int(p[at.P_SCOPE_SHIFT]) if p[at.P_PER_BANK] else 0))

    def _refresh_ticks(self) -> float:
        """Cycles of one refresh; that of one bank counts as that bank's share of its scope."""
        p, ticks = self.tables.params, self.config.device.ticks
        return ticks.get("tRFCpb", 0) / (1 << int(p[at.P_SCOPE_SHIFT])) if p[at.P_PER_BANK] else ticks.get("tRFC", 0)

    def _refreshes_due(self) -> int:
        """Refreshes that the time of replayed periods owes, of all scopes."""
        p = self.tables.params
        every = int(p[at.P_REFI])
        return self.clock.cycle_at(self._passed_ps) * int(p[at.P_SCOPES]) * self.config.channels // every if every > 0 else 0

    def moved_bytes(self, ranges: npt.ArrayLike) -> int:
        """What a transfer of *ranges* moves, in whole bursts."""
        asked = asked_ranges(ranges, self.capacity_bytes)
        if not len(asked):
            return 0
        start, end = self._bursts(asked)
        return int((end - start).sum()) * self.burst_bytes

    def spent(self, before: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
        """Picojoules between two notes of the counters: those that the program does not fix, and all.

        The program fixes columns, time owes refreshes. Without a table of energies activates count, beside columns.
        """
        counts, device = steady_counts(before, last, 1, 1), self.config.device
        roles = {name: command.role for name, command in device.standard.commands.items()}
        commands = {name: count for name, count in counts["commands"].items() if not roles[name].startswith("refresh")}
        columns = {name for name in commands if roles[name].startswith(("read", "write"))}
        scope_ps = counts["at_ps"] * int(self.tables.params[at.P_SCOPES]) * self.config.channels
        open_ps = self.clock.ps_of(counts["open_cycles"])
        actions = energy_actions(device, Tally(commands, open_ps, scope_ps - open_ps))
        if not actions:
            activates = sum(count for name, count in commands.items() if roles[name] == "activate")
            return activates, activates + sum(commands[name] for name in columns)
        everything = total_pj(actions)
        return everything - total_pj({name: action for name, action in actions.items() if name in columns}), everything

    def replay(self, before: Mapping[str, Any], last: Mapping[str, Any], periods: int, traffic: Traffic, times: int,
               passed_ps: int) -> None:
        """Count *times* more periods, each of *traffic* and otherwise as the *periods* between two notes of the counters.

        The bursts of a period are known, and *passed_ps* owes its refreshes; what was on its way at either note would make the
        difference of the notes miss them.
        """
        self.read_bytes += times * traffic.read_bytes
        self.written_bytes += times * traffic.written_bytes
        self.read_burst_bytes += times * traffic.read_burst_bytes
        self.written_burst_bytes += times * traffic.written_burst_bytes
        owed, self._passed_ps = self._refreshes_due(), self._passed_ps + passed_ps
        more, standard, p = steady_counts(before, last, periods, times), self.config.device.standard, self.tables.params
        columns = 0
        for kind, name, nbytes in (("reads", standard.by_role("read"), traffic.read_burst_bytes),
                                   ("writes", standard.by_role("write"), traffic.written_burst_bytes)):
            assert name is not None, "every standard can be read and written"
            missed = times * nbytes // self.burst_bytes - more[kind]
            more[kind] += missed
            more["commands"][name] += missed
            columns += more["commands"][name]
        refresh = standard.by_role("refresh_bank" if p[at.P_PER_BANK] else "refresh_all")
        if refresh is not None and p[at.P_REFI] > 0:
            more["commands"][refresh] = self._refreshes_due() - owed
        more["row_hits"] = columns - more["row_misses"] - more["row_conflicts"]
        self._replayed = added(more, self._replayed)

    def details(self, end_ps: int) -> dict[str, Any]:
        """The memory's entry of the report: counts, utilisation of the data bus, share of time in refresh, classes."""
        self._settle(end_ps)
        device, counts = self.config.device, self.counters()
        cycles = max(1, self.clock.cycle_at(end_ps))
        organisation, ticks = device.organisation, device.ticks
        buses = self.config.channels * organisation.pseudo_channels
        commands = counts["commands"]
        columns = sum(commands.get(name, 0) for name in (device.standard.by_role("read"), device.standard.by_role("write")) if name)
        seconds = end_ps / PS_PER_S
        moved = self.read_burst_bytes + self.written_burst_bytes
        return {
            "summary": f"{self.config.stacks} × {device.name}, {self.config.channels} "
                       f"channel{'s' if self.config.channels > 1 else ''}, {self.config.control.scheduler}",
            **counts,
            "read_burst_bytes": self.read_burst_bytes, "written_burst_bytes": self.written_burst_bytes,
            "achieved_bytes_per_s": moved / seconds if seconds else 0.0, "peak_bytes_per_s": self.peak_bytes_per_s,
            "data_bus_busy_share": columns * ticks["tBL"] / (cycles * buses),
            "refresh_share": self._refresh_cycles(commands) / (cycles * buses * organisation.ranks),
            "channels": self.config.channels, "channel_classes": self.channels.most,
        }

    def _refresh_cycles(self, commands: Mapping[str, int]) -> float:
        """Cycles in refresh of all scopes together; the refresh of one bank counts as that bank's share of its scope."""
        device = self.config.device
        ticks, scope_banks = device.ticks, 1 << int(self.tables.params[at.P_SCOPE_SHIFT])
        whole = commands.get(device.standard.by_role("refresh_all") or "", 0) * ticks.get("tRFC", 0)
        return whole + commands.get(device.standard.by_role("refresh_bank") or "", 0) * ticks.get("tRFCpb", 0) / scope_banks

    def energy_actions(self, end_ps: int) -> dict[str, tuple[int, float]]:
        """Counted actions and the energy of each in picojoules; empty where the memory states no energy."""
        end = self._settle(end_ps)                              # open cycles of replayed periods are counted apart
        scope_ps = end_ps * int(self.tables.params[at.P_SCOPES]) * self.config.channels
        open_ps = min(scope_ps, self.clock.ps_of(self.channels.open_cycles(end) + self._replayed.get("open_cycles", 0)))
        return energy_actions(self.config.device, Tally(self.counters()["commands"], open_ps, scope_ps - open_ps))
