"""Confidence intervals for the mean of bounded values that hold at every number of items, by betting.

Under the hypothesis that the mean is at most `v`, a gambler who stakes a share of her capital on each `x_i - v` before
seeing it cannot expect to gain, so that her capital grows by `1 / alpha` with a chance of at most `alpha` (Ville). What
she gains is evidence: `p = 1 / largest capital` (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical
Society B 86). Stakes follow STaR-Bets (Voráček and Orabona 2025, arXiv 2505.22422): at each step the stake that reaches
the capital still missing within the items still to come, were the variance so far the true one. Nothing about the
distribution is assumed but its bounds.

The capital falls as `v` rises, whatever the items, so that one-sided p-values are monotone and the interval is their
inversion. Where the stake `s` falls with the log capital `k` no faster than by its own size, `-ds/dk <= s`, the capital
after an item rises with the one before it: `d/dk [k + log(1 + s (x - v))] = 1 + s' (x - v) / (1 + s (x - v)) >= 0`. So
a capital that is no larger at a higher `v` stays no larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grains_eval.comparison.significance import Array

# The largest share of the capital that the worst possible item may take.
MOST_AT_RISK = 0.95
# Before items are seen, the variance of a difference is taken for this (in squares of the largest difference).
FIRST_VARIANCE = 0.05
# With less log capital missing than this, the stake falls by its own size for each unit of it, down to this share of
# the first stake: so it goes on to smaller levels when the one aimed at is reached.
NEARLY_THERE, LEAST_STAKE = 0.5, 0.85
# More items than this are bet on in groups of nearly one size, by their means.
MOST_BETS = 20_000
# Samples simulated for a detectable effect, and their largest size: larger ones have a smaller standard error.
SIMULATED, LARGEST = 300, 4_000
# The smallest effect that is looked for, as a share of the largest possible one.
SMALLEST = 1e-6
# Hypotheses looked at together, and how often, in search of an end of an interval.
GRID, ROUNDS = 50, 4
EDGE = 1e-12


def log_capital(values: Array, hypotheses: Array, target: float) -> Array:
    """Logarithm of the largest capital won against "the mean is at most v".

    Args:
        values: `[R, n]` values between -1 and 1 in random order.
        hypotheses: `[R, H]` hypothetical means `v`, above -1.
        target: Log capital to aim at.

    Returns:
        `[R, H]`, at least 0; it falls as the hypothesis rises.
    """
    n = values.shape[1]
    growth = _growth(values)
    cap = MOST_AT_RISK / (1 + hypotheses)
    least = LEAST_STAKE * math.sqrt(target / n)
    capital, most = np.zeros(hypotheses.shape), np.zeros(hypotheses.shape)
    for place in range(n):
        missing = target - capital
        wanted = np.sqrt(np.maximum(missing, NEARLY_THERE) / (n - place))
        wanted *= np.exp(np.minimum(missing - NEARLY_THERE, 0.0))
        stake = np.minimum(np.maximum(wanted, least) * growth[:, place, None], cap)
        capital += np.log1p(stake * (values[:, place, None] - hypotheses))
        np.maximum(most, capital, out=most)
    return most


def _growth(values: Array) -> Array:
    """`[R, n]` what a stake is for each root of log capital wanted of an item: from the variance of those before it."""
    seen = np.arange(values.shape[1])
    total = np.cumsum(values, axis=1) - values
    squares = np.cumsum(np.square(values), axis=1) - np.square(values)
    spread = np.maximum(squares - np.square(total) / np.maximum(seen, 1), 0.0)
    return np.sqrt(2 * (seen + 1) / (FIRST_VARIANCE + spread))


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
    def _sides(self) -> Array:
        """`[2, n]` what is bet on for either side, in shares of the reach."""
        bets = self.values / self.reach
        if bets.size > MOST_BETS:
            groups = np.arange(bets.size) % MOST_BETS
            bets = np.bincount(groups, bets) / np.bincount(groups)
        return np.stack([bets, -bets])

    def _tails(self, hypotheses: Array) -> Array:
        """`[2, H]` one-sided p-values of `[2, H]` hypotheses of either side, in shares of the reach."""
        clipped = np.clip(hypotheses, -1 + EDGE, 1.0)
        return np.exp(-log_capital(self._sides, clipped, math.log(2 / self.alpha)))

    def tails(self, value: float) -> tuple[float, float]:
        """One-sided p-values of "the mean is at most `value`" and "the mean is at least `value`"."""
        above, below = self._tails(np.array([[value], [-value]]) / self.reach)[:, 0]
        return float(above), float(below)

    def interval(self, level: float) -> tuple[float, float]:
        """All means that neither one-sided test rejects at half the level; a point where there are none."""
        # Up to `low` a side rejects every mean, from `high` on none; zero is looked at for itself.
        zero = self._tails(np.zeros((2, 1)))[:, 0] <= level / 2
        low, high = np.where(zero, 0.0, -1.0), np.where(zero, 1.0, -EDGE)
        for _ in range(ROUNDS):
            grid = np.linspace(low, high, GRID + 1, axis=1)
            rejected = np.sum(self._tails(grid[:, 1:-1]) <= level / 2, axis=1)
            low, high = grid[[0, 1], rejected], grid[[0, 1], rejected + 1]
        ends = float(low[0]) * self.reach, 0.0 - float(low[1]) * self.reach
        return ends if ends[0] <= ends[1] else ((ends[0] + ends[1]) / 2, (ends[0] + ends[1]) / 2)

    def detectable(self, level: float, power: float, seed: int = 0) -> float:
        """The mean, of either sign, that this test finds with the given power, were these values' spread the true one.

        In resamples of the centred values it is the shift that wins the capital which the level asks for, with the
        stakes of the test itself, whatever the level.
        """
        generator = np.random.default_rng(seed)
        size = min(self.values.size, LARGEST)
        centred = (self.values - self.values.mean()) / self.reach
        drawn = centred[generator.integers(0, centred.size, size=(SIMULATED, size))]
        drawn = np.clip(np.concatenate([drawn, -drawn]), -1.0, 1.0)
        zero = np.zeros((2 * SIMULATED, 1))
        low, high = np.full(2 * SIMULATED, SMALLEST), np.ones(2 * SIMULATED)
        for _ in range(11):
            middle = np.sqrt(low * high)
            won = log_capital(drawn + middle[:, None], zero, math.log(2 / self.alpha))[:, 0]
            found = won >= math.log(2 / level)
            low, high = np.where(found, low, middle), np.where(found, middle, high)
        wanted = float(np.quantile(high.reshape(2, SIMULATED), power, axis=1, method="higher").max())
        return wanted * math.sqrt(size / self.values.size) * self.reach if wanted < 1 else math.nan
