"""Did steering keep the other skills? Non-inferiority with a margin: kept, lost, or cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import stats

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
        items_needed: Items at which a difference like the observed one would be told with 80 % power;
            None when it was told, or when no feasible number would do.
        scale: What counts as a whole: 1 for shares, 100 for BLEU, 0 where nothing does.
    """

    method: str
    task: str
    metric: str
    answer: Answer
    margin: float
    gain: float
    interval: tuple[float, float]
    n: int
    items_needed: int | None = None
    scale: float = 1.0


def judge(
    comparison: Comparison, margin: float = 0.01, *, alpha: float = 0.05, power: float = 0.8
) -> CapabilityVerdict:
    """Compare the interval with the margin (the interval of a two-sided `alpha`, so `alpha / 2` a side).

    Args:
        comparison: The paired comparison of a preservation metric.
        margin: Largest tolerated loss as a share of the whole (0.01 is one point, of BLEU too), or of the
            baseline's value where the metric has no whole.
        alpha: One minus the confidence level of the comparison's interval.
        power: For the number of items that would tell.
    """
    margin *= comparison.scale or abs(comparison.baseline)
    sign = -1.0 if comparison.higher_is_better is False else 1.0
    gain = sign * comparison.difference
    low, high = sorted((sign * comparison.interval[0], sign * comparison.interval[1]))
    answer: Answer = "cannot tell"
    if low > -margin:
        answer = "kept"
    elif high < -margin:
        answer = "lost"
    needed = None
    if answer == "cannot tell":
        needed = _needed(gain, (low, high), margin, comparison.n, alpha, power)
    return CapabilityVerdict(
        method=comparison.method,
        task=comparison.task,
        metric=comparison.metric,
        answer=answer,
        margin=margin,
        gain=gain,
        interval=(low, high),
        n=comparison.n,
        items_needed=needed,
        scale=comparison.scale,
    )


def _needed(
    gain: float, interval: tuple[float, float], margin: float, n: int, alpha: float, power: float
) -> int | None:
    """Items that would tell, were the observed difference and spread the true ones."""
    distance = abs(gain + margin)
    quantile = float(stats.norm.ppf(1 - alpha / 2))
    half = (interval[1] - interval[0]) / 2
    if math.isnan(half) or distance == 0:
        return None
    # The interval's own width, so that clusters and small-sample corrections carry over.
    per_item = half * math.sqrt(n) / quantile
    needed = ((quantile + float(stats.norm.ppf(power))) * per_item / distance) ** 2
    return max(n + 1, math.ceil(needed)) if needed <= MOST_ITEMS else None
