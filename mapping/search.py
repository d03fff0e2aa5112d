"""The mapper's search for matrix products: the best plan of the map space.

Three sieves, each finer and dearer than the last: a bound (no plan is faster than its bytes and its MACs), the closed-form estimate
of what the bound leaves and of plans around the best of that, and a timeline of each finalist's records. The plans of the fixed
rules are always among the finalists, and none that the timeline has slower than the best of them is chosen. Deterministic:
candidates come in a fixed order, and of equal ones the first wins. Choices are cached by task and site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..sim.errors import ConfigError
from .constraints import GemmConstraints
from .gemm_estimate import Estimate, Floats, bound_seconds, estimate, uneven
from .gemm_heuristic import check_format, heuristic_plan, rule_plans
from .gemm_space import GemmPlan, GemmTask, Plans, candidates, every_plan, fits, neighbours, one_plan, structures
from .gemm_timeline import judge, records_at_most
from .kept import Kept
from .target import Objective, Site

#: Plans whose times differ by less are equal; of those the one with the least traffic and the fewest records wins.
EQUAL = 0.003
#: The same in a model, where traffic that an operator could do without delays the loads of its neighbours, and where one fixed
#: rule, that of the fewest bytes, is the measure instead of the best for each shape.
EQUAL_IN_A_MODEL = 0.01
#: How far the estimate may be off the timeline: finalists are those whose estimate is within this of the best. On the shipped
#: machines' products it is off by less (tests/mapping/test_timeline.py).
_NEAR = 1.12
#: Estimates nearer to each other than that tell nothing.
_ALIKE = 0.02
#: How far above the best estimate a bound may be before nothing more is estimated.
_TOO_NEAR = 1.05
#: Finalists of a product that stands alone, and of each in a model, which has many; as many again with tiles about the best ones'.
_FINALISTS, _FINALISTS_IN_A_MODEL = 200, 12
#: Records of one round of finalists: 20 and 5 milliseconds. The best ones are judged whatever their records.
_RECORDS, _RECORDS_IN_A_MODEL, _AT_LEAST = 20_000, 5_000, 3
#: Records of a space that is judged whole.
_SMALL = 450_000
#: ASSUMED: where times are equal, twice the records (descriptors, turns on a unit) weigh as much as 15 % more DRAM traffic. Any
#: weight below that of a second pass over an operand keeps the law that decoding loads each weight once.
_RECORDS_WEIGH = 0.2
#: ASSUMED: an operand whose tiles are no whole number of stripes over the channels weighs as much as 5 % more traffic.
_UNEVEN_WEIGHS = 0.05
#: Structures around whose best plans the search looks closer.
_STARTS, _STARTS_IN_A_MODEL = 4, 2
_CHUNK = 2048
#: Costs nearer to each other than that are the same: of plans that differ in name alone.
_TWINS = 1e-4
_MOST_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan that was chosen, what it is predicted to cost, and the best plan of another structure with its costs.

    ``considered`` plans fit, ``evaluated`` passed the bound, ``judged`` were timed by their records.
    """

    plan: GemmPlan
    costs: Mapping[str, float]
    runner_up: GemmPlan | None
    runner_up_costs: Mapping[str, float] | None
    considered: int
    evaluated: int
    judged: int


_kept: Kept[Choice] = Kept(_MOST_KEPT)


def choose_gemm(task: GemmTask, site: Site, constraints: GemmConstraints) -> Choice:
    """The best plan for *task* on *site* that keeps to *constraints*; a ConfigError when none fits."""
    key = (task, repr(site.target), site.room, site.objective, site.contended, site.rough, constraints)
    return _kept.get(key, lambda: _choose(task, site, constraints))


def _choose(task: GemmTask, site: Site, constraints: GemmConstraints) -> Choice:
    check_format(task.a, site)
    fixed = constraints.fixed(task.m, task.k, task.n)
    if fixed.get("unit") == "lanes" and not site.target.lanes.multiplies:
        raise ConfigError(f"unit is lanes, but the lanes of {site.target.machine}, {site.target.vpu!r}, do not multiply",
                          key="unit", value="lanes", allowed=("arrays",))
    if constraints.search == "heuristic":
        rule = one_plan(heuristic_plan(task, site), site)
        return _won(rule, timed(rule, task, site), 0, task, site, 1, 1)
    plans = every_plan(task, site, fixed) if constraints.search == "exhaustive" else candidates(task, site, fixed)
    rules = fixed_rules(task, site, fixed, not len(plans))
    plans = Plans.joined([rules, plans])
    if not len(plans):
        raise ConfigError(f"no mapping of [{task.m}, {task.k}]·[{task.k}, {task.n}] keeps to the constraints and fits into "
                          f"{site.target.sram!r}", key="gemm", value=", ".join(f"{k}={v}" for k, v in fixed.items()),
                          mend="leave one of them to the search")
    if constraints.search == "exhaustive":
        return _won(plans, timed(plans, task, site), len(rules), task, site, len(plans), len(plans))
    kept, costs = _evaluated(plans, task, site)
    around = _around(kept, costs, _starts(kept, costs, task, site), task, site, fixed)
    kept, costs = Plans.joined([kept, around]), Estimate.joined([costs, estimate(around, task, site)])
    if site.rough:
        return _won(kept, costs, 0, task, site, len(plans), len(kept))
    finalists = Plans.joined([rules, *_others_choices(task, site, constraints), _finalists(kept, costs, task, site)])
    times = timed(finalists, task, site)
    closer = _around(finalists, times, _starts(finalists, times, task, site), task, site, fixed)
    closer = _within(closer, _by_estimate(closer, estimate(closer, task, site), task, site), task, site)
    finalists, times = Plans.joined([finalists, closer]), Estimate.joined([times, timed(closer, task, site)])
    return _won(finalists, times, min(1, len(rules)) if site.contended else len(rules), task, site, len(plans), len(kept))


def fixed_rules(task: GemmTask, site: Site, given: Mapping[str, int | str], last_resort: bool) -> Plans:
    """The plans of the fixed rules that fit, unless fields are given; *last_resort*: the first rule's whether it fits or not."""
    rules = Plans.joined([one_plan(plan, site) for plan in rule_plans(task, site)])
    if given:
        return rules.take(np.arange(0))
    fitting = rules.take(fits(rules, task, site))
    return rules.take(np.arange(1)) if last_resort and not len(fitting) else fitting


def _others_choices(task: GemmTask, site: Site, constraints: GemmConstraints) -> list[Plans]:
    """What the objectives before this one choose: so that no other saves more energy than the search for the least of it."""
    before: dict[Objective, tuple[Objective, ...]] = {"latency": (), "energy": ("latency",), "edp": ("latency", "energy")}
    return [one_plan(choose_gemm(task, replace(site, objective=objective), constraints).plan, site)
            for objective in before[site.objective]]


def timed(plans: Plans, task: GemmTask, site: Site) -> Estimate:
    """The costs of *plans*, their times by the timeline."""
    return estimate(plans, task, site).timed(judge(plans, task, site), site)


def _won(plans: Plans, costs: Estimate, rules: int, task: GemmTask, site: Site, considered: int, evaluated: int) -> Choice:
    """The choice among judged *plans*, of which the first *rules* are those of fixed rules."""
    scores, weights = costs.score(site), _weight(plans, costs, task, site)
    most = min(scores.min() * (1 + _equal(site)), scores[:rules].min(initial=np.inf))
    best = _lightest(np.flatnonzero(scores <= most), weights)
    if site.contended and rules and scores[0] <= most and costs.dram_bytes[0] <= costs.dram_bytes[best] * (1 + EQUAL):
        best = 0                                       # nothing is gained by leaving the rule
    second = _runner_up(plans, scores, weights, best, site)
    return Choice(plans.plan(best, site), costs.at(best), None if second is None else plans.plan(second, site),
                  None if second is None else costs.at(second), considered, evaluated, len(plans))


def _equal(site: Site) -> float:
    return EQUAL_IN_A_MODEL if site.contended else EQUAL


def _evaluated(plans: Plans, task: GemmTask, site: Site) -> tuple[Plans, Estimate]:
    """The plans that the bound does not exclude, with their costs: lowest bounds first, until a bound is above the best."""
    if site.objective != "latency":
        return plans, estimate(plans, task, site)
    bounds = bound_seconds(plans, task, site)
    order = np.argsort(bounds, kind="stable")
    parts: list[Estimate] = []
    done, best = 0, np.inf
    while done < len(order) and bounds[order[done]] <= best * _TOO_NEAR:          # the best is only an estimate
        parts.append(estimate(plans.take(order[done:done + _CHUNK]), task, site))
        best = min(best, float(parts[-1].score(site).min()))
        done += _CHUNK
    return plans.take(order[:done]), Estimate.joined(parts)


def _by_estimate(plans: Plans, costs: Estimate, task: GemmTask, site: Site) -> npt.NDArray[np.int64]:
    """The order of *plans*: the best first, of those that the estimate cannot tell apart the one that moves the least."""
    scores = costs.score(site)
    with np.errstate(invalid="ignore"):                                # where no plan can run, the lowering says so
        steps = np.floor(np.log(scores / scores.min()) / _ALIKE) if len(scores) else scores
    return np.lexsort((_weight(plans, costs, task, site), steps))


def _starts(plans: Plans, costs: Estimate, task: GemmTask, site: Site) -> npt.NDArray[np.int64]:
    """The best plans of the structures whose best is near the best of all."""
    scores, order = costs.score(site), _by_estimate(plans, costs, task, site)
    order = order[scores[order] <= scores.min() * _NEAR]
    _, first = np.unique(structures(plans)[order], return_index=True)
    return np.asarray(order[np.sort(first)][:_STARTS_IN_A_MODEL if site.contended else _STARTS], dtype=np.int64)


def _around(
    plans: Plans, costs: Estimate, starts: npt.NDArray[np.int64], task: GemmTask, site: Site, fixed: Mapping[str, int | str],
) -> Plans:
    """Plans with tile sizes about those of *starts*; none where the bound says that nothing is to be gained."""
    if site.objective == "latency" and costs.score(site).min() <= bound_seconds(plans, task, site).min() * (1 + EQUAL):
        return plans.take(np.arange(0))
    return Plans.joined([neighbours(plans.take(starts[at:at + 1]), task, site, fixed) for at in range(len(starts))])


def _finalists(plans: Plans, costs: Estimate, task: GemmTask, site: Site) -> Plans:
    """The plans to be judged: the best of each structure, then the best of all, as far as there is time for their records."""
    scores, order = costs.score(site), _by_estimate(plans, costs, task, site)
    if len(plans) <= _SMALL and not site.contended and int(records_at_most(plans, task, site).sum()) <= _SMALL:
        return plans.take(order)                                       # a small space: no need to guess
    order = order[scores[order] <= scores.min() * _NEAR]
    _, first = np.unique(structures(plans)[order], return_index=True)
    return _within(plans, np.concatenate((order[np.sort(first)], np.delete(order, first))), task, site)


def _within(plans: Plans, order: npt.NDArray[np.int64], task: GemmTask, site: Site) -> Plans:
    """The first of *order* whose records there is time for."""
    order = order[:_FINALISTS_IN_A_MODEL if site.contended else _FINALISTS]
    records = np.cumsum(records_at_most(plans.take(order), task, site) * (2 if site.contended else 1))
    most = _RECORDS_IN_A_MODEL if site.contended else _RECORDS
    return plans.take(order[:max(_AT_LEAST, int(np.searchsorted(records, most, side="right")))])


def _weight(plans: Plans, costs: Estimate, task: GemmTask, site: Site) -> Floats:
    """What decides between plans of equal time: traffic, records, and loads that leave some channels out."""
    return np.asarray(_UNEVEN_WEIGHS * uneven(plans, task, site.target.rates.stripe_bytes) + np.log(np.maximum(costs.dram_bytes, 1))
                      + _RECORDS_WEIGH * np.log(np.maximum(costs.records, 1)))


def _lightest(among: npt.NDArray[np.int64], weights: Floats) -> int:
    """Of the plans *among*, the one with the least traffic and the fewest records."""
    return int(among[np.argmin(weights[among])])


def _runner_up(plans: Plans, scores: Floats, weights: Floats, best: int, site: Site) -> int | None:
    """The best plan of another structure than plan *best* (unit, loop order, what is held or stationary, split of k), its twins of
    the very same costs left out."""
    codes = structures(plans)
    with np.errstate(invalid="ignore"):
        twins = (np.abs(scores / scores[best] - 1) < _TWINS) & (np.abs(weights - weights[best]) < _TWINS)
    others = np.flatnonzero((codes != codes[best]) & ~twins & np.isfinite(scores))
    return _lightest(others[scores[others] <= scores[others].min() * (1 + _equal(site))], weights) if len(others) else None
