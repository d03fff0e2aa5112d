"""The mapper's search for attention: the best tile of the map space by the sieves of ``search``.

The closed-form estimate ranks what fits, the best and those about them are timed record by record, the fixed rule's tile among
them: none that the timeline has slower is chosen. Deterministic; choices are cached by task and site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..sim.errors import ConfigError
from .attention_estimate import AttentionEstimate, estimate
from .attention_space import AttentionTask, candidates, every_tile, given_fits, neighbours
from .attention_tiles import AttentionTile, tile_fits
from .attention_timeline import judge
from .constraints import AttentionConstraints
from .gemm_estimate import Floats
from .kept import Kept
from .search import EQUAL, EQUAL_IN_A_MODEL
from .target import Site

#: Tiles that are timed, and about how many of the best of them others are: of attention that stands alone, and in a model.
_FINALISTS, _FINALISTS_IN_A_MODEL = 40, 6
_STARTS, _STARTS_IN_A_MODEL = 3, 1
#: Spaces of no more tiles are timed whole.
_SMALL = 150
#: Tiles whose estimates are further above the best are not timed.
_NEAR = 1.3
#: Estimates nearer to each other than that tell nothing.
_ALIKE = 0.02
#: ASSUMED, as for matrix products: where times are equal, twice the records weigh as much as 15 % more DRAM traffic.
_RECORDS_WEIGH = 0.2
#: Costs nearer to each other than that are the same.
_TWINS = 1e-4
_MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The tile that was chosen, what it is predicted to cost, and the best other one with its costs.

    ``considered`` tiles fit and were estimated, ``judged`` were timed by their records.
    """

    tile: AttentionTile
    costs: Mapping[str, float]
    runner_up: AttentionTile | None
    runner_up_costs: Mapping[str, float] | None
    considered: int
    judged: int


_kept: Kept[AttentionChoice] = Kept(_MOST_KEPT)


def choose_attention(task: AttentionTask, rule: AttentionTile, site: Site, constraints: AttentionConstraints) -> AttentionChoice:
    """The best tile for *task* on *site* that keeps to *constraints*; a ConfigError when none fits. *rule*: the fixed rule's."""
    key = (task, rule, repr(site.target), site.room, site.objective, site.contended, constraints)
    return _kept.get(key, lambda: _choose(task, rule, site, constraints))


def given_tile(task: AttentionTask, rule: AttentionTile, site: Site, constraints: AttentionConstraints) -> AttentionTile:
    """The rule's tile but for the fields that *constraints* give; a ConfigError when it does not fit."""
    given = constraints.fixed()
    if not given:
        return rule
    unit = {"arrays": site.target.mxu, "lanes": site.target.vpu}.get(str(given.pop("unit", "")), rule.unit)
    tile = replace(rule, unit=unit, **{name: int(value) for name, value in given.items()})
    if unit == site.target.vpu:
        tile = replace(tile, ways=1)
    if tile != rule and not tile_fits(tile, task.heads, task.q, task.kv, site, tile.ways):
        _refuse(task, site, constraints)
    return tile


def _choose(task: AttentionTask, rule: AttentionTile, site: Site, constraints: AttentionConstraints) -> AttentionChoice:
    given = constraints.fixed()
    # One new token a sequence in a model: all tiles move the same bytes, the memory binds, and what they differ in, filling and
    # draining, the neighbours hide. Simulated models differed by 0.2 % either way, tiny ones by up to 10 %, which no timeline saw.
    keeps_rule = site.contended and task.q_tokens == 1 and constraints == AttentionConstraints()
    if constraints.search == "heuristic" or keeps_rule:
        tile = given_tile(task, rule, site, constraints)
        return _won([tile], timed([tile], task, site), False, site, 1)
    has_rule = given_fits(given, rule, site)
    rules = [rule] if has_rule else []
    if constraints.search == "exhaustive":
        tiles = _distinct([*rules, *every_tile(task, site, given)])
        return _won(_some(tiles, task, site, constraints), timed(tiles, task, site), has_rule, site, len(tiles))
    tiles = _some(_distinct([*rules, *candidates(task, site, given)]), task, site, constraints)
    costs = estimate(tiles, task, site)
    if len(tiles) <= _SMALL and not site.contended and _is_small(costs):
        finalists = tiles
    else:
        order = _by_estimate(costs, site)[:_FINALISTS_IN_A_MODEL if site.contended else _FINALISTS]
        finalists = _distinct([*rules, *(tiles[at] for at in order)])
    times, considered = timed(finalists, task, site), len(tiles)
    for at in np.argsort(times.score(site), kind="stable")[:_STARTS_IN_A_MODEL if site.contended else _STARTS]:
        closer = [tile for tile in neighbours(finalists[at], task, site, given) if tile not in finalists]
        if closer:
            considered += len(closer)
            order = _by_estimate(estimate(closer, task, site), site)[:_FINALISTS_IN_A_MODEL if site.contended else _FINALISTS]
            closer = [closer[i] for i in order]
            finalists, times = finalists + closer, AttentionEstimate.joined([times, timed(closer, task, site)])
    return _won(finalists, times, has_rule, site, considered)


#: Records of a space that is timed whole, as for matrix products.
_SMALL_RECORDS = 450_000


def _is_small(costs: AttentionEstimate) -> bool:
    return bool(costs.records.sum() <= _SMALL_RECORDS)


def _some(tiles: list[AttentionTile], task: AttentionTask, site: Site, constraints: AttentionConstraints) -> list[AttentionTile]:
    if not tiles:
        _refuse(task, site, constraints)
    return tiles


def _refuse(task: AttentionTask, site: Site, constraints: AttentionConstraints) -> None:
    given = {name: value for name, value in constraints.model_dump().items() if name != "search" and value is not None}
    h = task.heads
    raise ConfigError(f"no tile of attention of {h.q_tokens} × {h.kv_tokens} tokens in {h.kv_heads} KV heads keeps to the "
                      f"constraints and fits into {site.target.sram!r}", key="attention",
                      value=", ".join(f"{name}={value}" for name, value in given.items()), mend="leave one of them to the search")


def timed(tiles: Sequence[AttentionTile], task: AttentionTask, site: Site) -> AttentionEstimate:
    """The costs of *tiles*, their times by the timeline."""
    return estimate(tiles, task, site).timed(judge(tiles, task, site), site)


def _distinct(tiles: Sequence[AttentionTile]) -> list[AttentionTile]:
    return list(dict.fromkeys(tiles))


def _weight(costs: AttentionEstimate) -> Floats:
    """What decides between tiles of equal time: traffic and records."""
    return np.asarray(np.log(np.maximum(costs.dram_bytes, 1)) + _RECORDS_WEIGH * np.log(np.maximum(costs.records, 1)))


def _by_estimate(costs: AttentionEstimate, site: Site) -> list[int]:
    """The tiles worth timing, the best first; of those that the estimate cannot tell apart the lightest."""
    scores = costs.score(site)
    order = np.lexsort((_weight(costs), np.floor(np.log(scores / scores.min()) / _ALIKE)))
    return [int(at) for at in order if scores[at] <= scores.min() * _NEAR]


def _won(tiles: Sequence[AttentionTile], costs: AttentionEstimate, has_rule: bool, site: Site, considered: int) -> AttentionChoice:
    """The choice among timed *tiles*, of which the first is the rule's if there is one."""
    scores, weights = costs.score(site), _weight(costs)
    equal = EQUAL_IN_A_MODEL if site.contended else EQUAL
    most = min(scores.min() * (1 + equal), scores[0] if has_rule else np.inf)
    among = np.flatnonzero(scores <= most)
    best = int(among[np.argmin(weights[among])])
    if site.contended and has_rule and scores[0] <= scores.min() * (1 + equal) and costs.dram_bytes[0] <= costs.dram_bytes[best]:
        best = 0                                       # nothing is gained by leaving the rule
    # More transfers wait for the memory more often, and the timeline knows its mean latency alone: less than that is no gain.
    more = costs.records[best] > costs.records[0]
    if site.objective == "latency" and has_rule and more and costs.seconds[0] - costs.seconds[best] < site.target.rates.latency_s:
        best = 0
    with np.errstate(invalid="ignore"):                # where no tile can run, the lowering says so
        twins = (np.abs(scores - scores[best]) < _TWINS * scores[best]) & (np.abs(weights - weights[best]) < _TWINS)
    others = np.flatnonzero(np.isfinite(scores) & ~twins)
    second = int(others[np.argmin(scores[others])]) if len(others) else None
    return AttentionChoice(tiles[best], costs.at(best), None if second is None else tiles[second],
                           None if second is None else costs.at(second), considered, len(tiles))
