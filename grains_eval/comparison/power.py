"""How large an effect a comparison can see, and how many items an effect needs.

Miller 2024 (arXiv 2411.00640, section 5) for paired evaluations; exact where the test is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import stats

from grains_eval.comparison.betting import log_capital
from grains_eval.comparison.significance import Array, find_root
from grains_eval.errors import GrainsError

MOST_ITEMS = 100_000_000
FAR_OUT = 1_000.0
# The level of intervals, where nobody asks for another.
USUAL_ALPHA = 0.05


def t_power(effect: float, standard_error: float, freedom: float, *, alpha: float = 0.05) -> float:
    """Power of a two-sided (clustered) paired t test.

    Args:
        effect: True difference, in units of the metric.
        standard_error: Of the difference.
        freedom: Degrees of freedom of the test.
        alpha: Level of the test.
    """
    critical = float(stats.t.isf(alpha / 2, freedom))
    shift = abs(effect) / standard_error
    if critical > FAR_OUT:  # there the normal part of t hardly varies beside its size, and scipy's series fails
        return float(stats.chi2.cdf(freedom * (shift / critical) ** 2, freedom))
    wrong_side = float(stats.nct.cdf(-critical, freedom, shift))
    # Far out scipy gives NaN for a tail that is zero.
    return float(stats.nct.sf(critical, freedom, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side)


def minimum_detectable_effect(
    standard_error: float, freedom: float, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The true difference that a t test with this standard error finds with the given power.

    Returns:
        The effect in units of the metric; NaN without a standard error (or with one of zero: items that all moved
        alike do not say by how much they can vary), and at a level that reaches the power without any effect.
    """
    if not standard_error > 0 or freedom < 1 or alpha >= power:
        return math.nan
    high = 1.0
    while t_power(high, 1.0, freedom, alpha=alpha) < power:
        high *= 2
    return standard_error * find_root(lambda x: t_power(x, 1.0, freedom, alpha=alpha) - power, 0.0, high)


def items_needed(
    effect: float,
    deviation: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
    items_per_cluster: float = 1.0,
) -> int:
    """Items that a paired t test needs.

    Args:
        effect: True mean difference.
        deviation: Standard deviation of the per-item differences.
        alpha: Level of the test.
        power: Wanted chance to find the effect.
        design_effect: Squared ratio of the clustered to the naive standard error; 1 without clusters.
        items_per_cluster: More items bring more clusters, and clusters bring the degrees of freedom.

    Raises:
        GrainsError: the effect is zero, or too small for any test.
    """
    if effect == 0:
        raise GrainsError("an effect of zero needs no test; give the smallest difference that matters")
    if deviation <= 0:
        return 2

    def missing(n: int) -> float:
        freedom = n / items_per_cluster - 1
        if freedom < 1:
            return -power
        return t_power(effect, deviation * math.sqrt(design_effect / n), freedom, alpha=alpha) - power

    return _smallest(missing)


def mcnemar_power(helped: float, harmed: float, n: int, *, alpha: float = 0.05) -> float:
    """Exact power of the exact McNemar test.

    Args:
        helped: True share of items that turn from 0 to 1.
        harmed: True share of items that turn from 1 to 0.
        n: Items.
        alpha: Level of the test.
    """
    changed = helped + harmed
    if not 0 <= changed <= 1:
        raise GrainsError(f"helped and harmed are shares of all items and sum to at most 1, not {changed}")
    if changed == 0:
        return 0.0
    # All but 1e-12 of the binomial mass of the number of changed items.
    low, high = stats.binom.ppf([1e-12, 1 - 1e-12], n, changed).astype(int)
    counts = np.arange(max(int(low), 1), int(high) + 1)
    edges = stats.binom.ppf(alpha / 2, counts, 0.5)
    edges -= 2 * stats.binom.cdf(edges, counts, 0.5) > alpha
    share = helped / changed
    tails = stats.binom.cdf(edges, counts, share) + stats.binom.sf(counts - edges - 1, counts, share)
    return float(np.sum(stats.binom.pmf(counts, n, changed) * tails * (edges >= 0)))


# Simulated samples, and their largest size: larger samples are those with a larger effect per standard error.
_SAMPLES, _LARGEST = 200, 2_000


def betting_power(effect: float, deviation: float, n: int, *, alpha: float = 0.05) -> float:
    """Power of the betting test of bounded differences, by simulation: normal differences, cut off at their bounds.

    Stakes aim at the level of intervals, 5 % or `alpha` where that is more; smaller ones are Holm's steps.

    Args:
        effect: True mean difference, between -1 and 1.
        deviation: Standard deviation of the per-item differences.
        n: Items.
        alpha: Level of the test.
    """
    size = min(n, _LARGEST)
    values = np.clip(abs(effect) * math.sqrt(n / size) + deviation * _normal(size), -1.0, 1.0)
    won = log_capital(values, np.zeros((_SAMPLES, 1)), math.log(2 / max(alpha, USUAL_ALPHA)))
    return float(np.mean(won >= math.log(2 / alpha)))


@lru_cache(maxsize=32)
def _normal(size: int) -> Array:
    return np.random.default_rng(0).normal(size=(_SAMPLES, size))


def betting_items_needed(effect: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items that the betting test of bounded differences needs.

    Raises:
        GrainsError: the effect is zero, or too small for any test.
    """
    if effect == 0:
        raise GrainsError("an effect of zero needs no test; give the smallest difference that matters")
    return _smallest(lambda n: betting_power(effect, deviation, n, alpha=alpha) - power)


def betting_detectable_effect(deviation: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The difference that the betting test finds with the given power; NaN where none is."""
    scale = min(1.0, math.sqrt(_LARGEST / n))
    if betting_power(scale, deviation, n, alpha=alpha) < power:
        return math.nan
    return find_root(lambda x: betting_power(x, deviation, n, alpha=alpha) - power, 0.0, scale)


def mcnemar_items_needed(helped: float, harmed: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items that the exact McNemar test needs, by doubling and bisection on its exact power.

    Raises:
        GrainsError: helped and harmed are equal: no number of items will do.
    """
    if helped == harmed:
        raise GrainsError("equal shares of helped and harmed items make no difference; give unequal ones")
    return _smallest(lambda n: mcnemar_power(helped, harmed, n, alpha=alpha) - power)


def mcnemar_detectable_effect(changed: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The difference of shares that the exact McNemar test finds with the given power.

    Args:
        changed: Share of items that change either way.
        n: Items.
        alpha: Level of the test.
        power: Wanted chance to find the effect.

    Returns:
        The effect; NaN where even changes in one direction alone are not found so often.
    """

    def missing(effect: float) -> float:
        return mcnemar_power((changed + effect) / 2, (changed - effect) / 2, n, alpha=alpha) - power

    if missing(changed) < 0:
        return math.nan
    return find_root(missing, 0.0, changed)


def _smallest(missing: Callable[[int], float]) -> int:
    """The smallest whole n at which `missing(n)` is no longer negative."""
    high = 2
    while missing(high) < 0:
        high *= 2
        if high > MOST_ITEMS:
            raise GrainsError("no feasible number of items finds this effect; use a larger effect")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if missing(middle) < 0:
            low = middle
        else:
            high = middle
    return high
