"""The rows and summaries that every validation suite gives, and their strict JSON.

A suite compares figures that others measured or computed (*expected*) with ours (*got*). A row that cannot be predicted
in principle carries the reason in `skipped` and stays in the count; it is never dropped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

SCHEMA = "tilesim.validation/1"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure compared. Build it with `compare` or `skip`, which keep the fields consistent."""

    case: str
    group: str
    expected: float | None
    got: float | None
    error_pct: float | None                 # signed; None when skipped, or when expected is 0
    within: bool
    skipped: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)    # suite-specific columns, written beside the fixed ones


def compare(
    case: str, group: str, expected: float, got: float, tolerance_pct: float, *,
    low: float | None = None, high: float | None = None, **more: object,
) -> Row:
    """Compare *got* with *expected*.

    Inside the measured spread [low, high] the error is 0, outside it is measured from the nearer edge. What is no number is skipped
    with that reason, so that one row cannot spoil the mean of its group.
    """
    if not math.isfinite(expected):
        return skip(case, group, None, "the measured figure is no number", **more)
    if not math.isfinite(got):
        return skip(case, group, expected, "the row's figures make no prediction", **more)
    if expected == 0:
        return Row(case, group, expected, got, None, got == 0, None, more)
    nearest = expected if low is None or high is None else min(max(got, low), high)
    error_pct = 100.0 * (got - nearest) / expected
    return Row(case, group, expected, got, error_pct, abs(error_pct) <= tolerance_pct, None, more)


def skip(case: str, group: str, expected: float | None, reason: str, **more: object) -> Row:
    """A row that is counted but not scored, with the *reason* why it cannot be predicted."""
    return Row(case, group, expected, None, None, False, reason, more)


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """The error of one group; means are None when nothing in it was scored."""

    group: str
    rows: int                               # all rows, the skipped ones included
    skipped: int
    mape_pct: float | None
    median_ape_pct: float | None
    max_ape_pct: float | None
    share_within: float | None
    tolerance_pct: float | None             # None: reported, not judged
    more: Mapping[str, object] = field(default_factory=dict)


def summarise(
    rows: Iterable[Row], tolerances_pct: Mapping[str, float | None],
    more: Mapping[str, Mapping[str, object]] | None = None,
) -> list[GroupSummary]:
    """One summary for each group, in order of first appearance; a group without a tolerance is only reported."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return [
        summarise_group(group, members, tolerances_pct.get(group), (more or {}).get(group, {}))
        for group, members in groups.items()
    ]


def summarise_group(
    group: str, rows: list[Row], tolerance_pct: float | None, more: Mapping[str, object] | None = None,
) -> GroupSummary:
    """The error of *rows* as one group."""
    scored = [row for row in rows if row.skipped is None]
    errors_pct = [abs(row.error_pct) for row in scored if row.error_pct is not None]
    return GroupSummary(
        group=group,
        rows=len(rows),
        skipped=len(rows) - len(scored),
        mape_pct=fmean(errors_pct) if errors_pct else None,
        median_ape_pct=median(errors_pct) if errors_pct else None,
        max_ape_pct=max(errors_pct) if errors_pct else None,
        share_within=fmean(row.within for row in scored) if scored else None,
        tolerance_pct=tolerance_pct,
        more=more or {},
    )


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What a suite found: the value that JSON, tables and plots are functions of."""

    suite: str
    rows: tuple[Row, ...]
    summary: tuple[GroupSummary, ...]

    def to_json(self) -> str:
        """Strict JSON in the contract's schema: no NaN, no infinity, the same bytes for the same result."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def to_dict(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "rows": [_plain(row) for row in self.rows],
            "summary": [_plain(group) for group in self.summary],
        }


def _plain(value: Row | GroupSummary) -> dict[str, object]:
    """The fixed fields in order, then the suite's own; a number that JSON cannot carry becomes null."""
    plain = {name: getattr(value, name) for name in value.__slots__ if name != "more"}
    plain |= value.more
    return {name: None if isinstance(item, float) and not math.isfinite(item) else item for name, item in plain.items()}
