"""The studentised bootstrap: intervals that follow skewness, of means, of clustered means and of corpus metrics.

A resample's error is measured in its own standard errors (Efron 1979; Hall 1992, The Bootstrap and Edgeworth
Expansion, section 3), so that a sample in which a rare collapse shows once does not pass for one in which it is known
how rare. Student's t has to reject as well: it is the longer on the side away from the tail. Valid for many units, and
approximate for few.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grains_eval.comparison.clusters import cluster_jackknife, jackknife_error
from grains_eval.comparison.significance import Array

DRAWS = 9_999
# More units than this are thrown together at random into so many groups, which estimate the same error.
MOST_UNITS = 1_000
# Fewer equal units than this give no verdict: the simulated errors pass 5 % (docs/statistics.md). More are needed where
# scores have no bounds, for metrics of a corpus too, since a tail can then be longer.
FEWEST_UNITS, FEWEST_UNBOUNDED = 20, 60
# Fewer units than this outside the commonest value: too many resamples hold none of them, and have no spread.
FEWEST_DIFFERENT = 8
# Resamples beyond half a level that make it told apart from others, and the most resamples that are drawn for it.
RESOLVED, MOST_DRAWS = 5, 200_000
CHUNK = 2_000_000


@dataclass(frozen=True)
class Studentised:
    """A difference and how far those of resamples lie from it.

    Attributes:
        difference: The observed difference.
        error: Its standard error.
        deviations: `[B]` differences of resamples minus the observed one.
        errors: `[B]` their own standard errors.
        freedom: Degrees of freedom of Student's t, which has to reject as well.
        redrawn: The same with so many resamples.
        most: The most resamples that are drawn.
    """

    difference: float
    error: float
    deviations: Array
    errors: Array
    freedom: float
    redrawn: Callable[[int], Studentised]
    most: int = MOST_DRAWS

    @cached_property
    def _ratios(self) -> Array:
        """`[B]` deviations in standard errors, ascending; infinite where a resample has no spread."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = self.deviations / self.errors
        still = np.isnan(ratios) | (np.abs(self.deviations) <= 1e-12 * max(abs(self.difference), self.error))
        return np.sort(np.where(still, 0.0, ratios))

    def tails(self, value: float) -> tuple[float, float]:
        """One-sided p-values of "the difference is at most `value`" and "at least `value`"."""
        ratios, observed = self._ratios, (self.difference - value) / self.error
        count = ratios.size
        above = count - int(np.searchsorted(ratios, observed, side="left"))
        below = int(np.searchsorted(ratios, observed, side="right"))
        by_t = float(stats.t.sf(observed, self.freedom)), float(stats.t.cdf(observed, self.freedom))
        return max((1 + above) / (1 + count), by_t[0]), max((1 + below) / (1 + count), by_t[1])

    def interval(self, level: float) -> tuple[float, float]:
        """All differences that neither one-sided test rejects at half the level."""
        low, high = self._edges(level)
        return self.difference - self.error * high, self.difference - self.error * low

    def _edges(self, level: float) -> tuple[float, float]:
        # A ratio further out than all but this many is rejected.
        rank = math.floor(level / 2 * (1 + self._ratios.size) + 1e-9) - 1
        if rank < 0:
            return -math.inf, math.inf
        by_t = float(stats.t.isf(level / 2, self.freedom))
        return min(float(self._ratios[rank]), -by_t), max(float(self._ratios[-1 - rank]), by_t)

    def detectable(self, level: float, power: float) -> float:
        """The difference, of either sign, that the test finds with the given power, were the spread the true one."""
        low, high = self._edges(level)
        with np.errstate(invalid="ignore"):
            needed = high * self.errors - self.deviations, self.deviations - low * self.errors
        found = max(float(np.quantile(side, power, method="higher")) for side in needed)
        return found if math.isfinite(found) else math.nan

    def resolved(self, level: float) -> Studentised:
        """With enough resamples for a p-value of no difference below this level, where there are too few for it.

        A p-value that many resamples already speak for stays as it is (Besag and Clifford 1991, Biometrika 78).
        """
        count = self._ratios.size
        needed = min(math.ceil(2 * RESOLVED / level - 1e-9) - 1, self.most)
        if needed <= count or min(self.tails(0.0)) * (1 + count) > 2 * RESOLVED:
            return self
        return self.redrawn(needed)

    @property
    def smallest_p(self) -> float:
        """The smallest two-sided p-value that so many resamples can give."""
        return 2 / (1 + self._ratios.size)


def of_mean(sums: Array, shares: Array, seed: int, draws: int = DRAWS, freedom: float | None = None) -> Studentised:
    """The bootstrap of a weighted mean over clusters, or over items as clusters of one.

    Args:
        sums: `[G]` what each cluster adds to the mean.
        shares: `[G]` its weight; the weights sum to one.
        seed: Seed of the resamples.
        draws: Their number.
        freedom: Degrees of freedom of its standard error; default: those of clusters of one size.
    """
    generator = np.random.default_rng(seed)
    difference = float(sums.sum())
    deviations, errors = np.empty(draws), np.empty(draws)
    rows = max(1, CHUNK // sums.size)
    for start in range(0, draws, rows):
        stop = min(start + rows, draws)
        drawn = generator.integers(0, sums.size, size=(stop - start, sums.size), dtype=np.int32)
        weights = shares[drawn]
        whole = weights.sum(axis=1, keepdims=True)
        weights /= whole
        parts = sums[drawn] / whole
        deviations[start:stop] = parts.sum(axis=1) - difference
        errors[start:stop] = jackknife_error(parts, weights)
    return Studentised(
        difference,
        float(jackknife_error(sums, shares)),
        deviations,
        errors,
        freedom=sums.size - 1.0 if freedom is None else freedom,
        redrawn=lambda more: of_mean(sums, shares, seed, more, freedom),
    )


def thrown_together(units: int, seed: int) -> NDArray[np.intp] | None:
    """`[units]` numbers of random groups of nearly one size, None where there are few enough units."""
    if units <= MOST_UNITS:
        return None
    return np.random.default_rng(seed).permutation(units).astype(np.intp) % MOST_UNITS


def summed(values: Array, groups: NDArray[np.intp]) -> Array:
    """`[groups]` sums of `[units]` values."""
    return np.bincount(groups, values).astype(float)


def effective(sums: Array, shares: Array, squares: Array) -> float:
    """How many clusters of equal size say as much about the standard error: its degrees of freedom and one."""
    return cluster_jackknife(sums, shares, squares)[1] + 1


def varied(values: Array) -> int:
    """How many of `[G]` units do not have the commonest value, to rounding."""
    size = float(np.max(np.abs(values), initial=0.0))
    counts = np.unique(np.round(values / size, 12), return_counts=True)[1] if size else np.array([values.size])
    # where no two are alike all count
    return values.size if counts.max() == 1 else int(values.size - counts.max())


def units_needed(units: int, equal: float, bounded: bool) -> int | None:
    """How many units like these a test needs, None where these are enough."""
    fewest = FEWEST_UNITS if bounded else FEWEST_UNBOUNDED
    return None if equal >= fewest - 1e-9 else math.ceil(units * fewest / max(equal, 1.0) - 1e-9)
