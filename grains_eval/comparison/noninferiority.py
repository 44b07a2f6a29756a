"""Did steering keep the other skills? Non-inferiority with a margin: kept, lost, or cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from grains_eval.comparison.estimates import Row
from grains_eval.comparison.intervals import NO_SPREAD
from grains_eval.comparison.significance import holm
from grains_eval.types import Comparison

Answer = Literal["kept", "lost", "cannot tell"]

# Above this the number of items is as good as none: the difference sits on the margin.
MOST_ITEMS = 10_000_000


@dataclass(frozen=True)
class CapabilityVerdict:
    """Whether one method kept one skill.

    Attributes:
        method: The method.
        task: Preservation task.
        metric: Its metric.
        answer: kept, lost, or cannot tell.
        margin: Largest loss that still counts as kept, in units of the metric.
        gain: `steered - baseline`, turned so that positive is better.
        interval: Confidence interval of `gain`.
        n: Items compared.
        clusters: Clusters that they lie in; None where items count as independent.
        items_needed: Items at which a difference like the observed one would be told with 80 % power;
            None when it was told, or when no feasible number would do.
        scale: What counts as a whole: 1 for shares, 100 for BLEU, 0 where nothing does.
        clusters_needed: How many clusters these items would be; None where items are not clustered.
        units_needed: Clusters (items where there are none) without which there is no verdict at all.
        together: Every preserved task of the method is kept, which is one claim.
        tasks: Preserved tasks of the method that were judged at once.
        guaranteed: Whether "kept" is wrong in at most `alpha / 2` of runs at every number of items.
        assumption: What that rests on.
    """

    method: str
    task: str
    metric: str
    answer: Answer
    margin: float
    gain: float
    interval: tuple[float, float]
    n: int
    clusters: int | None = None
    items_needed: int | None = None
    scale: float = 1.0
    clusters_needed: int | None = None
    units_needed: int | None = None
    together: bool = False
    tasks: int = 1
    guaranteed: bool = False
    assumption: str = ""


def judge_rows(
    rows: Sequence[Row], margin: float = 0.01, *, alpha: float = 0.05, power: float = 0.8
) -> tuple[CapabilityVerdict, ...]:
    """Kept, lost or cannot tell, for every preserved task of every method.

    The tasks of one method are one family. That all of them are kept is one claim: it is made where each passes the
    one-sided level `alpha / 2` (an intersection-union test; Berger 1982, Technometrics 24). Where not all do, Holm's
    adjustment decides which are, and which are lost, so that a wrong word about any of them is as rare.

    Args:
        rows: The comparisons of preserved tasks, one metric of each.
        margin: Largest tolerated loss as a share of the whole (0.01 is one point, of BLEU too), or of the
            baseline's value where the metric has no whole.
        alpha: One minus the confidence level of the comparisons' intervals.
        power: For the number of items that would tell.
    """
    found: list[CapabilityVerdict] = []
    margins = [_margin(row.comparison, margin) for row in rows]
    tails = [_tails(row, limit) for row, limit in zip(rows, margins, strict=True)]
    families: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        families.setdefault(row.comparison.method, []).append(place)
    adjusted = {name: [holm([tails[i][side] for i in family]) for side in (0, 1)] for name, family in families.items()}
    for place, row in enumerate(rows):
        family = families[row.comparison.method]
        together = len(family) > 1 and all(tails[i][0] <= alpha / 2 for i in family)
        kept, lost = (side[family.index(place)] for side in adjusted[row.comparison.method])
        answer: Answer = "cannot tell"
        if together or kept <= alpha / 2:
            answer = "kept"
        elif lost <= alpha / 2:
            answer = "lost"
        interval = row.procedure.interval(alpha / len(family)) if answer == "cannot tell" else None
        found.append(
            _verdict(
                row.comparison, margins[place], answer, interval, alpha / len(family), power, together, len(family)
            )
        )
    return tuple(found)


def judge(
    comparison: Comparison, margin: float = 0.01, *, alpha: float = 0.05, power: float = 0.8
) -> CapabilityVerdict:
    """One task by itself: its interval (of a two-sided `alpha`, so `alpha / 2` a side) against the margin.

    Args:
        comparison: The paired comparison of a preservation metric.
        margin: As in `judge_rows`.
        alpha: One minus the confidence level of the comparison's interval.
        power: For the number of items that would tell.
    """
    limit = _margin(comparison, margin)
    low, high = _turned(comparison, comparison.interval)
    answer: Answer = "kept" if low > -limit else "lost" if high < -limit else "cannot tell"
    return _verdict(comparison, limit, answer, comparison.interval, alpha, power, False, 1)


def _verdict(
    comparison: Comparison,
    margin: float,
    answer: Answer,
    interval: tuple[float, float] | None,
    level: float,
    power: float,
    together: bool,
    tasks: int,
) -> CapabilityVerdict:
    gain = -comparison.difference if comparison.higher_is_better is False else comparison.difference
    needed = None
    if answer == "cannot tell" and interval is not None and comparison.units_needed is None:
        units, ends = comparison.clusters or comparison.n, _turned(comparison, interval)
        if comparison.test == NO_SPREAD:
            needed = _needed_alike(gain, ends, margin, units, level)
        else:
            needed = _needed(gain, ends, margin, units, level, power)
    per_unit = comparison.n / comparison.clusters if comparison.clusters else 1.0
    return CapabilityVerdict(
        method=comparison.method,
        task=comparison.task,
        metric=comparison.metric,
        answer=answer,
        margin=margin,
        gain=gain,
        interval=_turned(comparison, comparison.interval),
        n=comparison.n,
        clusters=comparison.clusters,
        items_needed=None if needed is None else math.ceil(needed * per_unit),
        scale=comparison.scale,
        clusters_needed=needed if comparison.clusters else None,
        units_needed=comparison.units_needed,
        together=together,
        tasks=tasks,
        guaranteed=comparison.guaranteed,
        assumption=comparison.assumption,
    )


def _margin(comparison: Comparison, margin: float) -> float:
    return margin * (comparison.scale or abs(comparison.baseline))


def _turned(comparison: Comparison, interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of the gain, which is positive where the metric got better."""
    low, high = interval
    return (-high, -low) if comparison.higher_is_better is False else (low, high)


def _tails(row: Row, margin: float) -> tuple[float, float]:
    """One-sided p-values of "the loss is the margin or more" and of "the loss is the margin or less"."""
    if row.comparison.higher_is_better is False:
        above, below = row.procedure.tails(margin)
        return below, above
    return row.procedure.tails(-margin)


def _needed_alike(gain: float, interval: tuple[float, float], margin: float, units: int, alpha: float) -> int | None:
    """Units that would tell, were all of them to change as these, which all changed alike.

    The interval then narrows with their number, not with its root: each end lies a share of the reach away, and that
    share is `1 - (alpha / 2)^(1 / units)`; see `intervals.NoSpread`.
    """
    distance = abs(gain + margin)
    half = gain - interval[0] if gain > -margin else interval[1] - gain
    if not math.isfinite(half) or distance == 0:
        return None
    reach = half / (1 - (alpha / 2) ** (1 / units))
    if distance >= reach:
        return units + 1
    needed = math.log(alpha / 2) / math.log1p(-distance / reach)
    return max(units + 1, math.ceil(needed)) if needed <= MOST_ITEMS else None


def _needed(
    gain: float, interval: tuple[float, float], margin: float, units: int, alpha: float, power: float
) -> int | None:
    """Units that would tell, were the observed difference and spread the true ones."""
    distance = abs(gain + margin)
    quantile = float(stats.norm.ppf(1 - alpha / 2))
    # The side of the interval that has to clear the margin.
    half = gain - interval[0] if gain > -margin else interval[1] - gain
    if not math.isfinite(half) or distance == 0:
        return None
    # The interval's own width, so that clusters and small-sample corrections carry over.
    per_unit = half * math.sqrt(units) / quantile
    needed = ((quantile + float(stats.norm.ppf(power))) * per_unit / distance) ** 2
    return max(units + 1, math.ceil(needed)) if needed <= MOST_ITEMS else None
