"""A DRAM standard is a table: levels, commands, and rules "so long after this command, that command"; the engine obeys it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..sim import config as config_reader
from ..sim.clock import Clock
from ..sim.config import Config
from ..sim.errors import ConfigError
from ..sim.units import Hertz, parse_quantity
from ..sim.yaml_reader import Document, find_named
from .energy import EnergyTable
from .options import ControllerConfig

#: What a command does to the bank state; the scheduler knows roles, never names.
Role = Literal["activate", "activate_2", "precharge", "precharge_all", "read", "write", "read_precharge", "write_precharge",
               "refresh_all", "refresh_bank", "sync_read", "sync_write", "other"]
#: Whom a command addresses: one bank, one bank group, every bank of a rank or pseudo-channel, or the whole channel.
Scope = Literal["bank", "bank_group", "rank", "channel"]
LEVELS = ("channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank")
Level = Literal["channel", "pseudo_channel", "rank", "stack_id", "bank_group", "bank"]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"max": max, "min": min}


def formula_names(formula: str) -> set[str]:
    """The timing names that *formula* uses."""
    return {node.id for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Name)} - set(_FUNCTIONS)


def evaluate(formula: str | int, timing: Mapping[str, int]) -> int:
    """The cycles that *formula* (``tCWL + tBL + tWR``; + - * // max min) gives with the numbers in *timing*."""
    if isinstance(formula, int):
        return formula

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in timing:
                raise KeyError(node.id)
            return timing[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            return _FUNCTIONS[node.func.id](*(value(argument) for argument in node.args))
        raise ValueError(f"'{formula}' is no formula of timings; use names, whole numbers, + - * // max min")

    return value(ast.parse(formula, mode="eval").body)


def check_formula(formula: str | int) -> str | int:
    """*formula* if it is one: a count of ticks, or names of timings, whole numbers, + - * // max min. Raises ValueError."""
    if isinstance(formula, int):
        if formula < 0:
            raise ValueError(f"a wait of {formula} ticks is negative")
        return formula
    try:
        evaluate(formula, dict.fromkeys(formula_names(formula), 1))
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise ValueError(f"'{formula}' is no formula of timings; use names, whole numbers, + - * // max min") from None
    return formula


class Command(Config):
    """One command of a standard: what it does, whom it addresses, and how long it holds which command bus."""

    role: Role
    scope: Scope = "bank"
    bus: Literal["command", "row", "column"] = "command"
    clocks: Annotated[int, Field(ge=1)] = 1      # cycles of the tick on that bus; the rules carry what follows from it


class Rule(Config):
    """At one *level*, *before* may follow *after* no sooner than *wait* (since the window-th last of *after*)."""

    level: Level
    after: tuple[str, ...]
    before: tuple[str, ...]
    wait: str | int
    window: Annotated[int, Field(ge=1)] = 1
    sibling: bool = False                        # holds between different nodes of the level under one parent
    source: str | None = None

    @field_validator("wait")
    @classmethod
    def _wait_is_a_formula(cls, value: str | int) -> str | int:
        return check_formula(value)

    @field_validator("after", "before", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Organisation(Config):
    """What one channel consists of."""

    pseudo_channels: Annotated[int, Field(ge=1)] = 1
    ranks: Annotated[int, Field(ge=1)] = 1
    stack_ids: Annotated[int, Field(ge=1)] = 1
    bank_groups: Annotated[int, Field(ge=1)]
    banks_per_group: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]
    bursts_per_row: Annotated[int, Field(ge=1)]
    bytes_per_burst: Annotated[int, Field(ge=1)]

    @property
    def level_sizes(self) -> dict[str, int]:
        return {"channel": 1, "pseudo_channel": self.pseudo_channels, "rank": self.ranks, "stack_id": self.stack_ids,
                "bank_group": self.bank_groups, "bank": self.banks_per_group}

    @property
    def banks(self) -> int:
        return self.pseudo_channels * self.ranks * self.stack_ids * self.bank_groups * self.banks_per_group

    @property
    def row_bytes(self) -> int:
        return self.bursts_per_row * self.bytes_per_burst

    @property
    def channel_bytes(self) -> int:
        return self.banks * self.rows * self.row_bytes


class DramStandard(Config):
    """The commands and rules of a standard, without numbers."""

    name: str
    commands: dict[str, Command]
    rules: tuple[Rule, ...]
    refresh_level: Level = "rank"                # whom one all-bank refresh (and precharge-all) addresses
    # All-bank refreshes that may be owed at most: eight in DDR3 (JESD79-3F, 4.16), DDR4 (JESD79-4C, 4.9), LPDDR4 and 5, HBM2 and 3
    # (JESD235D, JESD238); ASSUMED for the GDDRs and HBM4, and overturned by their texts. DDR5 states its own.
    refresh_postponed_max: Annotated[int, Field(ge=0)] = 8
    dual_bus: bool = False                       # row and column commands have buses of their own
    half_clock_ticks: bool = False               # a tick is half a clock: only precharges may use the falling edge
    split_activate_window: str | int = 0         # the second activate must follow within so long; 0: one-part activate
    data_clock_post: str | int | None = None     # the data clock must be synchronised when idle for so long after a burst
    source: str

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for rule in self.rules:
            for name in (*rule.after, *rule.before):
                if name not in self.commands:
                    raise ValueError(f"rule {rule.after} -> {rule.before} names the command {name!r}; "
                                     f"known: {', '.join(self.commands)}")
        return self

    def by_role(self, role: Role) -> str | None:
        """The command with that *role*, or None."""
        return next((name for name, command in self.commands.items() if command.role == role), None)

    @property
    def timing_names(self) -> set[str]:
        """The timings that the rules need."""
        formulas = [rule.wait for rule in self.rules] + [self.split_activate_window, self.data_clock_post]
        return set().union(*(formula_names(f) for f in formulas if isinstance(f, str)))

    def extend(self, name: str, *, commands: Mapping[str, Command] | None = None, rules: tuple[Rule, ...] = (),
               source: str) -> DramStandard:
        """This standard with more commands and rules (a PIM variant says only what differs)."""
        return self.model_copy(update={"name": name, "commands": {**self.commands, **(commands or {})},
                                       "rules": self.rules + rules, "source": f"{self.source}; {source}"})


#: Timings that every memory states beside those of its rules.
CORE_TIMINGS = ("tCL", "tCWL", "tBL", "tREFI")
#: Timings that a memory may state: they are used when a controller refreshes bank by bank.
OPTIONAL_TIMINGS = ("tREFIpb",)


class Memory(Config):
    """A device: a standard, the organisation of one channel, the clock of a tick and the timings in ticks."""

    name: str
    description: str = ""
    standard: DramStandard
    organisation: Organisation
    channels: Annotated[int, Field(ge=1)]        # of one device: a stack, a DIMM's sub-channels, one package
    tick_hz: Annotated[Hertz, Field(gt=0)]
    address_mapping: str
    controller: ControllerConfig = ControllerConfig()    # what such a memory usually stands behind; a chip may say otherwise
    timing: dict[str, int | str]                 # ticks, or a time with its unit, rounded up to ticks
    energy: EnergyTable | None = None
    source: str

    @model_validator(mode="after")
    def _timings_fit_the_standard(self) -> Self:
        needed = self.standard.timing_names | set(CORE_TIMINGS)
        missing = sorted(needed - set(self.timing))
        unknown = sorted(set(self.timing) - needed - set(OPTIONAL_TIMINGS))
        if missing:
            raise ValueError(f"timing lacks {', '.join(missing)}, which {self.standard.name} needs")
        if unknown:
            raise ValueError(f"timing {', '.join(unknown)} is none of {self.standard.name}; it has {', '.join(sorted(needed))}")
        for name, ticks in self.ticks.items():
            if ticks < (1 if name in ("tBL", "tCL", "tCWL", "tREFI") else 0):
                raise ValueError(f"timing {name} is {self.timing[name]}; "
                                 f"it takes at least {'one tick' if name in ('tBL', 'tCL', 'tCWL', 'tREFI') else 'no time'}")
        return self

    @model_validator(mode="after")
    def _buses_are_held(self) -> Self:
        """A command of several clocks holds its bus by rules; a pair without one would meet there."""
        commands, ticks = self.standard.commands, self.ticks
        held: dict[tuple[str, str], int] = {}
        for rule in self.standard.rules:
            if rule.level == "channel" and rule.window == 1 and not rule.sibling:
                for pair in ((after, before) for after in rule.after for before in rule.before):
                    held[pair] = max(held.get(pair, 0), evaluate(rule.wait, ticks))
        for first, command in commands.items():
            for second, other in commands.items():
                if command.clocks > 1 and other.bus == command.bus and held.get((first, second), 0) < command.clocks:
                    raise ValueError(f"{first} takes {command.clocks} clocks of the {command.bus} bus, but no rule of level "
                                     f"channel keeps {second} away for as long; add one with wait: {command.clocks}")
        return self

    @property
    def clock(self) -> Clock:
        """The clock whose cycles are the ticks of the tables."""
        return Clock.from_hz(self.name, self.tick_hz)

    @property
    def ticks(self) -> dict[str, int]:
        """Every timing in ticks."""
        period_ps = self.clock.period_ps
        return {name: value if isinstance(value, int) else math.ceil(parse_quantity(value, "time (s)") / period_ps)
                for name, value in self.timing.items()}

    @property
    def channel_bytes_per_s(self) -> float:
        """The pin rate of one channel: a burst of each pseudo-channel every tBL ticks."""
        organisation = self.organisation
        return organisation.bytes_per_burst * organisation.pseudo_channels / self.ticks["tBL"] * self.tick_hz


def shipped(folder: str) -> Path:
    """The folder of shipped configs named *folder*."""
    return Path(__file__).resolve().parent.parent / "configs" / folder


@lru_cache(maxsize=64)
def load_memory(name: str) -> Memory:
    """The memory that *name* means: a shipped one, or the path of a YAML file."""
    folders = [shipped("memories")]
    document = config_reader.load_document(find_named(name, folders, "memory"), folders, "memory")
    standard = document.value.get("standard")
    if isinstance(standard, str):
        document.value["standard"] = _load_standard(standard, document)
    return config_reader.from_document(Memory, document)


def _load_standard(name: str, document: Document) -> DramStandard:
    file, line = document.mark(("standard",))
    beside = Path(str(file)).parent / name
    folders = [shipped("standards")]
    try:
        path = beside if beside.is_file() else find_named(name, folders, "standard")
    except ConfigError as error:
        raise ConfigError(f"standard: {error.message}", file=file, line=line, key="standard", value=name,
                          allowed=error.allowed, mend=error.mend) from None
    return config_reader.load(DramStandard, path, folders=folders, kind="standard")
