"""Paired inference on the same items under two runs.

Everything works on per-item differences `d_i = steered_i - baseline_i`, so what both runs share cancels
(Miller 2024, arXiv 2411.00640, section 4.2). The data choose a procedure, and the procedure gives everything: `p` is
twice its smaller one-sided p-value of no difference, the interval holds the differences that it does not reject.
`docs/statistics.md` says which procedure is used when, and what it was measured to do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from grains_eval.comparison import bootstrap
from grains_eval.comparison.betting import BoundedMean
from grains_eval.comparison.clusters import cluster_sums, jackknife_error
from grains_eval.comparison.power import mcnemar_detectable_effect, mcnemar_power
from grains_eval.comparison.proportions import lower_end, tail
from grains_eval.comparison.significance import Array, find_root, standard_error


class Procedure(Protocol):
    """One procedure that gives tests, intervals and power alike."""

    def tails(self, value: float) -> tuple[float, float]:
        """One-sided p-values of "the difference is at most `value`" and "at least `value`"."""
        ...

    def interval(self, level: float) -> tuple[float, float]:
        """The differences that neither one-sided test rejects at half the level."""
        ...

    def detectable(self, level: float, power: float) -> float:
        """The true difference that a two-sided test finds with this power; NaN where none is."""
        ...


@dataclass(frozen=True)
class Estimate:
    """A paired difference with its uncertainty.

    Attributes:
        difference: Weighted mean of `d_i`, in units of the metric.
        standard_error: Standard error of `difference`; NaN with fewer than two units.
        procedure: What gives `p` and `interval`.
        test: The procedure's name.
        assumption: What it rests on.
        alpha: One minus the confidence level.
        guaranteed: Whether its error rates hold at every number of items under that assumption.
        clusters: Number of clusters, None when items are the units.
        units_needed: Clusters, or items, from which on there is a test; None where there is one.
    """

    difference: float
    standard_error: float
    procedure: Procedure
    test: str
    assumption: str
    alpha: float = 0.05
    guaranteed: bool = False
    clusters: int | None = None
    units_needed: int | None = None

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Two-sided confidence interval of `difference`; NaN where there are too few units for one."""
        return self.procedure.interval(self.alpha)

    @cached_property
    def p(self) -> float:
        """Two-sided p-value of no difference; NaN likewise."""
        return two_sided(self.procedure)


def two_sided(procedure: Procedure) -> float:
    """A procedure's two-sided p-value of no difference; NaN where it has none."""
    above, below = procedure.tails(0.0)
    return math.nan if math.isnan(above) else min(1.0, 2 * min(above, below))


def paired(
    baseline: ArrayLike,
    steered: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    reach: float | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> Estimate:
    """Compare two runs on the same items, by the procedure that fits the data.

    0/1 scores of independent items: exact tests, of no difference McNemar's. Other bounded scores: betting. Clusters,
    and scores without bounds: the studentised bootstrap.

    Args:
        baseline: `[n]` scores of the baseline run.
        steered: `[n]` scores of the other run, same items in the same order.
        clusters: `[n]` labels; items of one label are not independent.
        weights: `[n]` positive item weights, any scale.
        reach: The largest difference that an item can make, infinite where there is none; default: 1 where all scores
            lie between 0 and 1.
        alpha: One minus the confidence level.
        seed: Seed of the order of bets and of resamples.
    """
    first, second = np.asarray(baseline, dtype=float), np.asarray(steered, dtype=float)
    differences = second - first
    scores = np.concatenate([first, second])
    if reach is None:
        reach = 1.0 if bool(np.all((scores >= 0) & (scores <= 1))) else math.inf
    spread = float(np.ptp(scores) or np.abs(scores).max())
    if clusters is not None:
        return _resampled(differences, clusters, weights, reach, alpha, seed, spread)
    even = weights is None or float(np.ptp(np.asarray(weights, dtype=float))) <= 1e-12 * float(np.max(weights))
    if even and bool(np.all((scores == 0) | (scores == 1))):
        return _binary(differences, alpha)
    if math.isfinite(reach):
        return _bounded(differences, weights, reach, alpha, seed)
    return _resampled(differences, None, weights, reach, alpha, seed, spread)


@dataclass(frozen=True)
class BinaryPairs:
    """0/1 scores of independent items: exact tests of their shares, of no difference McNemar's."""

    helped: int
    harmed: int
    n: int

    def tails(self, value: float) -> tuple[float, float]:
        """See `Procedure`."""
        return tail(self.helped, self.harmed, self.n, value), tail(self.harmed, self.helped, self.n, -value)

    def interval(self, level: float) -> tuple[float, float]:
        """See `Procedure`."""
        low = lower_end(self.helped, self.harmed, self.n, level / 2)
        return low, -lower_end(self.harmed, self.helped, self.n, level / 2)

    def detectable(self, level: float, power: float) -> float:
        """See `Procedure`; where items change too rarely, all changes are taken to go one way."""
        changed = (self.helped + self.harmed) / self.n
        found = mcnemar_detectable_effect(changed, self.n, alpha=level, power=power) if changed else math.nan
        if math.isnan(found) and mcnemar_power(1.0, 0.0, self.n, alpha=level) >= power:
            return find_root(lambda x: mcnemar_power(x, 0.0, self.n, alpha=level) - power, changed, 1.0)
        return found


NO_SPREAD = "binomial bound"  # the name of that test in tables


@dataclass(frozen=True)
class NoSpread:
    """Every unit changed by the same amount, mostly by none: all that is known is how rare others can be.

    Where the mean of changes between minus and plus `reach` is at most `v`, a unit changes by `d` or more with a chance
    of at most `(v + reach) / (d + reach)` (Markov), and all of them with that to the power of their number.
    """

    difference: float
    units: int
    reach: float

    def tails(self, value: float) -> tuple[float, float]:
        """See `Procedure`."""
        return self._tail(self.difference, value), self._tail(-self.difference, -value)

    def _tail(self, difference: float, value: float) -> float:
        if value >= difference or self.reach == 0:  # no reach is known where all scores are zero
            return 1.0
        return float(max(0.0, (value + self.reach) / (difference + self.reach)) ** self.units)

    def interval(self, level: float) -> tuple[float, float]:
        """See `Procedure`."""
        if self.reach == 0:
            return -math.inf, math.inf
        share = 1 - (level / 2) ** (1 / self.units)
        below, above = self.difference + self.reach, self.reach - self.difference
        return self.difference - below * share, self.difference + above * share

    def detectable(self, level: float, power: float) -> float:
        """See `Procedure`: nothing is known of how much units vary."""
        return math.nan


@dataclass(frozen=True)
class Undecided:
    """Too few units for any verdict."""

    def tails(self, value: float) -> tuple[float, float]:
        """NaN: see `Procedure`."""
        return math.nan, math.nan

    def interval(self, level: float) -> tuple[float, float]:
        """NaN: see `Procedure`."""
        return math.nan, math.nan

    def detectable(self, level: float, power: float) -> float:
        """NaN: see `Procedure`."""
        return math.nan


def _binary(differences: Array, alpha: float) -> Estimate:
    helped, harmed = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    return Estimate(
        difference=float(differences.mean()),
        standard_error=standard_error(differences),
        procedure=BinaryPairs(helped, harmed, differences.size),
        test="exact McNemar",
        assumption="items are independent",
        alpha=alpha,
        guaranteed=True,
    )


def _bounded(differences: Array, weights: ArrayLike | None, reach: float, alpha: float, seed: int) -> Estimate:
    if weights is not None:
        shares = np.asarray(weights, dtype=float)
        shares = shares / shares.mean()
        differences, reach = differences * shares, reach * float(shares.max())
    # Bets are laid in an order that has nothing to do with the items: they may be sorted in their file.
    order = np.random.default_rng(seed).permutation(differences.size)
    return Estimate(
        difference=float(differences.mean()),
        standard_error=standard_error(differences),
        procedure=BoundedMean(differences[order], reach, alpha),
        test="betting",
        assumption="items are independent and scores have bounds",
        alpha=alpha,
        guaranteed=True,
    )


def _resampled(
    differences: Array,
    clusters: Sequence[Hashable] | None,
    weights: ArrayLike | None,
    reach: float,
    alpha: float,
    seed: int,
    spread: float,
) -> Estimate:
    labels = range(differences.size) if clusters is None else clusters
    sums, shares, squares = cluster_sums(differences, labels, weights)
    count, difference = sums.size, float(sums.sum())
    error = float(jackknife_error(sums, shares)) if count > 1 else math.nan
    bounded = math.isfinite(reach)
    equal = bootstrap.effective(sums, shares, squares)
    needed = bootstrap.units_needed(count, equal, bounded)
    unit = "items" if clusters is None else "clusters"
    empty = Estimate(
        difference=difference,
        standard_error=error,
        procedure=Undecided(),
        test="studentised bootstrap" if clusters is None else "cluster bootstrap",
        assumption=f"{unit} are independent, and many enough for a bootstrap",
        alpha=alpha,
        clusters=None if clusters is None else count,
    )
    # where all changed alike in a few units, or by nothing in any number, there are no resamples to speak of
    if (error == 0 and (bounded or needed is None)) or not differences.any():
        largest = reach * count * float(shares.max()) if bounded else spread
        found = replace(empty, procedure=NoSpread(difference, count, largest))
        if not bounded:
            return found
        assumption = f"{unit} are independent and scores have bounds"
        return replace(found, test=NO_SPREAD, assumption=assumption, guaranteed=float(np.ptp(shares)) < 1e-9)
    varied = bootstrap.varied(sums / shares)
    # resamples without the few units that differ have no spread: ratios to it say nothing
    if 0 < varied < bootstrap.FEWEST_DIFFERENT and not bounded:
        needed = max(needed or 0, math.ceil(count * bootstrap.FEWEST_DIFFERENT / varied))
    elif varied < bootstrap.FEWEST_DIFFERENT and needed is None:
        return replace(
            _bounded(sums * count, None, reach * count * float(shares.max()), alpha, seed),
            standard_error=error,
            test="betting over clusters",
            assumption="clusters are independent and scores have bounds",
            guaranteed=float(np.ptp(shares)) < 1e-9,
            clusters=count,
        )
    if needed is not None:
        return replace(empty, units_needed=needed)
    groups = bootstrap.thrown_together(count, seed)
    if groups is not None:
        sums, shares = bootstrap.summed(sums, groups), bootstrap.summed(shares, groups)
    freedom = min(equal, sums.size) - 1
    return replace(empty, procedure=bootstrap.of_mean(sums, shares, seed, freedom=freedom))
