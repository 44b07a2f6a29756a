"""Confidence intervals for the mean of bounded values that hold at every number of items, by betting.

Under the hypothesis that the mean is at most `v`, a gambler who stakes a share of her capital on each `x_i - v` before
seeing it cannot expect to gain, so that her capital grows by `1 / alpha` with a chance of at most `alpha` (Ville). What
she gains is evidence: `p = 1 / largest capital` (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical
Society B 86). Stakes follow STaR-Bets (Voráček and Orabona 2025, arXiv 2505.22422): at each step the stake that reaches
the capital still missing within the items still to come, were the variance so far the true one. Nothing about the
distribution is assumed but its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grains_eval.comparison.significance import Array

# Stakes change at most this many times, which is as good as at every item and much faster.
STEPS = 250
# The largest share of the capital that the worst possible item may take.
MOST_AT_RISK = 0.95
# Before items are seen, the variance of a difference is taken for this (in squares of the largest difference).
FIRST_VARIANCE = 0.05
# Beyond the level asked for, the next capital to aim at is ten times the last.
NEXT_TARGET = math.log(10)
SIMULATED = 40


def log_capital(values: Array, hypotheses: Array, target: float) -> Array:
    """Logarithm of the largest capital won against "the mean is at most v".

    Args:
        values: `[R, n]` values between -1 and 1 in random order, or `[1, n]` for one sample under many hypotheses.
        hypotheses: `[R]` hypothetical means `v`, above -1.
        target: Log capital to aim at.

    Returns:
        `[R]`, at least 0.
    """
    n = values.shape[1]
    edges = np.unique(np.linspace(0, n, min(n, STEPS) + 1).astype(int))
    capital, most = np.zeros(hypotheses.size), np.zeros(hypotheses.size)
    total, squares = np.zeros(values.shape[0]), np.zeros(values.shape[0])
    cap = MOST_AT_RISK / (1 + hypotheses)
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        spread = np.maximum(squares - total**2 / max(start, 1), 0.0)
        variance = (FIRST_VARIANCE + spread) / (start + 1)
        rungs = np.maximum(np.floor((capital - target) / NEXT_TARGET) + 1, 0.0)
        missing = np.maximum(target + rungs * NEXT_TARGET - capital, 0.0)
        stake = np.minimum(np.sqrt(2 * missing / ((n - start) * variance)), cap)
        block = values[:, start:stop]
        path = np.cumsum(np.log1p(stake[:, None] * (block - hypotheses[:, None])), axis=1)
        most = np.maximum(most, capital + path.max(axis=1))
        capital = capital + path[:, -1]
        total, squares = total + block.sum(axis=1), squares + np.square(block).sum(axis=1)
    return most


@dataclass(frozen=True)
class BoundedMean:
    """The mean of independent values of which only the bounds are known.

    Attributes:
        values: `[n]` per-item differences, in random order.
        reach: The largest possible absolute value.
        alpha: Two-sided level that the stakes aim at; the test holds at every other too.
    """

    values: Array
    reach: float
    alpha: float

    @cached_property
    def _scaled(self) -> Array:
        return self.values[None, :] / self.reach

    def tails(self, value: float) -> tuple[float, float]:
        """One-sided p-values of "the mean is at most `value`" and "the mean is at least `value`"."""
        above, below = self._tail(np.array([value]), 1.0), self._tail(np.array([value]), -1.0)
        return float(above[0]), float(below[0])

    def _tail(self, values: Array, sign: float) -> Array:
        hypotheses = np.clip(sign * values / self.reach, -1 + 1e-12, 1.0)
        return np.exp(-log_capital(sign * self._scaled, hypotheses, math.log(2 / self.alpha)))

    def interval(self, level: float) -> tuple[float, float]:
        """All means that neither one-sided test rejects at half the level."""
        mean = float(self.values.mean())
        low = -furthest(lambda values: self._tail(-values, 1.0) > level / 2, -mean, self.reach)
        high = furthest(lambda values: self._tail(values, -1.0) > level / 2, mean, self.reach)
        return low, high

    def detectable(self, level: float, power: float, seed: int = 0) -> float:
        """The mean that this test finds with the given power, were the spread of these values the true one.

        In resamples of the centred values a shift is found where it exceeds the bound that the test sets there.
        """
        generator = np.random.default_rng(seed)
        centred = self.values - self.values.mean()
        drawn = centred[generator.integers(0, centred.size, size=(SIMULATED, centred.size))]
        drawn = np.clip(drawn / self.reach, -1.0, 1.0)
        shifts = np.zeros(SIMULATED), np.ones(SIMULATED)
        for _ in range(12):
            middle = (shifts[0] + shifts[1]) / 2
            # Finding a shift s of the values is rejecting a mean of -s without it.
            found = log_capital(drawn, -np.minimum(middle, 1 - 1e-12), math.log(2 / level)) >= math.log(2 / level)
            shifts = np.where(found, shifts[0], middle), np.where(found, middle, shifts[1])
        wanted = float(np.quantile(shifts[1], power, method="higher")) * self.reach
        return wanted if wanted < self.reach * (1 - 2**-11) else math.nan


def furthest(accepted: Callable[[Array], NDArray[np.bool_]], start: float, end: float) -> float:
    """The last accepted value between `start`, which is accepted, and `end`; zero is looked at for itself.

    So an end of an interval lies beyond zero where, and only where, zero is accepted.
    """
    if start < 0 < end:
        start, end = (0.0, end) if bool(accepted(np.zeros(1))[0]) else (start, 0.0)
    for _ in range(5):
        grid = np.linspace(start, end, 18)[1:]
        kept = accepted(grid)
        last = int(np.argmin(kept)) - 1 if not kept.all() else grid.size - 1
        if last == grid.size - 1:
            return end
        start, end = (float(grid[last]) if last >= 0 else start), float(grid[last + 1])
    return end
