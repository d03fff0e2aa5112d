"""The reduction "layer memo": layers that repeat are simulated a few times and the steady one is replayed.

A layer whose steps are those of the layer before it, moved on by one period, begins in the same state but for the rows of DRAM
that it reads and the phase of refresh. So a few periods are simulated; when their first half takes the same time as their second,
the others are replayed behind them. What the program fixes (MACs, bytes, records, SRAM words) is counted exactly; times, stalls and
DRAM commands other than reads and writes are means over the simulated periods, which is the approximation. When the controller lets
posted stores go depends on how many wait; where the short run let them go only at its end, the soonest of all periods is assumed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from ..sim.program import Step, TileProgram
from ..sim.units import PS_PER_S
from .engine import Engine
from .interconnect import Fabric
from .machine import MachineConfig
from .run_counts import Mark, OperatorRun, ProgramRun

#: Periods simulated at first: one to fill the pipelines, two threes that must agree, one that leads over to what follows. A single
#: period is no measure: where tiles of 1 µs are prefetched, the end of a layer of 80 µs is not sharper than 1 %.
_FIRST_PERIODS = 8
#: The halves agree when their times differ by no more than this share.
_AGREEMENT = 0.0025
#: Layers that make one period at most (sliding and global attention in turn, a mixture of experts every other layer …).
_MAX_LAYERS_IN_PERIOD = 12


@dataclass(frozen=True, slots=True)
class Repeat:
    """Steps [first, first + times · period) are *times* periods, each the one before it moved on by *period* steps."""

    first: int
    period: int
    times: int

    @property
    def end(self) -> int:
        """The first step behind the last period."""
        return self.first + self.times * self.period


def run_program(
    machine: MachineConfig, program: TileProgram, *, exact: bool = False, trace: bool = False,
    progress: Callable[[int, int], None] | None = None, fabric: Callable[[], Fabric] | None = None,
) -> ProgramRun:
    """Run *program* to its last retired record; with the reduction where it applies and neither *exact* nor *trace* forbids it.

    *fabric*: makes the meeting place of a device that stands for several (``arch.interconnect``).
    """
    repeat = None if exact or trace else find_repeat(program)
    periods = _FIRST_PERIODS
    while repeat is not None and periods < repeat.times:
        shorter = shortened(program, repeat, periods)
        if shorter is None:
            break
        ends = [repeat.first + (k + 1) * repeat.period - 1 for k in range(periods - 1)]
        engine = Engine(machine, shorter, progress=progress, marks=frozenset(ends), fabric=fabric() if fabric else None,
                        leave_loops=True)
        run = engine.run()
        marks = [engine.marked[end] for end in ends]
        before, middle, last = (mark.at_ps for mark in (marks[0], marks[len(marks) // 2], marks[-1]))
        differ_ps = abs((last - middle) - (middle - before))
        if last - middle > 0 and differ_ps <= _AGREEMENT * (last - middle):
            return lengthened(engine, run, repeat, periods, marks, differ_ps / (last - middle))
        periods *= 2
    return Engine(machine, program, exact=exact, trace=trace, progress=progress, fabric=fabric() if fabric else None,
                  leave_loops=not (exact or trace)).run()


def find_repeat(program: TileProgram) -> Repeat | None:
    """The longest tail of layers that repeats with a period of a few layers; None where there is none."""
    bounds = _layer_bounds(program.steps)
    if bounds is None:
        return None
    layers = len(bounds) - 1
    for together in range(1, min(_MAX_LAYERS_IN_PERIOD, layers // (_FIRST_PERIODS + 1)) + 1):
        kinds = [_kind(program, bounds, layer, together) for layer in range(layers)]
        first = layers - together
        while first > 0 and kinds[first - 1] == kinds[first - 1 + together]:
            first -= 1
        times = (layers - first) // together
        if times > _FIRST_PERIODS:
            start = bounds[first]
            return Repeat(start, bounds[first + together] - start, times)
    return None


def _layer_bounds(steps: Sequence[Step]) -> list[int] | None:
    """The first step of each layer and the step behind the last; None unless layers stand one after the other."""
    numbered = [(index, step.layer) for index, step in enumerate(steps) if step.layer is not None]
    if not numbered or numbered[-1][0] - numbered[0][0] + 1 != len(numbered):
        return None
    starts = [index for k, (index, layer) in enumerate(numbered) if k == 0 or layer != numbered[k - 1][1]]
    return [*starts, numbered[-1][0] + 1]


def _kind(program: TileProgram, bounds: Sequence[int], layer: int, together: int) -> Hashable:
    """What makes one layer like another: its steps, and whom they wait for, counted back from themselves."""
    start, end = bounds[layer], bounds[layer + 1]
    reach = bounds[max(0, layer - together)]             # further back lies what all layers share: it keeps its number

    def told(index: int, step: Step) -> Hashable:
        after = tuple(tuple((index - s, True) if s >= reach else (s, False) for s in writers) for writers in step.after)
        sizes = tuple(program.tensors[t].nbytes for t in step.operands)
        return id(step.segment), step.kind, after, sizes, len(step.produces), len(step.retires)

    return tuple(told(index, program.steps[index]) for index in range(start, end))


def shortened(program: TileProgram, repeat: Repeat, periods: int) -> TileProgram | None:
    """*program* with only its first *periods* periods; None where what follows needs one that is left out."""
    skipped = (repeat.times - periods) * repeat.period
    kept_end = repeat.first + periods * repeat.period
    twin: dict[int, int] = {}
    for index in range(repeat.end - repeat.period, repeat.end):
        step, stand_in = program.steps[index], program.steps[index - skipped]
        for theirs, ours in zip(step.operands, stand_in.operands, strict=True):
            if twin.setdefault(theirs, ours) != ours:
                return None
    left_out = {t for step in program.steps[kept_end:repeat.end] for t in step.operands} - twin.keys()
    left_out -= {t for step in program.steps[:kept_end] for t in step.operands}
    behind = []
    for step in program.steps[repeat.end:]:
        after = tuple(tuple(s - skipped if s >= kept_end else s for s in writers) for writers in step.after)
        if left_out & set(step.operands) or any(s < repeat.first for old, new in zip(step.after, after, strict=True)
                                               for s, was in zip(new, old, strict=True) if s != was):
            return None
        behind.append(replace(
            step, after=after, operands=tuple(twin.get(t, t) for t in step.operands),
            produces=tuple(twin.get(t, t) for t in step.produces), retires=tuple(twin.get(t, t) for t in step.retires)))
    return replace(program, steps=(*program.steps[:kept_end], *behind))


def lengthened(
    engine: Engine, run: ProgramRun, repeat: Repeat, periods: int, marks: Sequence[Mark], halves_differ: float,
) -> ProgramRun:
    """The run of the whole program: the middle one of the simulated periods is replayed as often as periods were left out.

    *marks* stand a period apart; what lies between the first and the last is the steady state.
    """
    times, (before, *_, last), apart = repeat.times - periods, marks, len(marks) - 1
    lasted_ps = last.at_ps - before.at_ps
    late = [(k + 1) * lasted_ps // apart for k in range(times)]
    _end_stores_sooner(run, repeat, marks)
    middle = len(marks) // 2
    base_ps = marks[middle].at_ps
    own_ps = base_ps - marks[middle - 1].at_ps           # what the replayed period itself took; a copy is stretched to the mean
    model = range(repeat.first + middle * repeat.period, repeat.first + (middle + 1) * repeat.period)
    kept = repeat.first + (periods - 1) * repeat.period
    operators = run.operators[:kept]
    for by_ps in late:
        operators += [_moved(run.operators[index], base_ps, last.at_ps + by_ps, lasted_ps, apart * own_ps) for index in model]
    operators += [_moved(operator, last.at_ps, last.at_ps + late[-1], 1, 1) for operator in run.operators[kept:]]
    counted = engine.counts_of(model)
    for name, unit in run.units.items():
        unit.busy_ps += times * (last.units[name].busy_ps - before.units[name].busy_ps) // apart
        for cause in unit.stalled_ps:
            waited = last.units[name].stalled_ps.get(cause, 0) - before.units[name].stalled_ps.get(cause, 0)
            unit.stalled_ps[cause] += times * waited // apart
        unit.records += times * counted.records.get(name, 0)
        unit.macs += times * counted.macs.get(name, 0)
    for (component, action), count in counted.actions.items():
        run.ledger.add(component, action, times * count)
    for hop, nbytes in counted.link_bytes.items():
        run.link_bytes[hop] += times * nbytes
    run.memory.replay(before.memory, last.memory, apart, counted.traffic, times, late[-1])
    reduction = {"name": "layer memo", "periods": repeat.times, "simulated": periods, "steps_in_period": repeat.period,
                 "period_s": lasted_ps / apart / PS_PER_S, "halves_differ_pct": round(100 * halves_differ, 3),
                 "premise": f"two halves of the simulated periods took the same time within {_AGREEMENT:.2%}"}
    return replace(
        run, end_ps=run.end_ps + late[-1], operators=operators,
        sram_read_bytes=run.sram_read_bytes + times * counted.sram_read_bytes,
        sram_write_bytes=run.sram_write_bytes + times * counted.sram_write_bytes, completion_order=[],
        reductions=(*run.reductions, reduction))


def _end_stores_sooner(run: ProgramRun, repeat: Repeat, marks: Sequence[Mark]) -> None:
    """Take the soonest end of all periods for stores that went only behind the last mark, when there was nothing left to read."""
    for step in range(repeat.period):
        same = [run.operators[repeat.first + k * repeat.period + step] for k in range(len(marks))]
        soonest_ps = min(operator.end_ps - mark.at_ps for operator, mark in zip(same, marks, strict=True))
        for operator, mark in zip(same, marks, strict=True):
            if operator.end_ps > marks[-1].at_ps:
                operator.end_ps = max(operator.results_ps, min(operator.end_ps, mark.at_ps + soonest_ps))


def _moved(operator: OperatorRun, from_ps: int, to_ps: int, stretched: int, by: int) -> OperatorRun:
    """*operator* with its times counted from *to_ps* instead of *from_ps*, and its distances from there × *stretched* / *by*."""
    moved = copy.copy(operator)
    moved.start_ps, moved.results_ps, moved.end_ps = (
        to_ps + (at_ps - from_ps) * stretched // by for at_ps in (operator.start_ps, operator.results_ps, operator.end_ps))
    return moved
