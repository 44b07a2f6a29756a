"""Paired inference on the same items under two runs.

Everything works on per-item differences `d_i = steered_i - baseline_i`, so what both runs share cancels
(Miller 2024, arXiv 2411.00640, section 4.2). `docs/statistics.md` says which test is used when, and why.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from grains_eval.report.clusters import cluster_jackknife, cluster_sums
from grains_eval.report.elementary import (
    Array,
    mcnemar,
    sign_flip,
    standard_error,
    t_p_value,
    tango_interval,
)

# Below this many moved units a t statistic of tied scores is not t distributed; the sign flip stays exact.
FEW_MOVED = 30


@dataclass(frozen=True)
class Estimate:
    """A paired difference with its uncertainty.

    Attributes:
        difference: Weighted mean of `d_i`, in units of the metric.
        standard_error: Standard error of `difference`; NaN with fewer than two units.
        degrees_of_freedom: Of the t distribution that belongs to it.
        interval: Two-sided confidence interval of `difference`.
        p: Two-sided p-value of the test named in `test`.
        test: Which test gave `p`.
        t_p: p-value of the (clustered) paired t test, for comparison.
        permutation_p: p-value of the sign-flip test, for comparison.
        contributions: `[U]` what each independent unit (item or cluster) adds to `difference`.
        clusters: Number of clusters, None when items are the units.
        one_item: What one more moved item could add to `difference`.
    """

    difference: float
    standard_error: float
    degrees_of_freedom: float
    interval: tuple[float, float]
    p: float
    test: str
    t_p: float
    permutation_p: float
    contributions: Array
    clusters: int | None = None
    one_item: float = math.nan

    def widest_error(self, alpha: float) -> float:
        """The standard error that `interval` stands for, never below `standard_error`: larger where it was widened."""
        quantile = float(stats.t.ppf(1 - alpha / 2, self.degrees_of_freedom))
        return max(self.standard_error, (self.interval[1] - self.interval[0]) / 2 / quantile)


def paired(
    baseline: ArrayLike,
    steered: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> Estimate:
    """Compare two runs on the same items, by the test that fits the data.

    0/1 scores of independent items: exact McNemar with Tango's score interval. Otherwise a paired t, over
    clusters where they are given; where fewer than 30 units moved, `p` is the sign-flip test's.

    Args:
        baseline: `[n]` scores of the baseline run.
        steered: `[n]` scores of the other run, same items in the same order.
        clusters: `[n]` labels; items of one label are not independent.
        weights: `[n]` positive item weights, any scale; only together with `clusters`.
        alpha: One minus the confidence level.
        seed: Seed of the random sign flips.
    """
    first, second = np.asarray(baseline, dtype=float), np.asarray(steered, dtype=float)
    differences = second - first
    if clusters is not None:
        return _clustered(differences, clusters, weights, alpha, seed, _spread(first, second))
    if weights is not None:
        raise ValueError("weights need clusters; independent items weigh the same")
    scores = np.concatenate([first, second])
    if bool(np.all((scores == 0) | (scores == 1))):
        return _binary(differences, alpha, seed)
    return _continuous(differences, alpha, seed, _spread(first, second))


def _binary(differences: Array, alpha: float, seed: int) -> Estimate:
    helped, harmed = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    n = differences.size
    error = standard_error(differences)
    return Estimate(
        difference=float(differences.mean()),
        standard_error=error,
        degrees_of_freedom=n - 1,
        interval=tango_interval(helped, harmed, n, alpha),
        p=mcnemar(helped, harmed),
        test="exact McNemar",
        t_p=t_p_value(float(differences.mean()), error, n - 1),
        # Flipping the signs of +1 and -1 is the binomial test of McNemar: same number, no draws needed.
        permutation_p=mcnemar(helped, harmed),
        contributions=differences / n,
        one_item=1 / n,
    )


def _continuous(differences: Array, alpha: float, seed: int, spread: float) -> Estimate:
    n = differences.size
    error = standard_error(differences)
    estimate = Estimate(
        difference=float(differences.mean()),
        standard_error=error,
        degrees_of_freedom=n - 1,
        interval=(math.nan, math.nan),
        p=math.nan,
        test="paired t",
        t_p=t_p_value(float(differences.mean()), error, n - 1),
        permutation_p=sign_flip(differences, seed=seed),
        contributions=differences / n,
        one_item=spread / n,
    )
    return _finish(estimate, alpha)


def _clustered(
    differences: Array,
    clusters: Sequence[Hashable],
    weights: ArrayLike | None,
    alpha: float,
    seed: int,
    spread: float,
) -> Estimate:
    sums, shares, squares = cluster_sums(differences, clusters, weights)
    difference = float(sums.sum())
    error, freedom = cluster_jackknife(sums, shares, squares)
    estimate = Estimate(
        difference=difference,
        standard_error=error,
        degrees_of_freedom=freedom,
        interval=(math.nan, math.nan),
        p=math.nan,
        test="clustered t",
        t_p=t_p_value(difference, error, freedom),
        permutation_p=sign_flip(sums, seed=seed),
        contributions=sums,
        clusters=sums.size,
        # The imagined unit of a cluster test is one moved item in a cluster of average size.
        one_item=spread / differences.size,
    )
    return _finish(estimate, alpha)


def _finish(estimate: Estimate, alpha: float) -> Estimate:
    """Choose the p-value and the interval: t where enough units moved, cautious where few did."""
    units = estimate.contributions
    moved = int(np.count_nonzero(units))
    few = moved < FEW_MOVED or estimate.standard_error == 0
    half = stats.t.ppf(1 - alpha / 2, estimate.degrees_of_freedom) * estimate.standard_error
    if units.size > 1 and ((few and moved < units.size) or estimate.standard_error == 0):
        half = max(half, cautious_half_width(units, alpha, estimate.one_item))
    kind = "clustered sign flip" if estimate.clusters is not None else "sign flip"
    return replace(
        estimate,
        interval=(float(estimate.difference - half), float(estimate.difference + half)),
        p=estimate.permutation_p if few else estimate.t_p,
        test=kind if few else estimate.test,
    )


def cautious_half_width(contributions: Array, alpha: float, one_item: float) -> float:
    """Half width after two imagined units, one helped and one harmed by a typical amount.

    The idea of Bonett and Price (2012) for paired proportions: without it a sample in which nothing, or
    everything, moved by the same amount would claim to know the difference exactly.

    Args:
        contributions: `[U]` what each unit adds to the difference.
        alpha: One minus the confidence level.
        one_item: The typical amount where no unit moved.
    """
    values = contributions * contributions.size
    moved = values[values != 0]
    typical = math.sqrt(float(np.mean(moved**2))) if moved.size else one_item * values.size
    extended = np.concatenate([values, [typical, -typical]])
    return float(stats.t.ppf(1 - alpha / 2, extended.size - 1) * standard_error(extended))


def _spread(first: Array, second: Array) -> float:
    """How far one item can plausibly move: the whole range of a share, else the range of the scores."""
    scores = np.concatenate([first, second])
    low, high = float(scores.min()), float(scores.max())
    return 1.0 if low >= 0 and high <= 1 else high - low


def combine(estimates: Sequence[Estimate], weights: Sequence[float], *, alpha: float, seed: int) -> Estimate:
    """Weighted mean of independent estimates: an unweighted group of subtasks, each a stratum.

    Degrees of freedom by Welch and Satterthwaite.
    """
    share = np.asarray(weights, dtype=float) / float(np.sum(weights))
    errors = np.array([estimate.standard_error for estimate in estimates])
    freedom = np.array([estimate.degrees_of_freedom for estimate in estimates])
    variance = (share * errors) ** 2
    difference = float(np.sum(share * [estimate.difference for estimate in estimates]))
    error = math.sqrt(float(variance.sum()))
    total_freedom = float(freedom.sum())
    if error > 0:
        total_freedom = float(variance.sum() ** 2 / np.sum(variance**2 / freedom))
    contributions = np.concatenate([part * e.contributions for part, e in zip(share, estimates, strict=True)])
    result = Estimate(
        difference=difference,
        standard_error=error,
        degrees_of_freedom=total_freedom,
        interval=(math.nan, math.nan),
        p=math.nan,
        test="stratified t",
        t_p=t_p_value(difference, error, total_freedom),
        permutation_p=sign_flip(contributions, seed=seed),
        contributions=contributions,
        clusters=sum(e.clusters for e in estimates if e.clusters) or None,
        # Where nothing moved, the imagined item is one of the subtask in which an item counts most.
        one_item=max(part * e.one_item for part, e in zip(share.tolist(), estimates, strict=True)),
    )
    return _finish(result, alpha)
