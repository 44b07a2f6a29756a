"""The tests themselves, one function each, checked against scipy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]


def standard_error(differences: ArrayLike) -> float:
    """Paired standard error: sample standard deviation of `d_i` over the square root of n; NaN for n < 2."""
    values = np.asarray(differences, dtype=float)
    if values.size < 2:
        return math.nan
    deviation = float(values.std(ddof=1))
    if deviation < 1e-12 * float(np.abs(values).max()):  # rounding of equal differences is no spread
        return 0.0
    return deviation / math.sqrt(values.size)


def mcnemar(helped: int, harmed: int) -> float:
    """Exact two-sided McNemar test (1947): helped among the changed items against a fair coin."""
    return float(min(1.0, 2 * stats.binom.cdf(min(helped, harmed), helped + harmed, 0.5)))


def one_sided_mcnemar(more: int, fewer: int) -> float:
    """Chance of at least `more` heads among all changed items: the exact test of "at most as many helped as harmed"."""
    return float(stats.binom.sf(more - 1, more + fewer, 0.5))


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero of a monotone function that changes sign between `low` and `high`."""
    result: Any = optimize.brentq(function, low, high, xtol=1e-12)
    return float(result)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment over one table; NaN stays NaN and does not count.

    Written out: statsmodels' takes half a second a call (it collects garbage), and as long again to import.
    """
    values = np.array(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(order.size, 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in values]
