"""What bound a run, in words: the critical path through its commands, every cycle of it charged to one cause.

The path is walked back from the last column command. A command went out when the last of its rules allowed it (that rule is the
cause, the command that set it is next on the path), or later, because the command bus was taken, the queue was full, its request
had not come, or the scheduler chose others first. The pieces telescope: their sum is the time of the run, which is checked.

A command that waited for its request leads to that request's arrival. If it came when its sender offered it, the sender set the
pace: the path goes on to the arrival before, and all between is "no requests". If it waited for room in the queue, that is "queue
full", and the path goes on at the command that made room. The request's own commands up to there (precharge, activate, column)
are charged likewise: had it come sooner, they would have overlapped with those of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from . import layout as at
from .replay import ChannelRun, DramRun
from .standard import LEVELS, Memory, Role, Rule, evaluate
from .tables import TREE, level_shifts

_COLUMN: tuple[Role, ...] = ("read", "write", "read_precharge", "write_precharge")
_WRITES: tuple[Role, ...] = ("write", "write_precharge")
_REFRESH: tuple[Role, ...] = ("refresh_all", "refresh_bank", "precharge_all")
#: Stands for the command before one that waited for its request.
_ARRIVAL = -2
#: cause → what would help.
ADVICE: Mapping[str, str] = {
    "data bus": "the pins are busy: only fewer bytes, or more channels, help",
    "tCCD_L": "spread neighbouring requests over bank groups",
    "one bank's columns": "spread neighbouring requests over banks",
    "turnarounds": "send reads and writes in longer batches (deeper write queue, wider watermarks)",
    "rank switches": "serve more requests of one rank or stack before the next",
    "tFAW": "the current limit on activations: use more of each row that is opened",
    "tRRD": "activations follow each other too closely: use more of each row that is opened",
    "row cycle": "rows of one bank follow each other: map them to different banks, or keep requests of one row together",
    "refresh": "refresh bank by bank, or postpone refreshes to idle times",
    "command bus": "commands are too many for their bus: use more of each row, or longer bursts",
    "queue full": "the controller looks at too few requests: deepen its queues",
    "no requests": "requests come more slowly than the memory serves them",
    "scheduling": "the scheduler served others first",
    "last data": "the latency of the last burst",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Cycles of the critical path of channel 0 by cause, and what they say."""

    cycles: Mapping[str, int]            # by cause; the sum is `covered_cycles`
    covered_cycles: int
    total_cycles: int                    # of the channel's whole run; more than covered when the log was cut

    def shares(self) -> dict[str, float]:
        """Share of the covered time by cause, largest first."""
        ordered = sorted(self.cycles.items(), key=lambda item: (-item[1], item[0]))
        return {cause: cycles / self.covered_cycles for cause, cycles in ordered}

    def lines(self, least: float = 0.01) -> list[str]:
        """The verdict in words: what bound the run, with its mend, then every other cause above *least*."""
        if not self.covered_cycles:
            return ["nothing was served"]
        (main, share), *others = self.shares().items()
        words = [f"{main}-bound ({100 * share:.1f} % of the time): {ADVICE[main]}"]
        words += [f"{cause} {100 * part:.1f} %: {ADVICE[cause]}" for cause, part in others if part >= least]
        if self.covered_cycles < self.total_cycles:
            words.append(f"judged by the first {100 * self.covered_cycles / self.total_cycles:.0f} % of the run")
        return words


@dataclass(frozen=True, slots=True)
class _Check:
    """A rule seen from one of the commands that it holds back."""

    key: int                             # of the rule
    level: str
    wait: int
    window: int
    sibling: bool
    cause: str


def judge(run: DramRun) -> Verdict:
    """The verdict on channel 0 of *run*, whose commands must have been logged."""
    channel = run.channels[0]
    if not len(channel.log):
        return Verdict({}, 0, 0)
    total = int(channel.finish.max())
    return _walk_back(run.memory, channel, _binding(run.memory, channel), total)


def _binding(memory: Memory, channel: ChannelRun) -> list[tuple[int, int, str]]:
    """For each command of the log: the cycle from which all its rules allowed it, the command that set it, and the cause."""
    names = list(memory.standard.commands)
    checks, settings = _checks(memory)
    scope_banks = 1 << level_shifts(memory.organisation)[memory.standard.refresh_level]
    shifts = level_shifts(memory.organisation)
    whole = [command.scope != "bank" for command in memory.standard.commands.values()]
    last: dict[tuple[int, int], list[tuple[int, int]]] = {}
    found = []
    for i, (cycle, command, bank) in enumerate(channel.log[:, (at.L_CYCLE, at.L_COMMAND, at.L_BANK)].tolist()):
        span = scope_banks if whole[command] else 1
        best, by, cause = 0, -1, "no requests"
        for check in checks[names[command]]:
            for node in _nodes(check, bank, span, shifts):
                history = last.get((check.key, node))
                if history is not None and len(history) >= check.window:
                    since, index = history[-check.window]
                    ready = since + check.wait
                    if ready > best or (ready == best and check.cause == "data bus"):      # a tie is the pins' to win
                        best, by, cause = ready, index, check.cause
        found.append((best, by, cause))
        for key, level, window in settings[names[command]]:
            for node in range(bank >> shifts[level], ((bank + span - 1) >> shifts[level]) + 1):
                history = last.setdefault((key, node), [])
                history.append((cycle, i))
                if len(history) > window:
                    del history[0]
    return found


def _nodes(check: _Check, bank: int, span: int, shifts: Mapping[str, int]) -> Iterator[int]:
    """The nodes whose history holds a command at *bank* (and the *span* banks from it) back."""
    shift = shifts[check.level]
    own = range(bank >> shift, ((bank + span - 1) >> shift) + 1)
    if not check.sibling:
        yield from own
        return
    wider = [shifts[level] for level in TREE[:TREE.index(check.level)] if shifts[level] > shift]
    children = 1 << (min(wider, default=shift) - shift)
    first = own.start // children * children
    yield from (node for node in range(first, first + children) if node not in own)


def _checks(memory: Memory) -> tuple[dict[str, list[_Check]], dict[str, list[tuple[int, str, int]]]]:
    """By command: the rules that hold it back, and the (rule, level, window) whose histories it enters."""
    commands, timing = memory.standard.commands, memory.ticks
    checks: dict[str, list[_Check]] = {name: [] for name in commands}
    settings: dict[str, list[tuple[int, str, int]]] = {name: [] for name in commands}
    for number, rule in enumerate(memory.standard.rules):
        wait = evaluate(rule.wait, timing)
        for k, after in enumerate(rule.after):
            # A window counts each kind of command by itself, as the controller does.
            key = number * len(commands) + k
            settings[after].append((key, rule.level, rule.window))
            for before in rule.before:
                cause = _cause(memory, rule, commands[after].role, commands[before].role)
                checks[before].append(_Check(key, rule.level, wait, rule.window, rule.sibling, cause))
    pairs: tuple[tuple[Role, Role], ...] = (("sync_read", "read"), ("sync_write", "write"))
    for sync, column in pairs:
        first, second = memory.standard.by_role(sync), memory.standard.by_role(column)
        if first is not None and second is not None:
            checks[first] = checks[second]         # the data clock is synchronised when the column command may go
    return checks, settings


def _cause(memory: Memory, rule: Rule, after: Role, before: Role) -> str:
    """The name of a rule's cause in the words of :data:`ADVICE`."""
    if after in _REFRESH or before in _REFRESH:
        return "refresh"
    if (isinstance(rule.wait, int) and rule.level == "channel") or after.startswith("sync"):
        return "command bus"
    if after in _COLUMN and before in _COLUMN:
        if rule.sibling:
            return "rank switches"
        if after != before:
            return "turnarounds"
        if rule.level == "bank_group" and memory.organisation.bank_groups > 1:
            return "tCCD_L"
        return "one bank's columns" if rule.level == "bank" else "data bus"
    if after == before == "activate" and rule.level != "bank":
        return "tFAW" if rule.window > 1 else "tRRD"
    return "row cycle"


def _walk_back(memory: Memory, channel: ChannelRun, binding: list[tuple[int, int, str]], total: int) -> Verdict:
    log, roles = channel.log.tolist(), [command.role for command in memory.standard.commands.values()]
    columns = [i for i, entry in enumerate(log) if roles[entry[at.L_COMMAND]] in _COLUMN]
    if not columns:
        return Verdict({}, 0, total)
    cycles: dict[str, int] = {}
    i = columns[-1]
    own: list[tuple[str, int]] = []              # pieces within the service of one request, until it is known how that began
    last_cycle = log[i][at.L_CYCLE]
    cut = len(channel.finish) > len(columns)
    covered = last_cycle if cut else total
    cycles["last data"] = covered - last_cycle
    requests = _requests(memory, channel, log)
    while i >= 0:
        cause, before = _step(memory, channel, log, binding, requests, i)
        if before == _ARRIVAL:
            cause, before = _walk_arrivals(memory, channel, log, requests, i, cycles)
            _charge(cycles, [(cause, n) for _, n in own])
            own = []
        else:
            own.append((cause, log[i][at.L_CYCLE] - (log[before][at.L_CYCLE] if before >= 0 else 0)))
            if before < 0 or log[i][at.L_REQUEST] < 0 or log[before][at.L_REQUEST] != log[i][at.L_REQUEST]:
                _charge(cycles, own)
                own = []
        i = before
    assert sum(cycles.values()) == covered, "the pieces of the critical path must add up"
    return Verdict({cause: n for cause, n in cycles.items() if n}, covered, total)


def _requests(memory: Memory, channel: ChannelRun, log: list[list[int]]) -> dict[int, int]:
    """The request of the channel by its number in the log, which does not count those that a waiting request served.

    No two column commands of a kind go out in one cycle, so each is known by the end of its data.
    """
    roles, ticks = [command.role for command in memory.standard.commands.values()], memory.ticks
    served = np.flatnonzero(channel.finish != channel.admit + 1)[::-1]      # of those that share a burst, the first
    by_end = dict(zip(zip(channel.finish[served].tolist(), channel.write[served].tolist(), strict=True), served.tolist(),
                      strict=True))
    found = {}
    for cycle, command, _, _, _, number in log:
        if roles[command] in _COLUMN:
            write = roles[command] in _WRITES
            found[number] = by_end[cycle + ticks["tCWL" if write else "tCL"] + ticks["tBL"], write]
    return found


def _charge(cycles: dict[str, int], pieces: list[tuple[str, int]]) -> None:
    for cause, n in pieces:
        cycles[cause] = cycles.get(cause, 0) + n


def _walk_arrivals(
    memory: Memory, channel: ChannelRun, log: list[list[int]], requests: Mapping[int, int], i: int, cycles: dict[str, int],
) -> tuple[str, int]:
    """Walk back from command *i*, which waited for its request, along the arrivals: (why, command that made room or -1)."""
    roles = [command.role for command in memory.standard.commands.values()]
    cycle, request, why = log[i][at.L_CYCLE], requests[log[i][at.L_REQUEST]], ""
    while True:
        arrival, write = int(channel.admit[request]), bool(channel.write[request])
        soonest = max(int(channel.tick[request]), int(channel.admit[request - 1]) if request else 0) + 1
        while i >= 0 and log[i][at.L_CYCLE] >= arrival:
            i -= 1
        if arrival > soonest:
            # A request leaves its queue with the activate of its row or, where the row is open, with its column command.
            before = i
            while before >= 0 and not (
                    roles[log[before][at.L_COMMAND]] in ("activate", *_COLUMN) and log[before][at.L_REQUEST] in requests
                    and bool(channel.write[requests[log[before][at.L_REQUEST]]]) == write):
                before -= 1
            if before >= 0:
                _charge(cycles, [("queue full", cycle - log[before][at.L_CYCLE])])
                return why or "queue full", before
        earlier = int(channel.admit[request - 1]) if request else 0
        _charge(cycles, [("no requests", cycle - earlier)])
        why = why or "no requests"
        if not request:
            return why, -1
        cycle, request = earlier, request - 1


def _step(
    memory: Memory, channel: ChannelRun, log: list[list[int]], binding: list[tuple[int, int, str]],
    requests: Mapping[int, int], i: int,
) -> tuple[str, int]:
    """(cause, command before it on the path) of command *i*; _ARRIVAL where it waited for its request."""
    cycle, command, _, _, _, request = log[i]
    ready, by, cause = binding[i]
    aligned = ready | 1 if memory.standard.half_clock_ticks else ready
    if by >= 0 and aligned >= cycle:
        return cause, by
    kinds = list(memory.standard.commands.values())
    if kinds[command].role in _REFRESH:
        return "refresh", i - 1
    if request in requests and channel.admit[requests[request]] >= max(ready, log[i - 1][at.L_CYCLE] if i else 0):
        return "no requests", _ARRIVAL
    before = i - 1
    while before >= 0 and memory.standard.dual_bus and kinds[log[before][at.L_COMMAND]].bus != kinds[command].bus:
        before -= 1
    if before >= 0 and log[before][at.L_CYCLE] + kinds[log[before][at.L_COMMAND]].clocks >= cycle:
        return "command bus", before
    return "scheduling", i - 1


assert set(LEVELS) == set(TREE)
