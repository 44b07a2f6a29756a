"""The tests themselves, one function each, checked against scipy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

# Up to this many moved units every sign pattern is enumerated (2**13 patterns after symmetry).
ENUMERATE = 14
DRAWS = 9_999


def standard_error(differences: ArrayLike) -> float:
    """Paired standard error: sample standard deviation of `d_i` over the square root of n; NaN for n < 2."""
    values = np.asarray(differences, dtype=float)
    if values.size < 2:
        return math.nan
    deviation = float(values.std(ddof=1))
    if deviation < 1e-12 * float(np.abs(values).max()):  # rounding of equal differences is no spread
        return 0.0
    return deviation / math.sqrt(values.size)


def t_p_value(difference: float, error: float, freedom: float) -> float:
    """Two-sided p of `difference / error`; 1 where nothing moved, NaN where there is no standard error."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, freedom))


def mcnemar(helped: int, harmed: int) -> float:
    """Exact two-sided McNemar test (1947): helped among the changed items against a fair coin."""
    return float(min(1.0, 2 * stats.binom.cdf(min(helped, harmed), helped + harmed, 0.5)))


@lru_cache(maxsize=65_536)
def tango_interval(helped: int, harmed: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval for the difference of paired proportions (Tango 1998, Statistics in Medicine 17).

    Args:
        helped: Items that turned from 0 to 1.
        harmed: Items that turned from 1 to 0.
        n: All items, unchanged ones included.
        alpha: One minus the confidence level.
    """
    quantile = float(stats.norm.ppf(1 - alpha / 2))

    def score(delta: float) -> float:
        b = -helped - harmed + (2 * n - helped + harmed) * delta
        root = math.sqrt(max(b * b + 8 * n * harmed * delta * (1 - delta), 0.0))
        harmed_share = (root - b) / (4 * n)
        variance = n * (2 * harmed_share + delta * (1 - delta))
        distance = helped - harmed - n * delta
        if variance <= 0:
            return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0
        return distance / math.sqrt(variance)

    estimate = (helped - harmed) / n
    lower = -1.0 if estimate <= -1 else find_root(lambda x: score(x) - quantile, -1 + 1e-12, estimate)
    upper = 1.0 if estimate >= 1 else find_root(lambda x: score(x) + quantile, estimate, 1 - 1e-12)
    return lower, upper


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero of a monotone function that changes sign between `low` and `high`."""
    result: Any = optimize.brentq(function, low, high, xtol=1e-12)
    return float(result)


@lru_cache(maxsize=16)
def _patterns(moved: int) -> Array:
    """`[2**(moved-1), moved]` sign patterns, the first sign fixed: a pattern and its negative tie."""
    codes = np.arange(2 ** (moved - 1))[:, None]
    bits = (codes >> np.arange(moved)[None, :]) & 1
    return 1.0 - 2.0 * bits


def sign_flip(contributions: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Paired permutation test: without an effect each sign is a coin flip (Fisher 1935).

    Exact by enumeration up to 14 moved units, otherwise `(1 + hits) / (1 + draws)` over seeded random flips.

    Args:
        contributions: `[U]` differences of independent units (items, or sums over clusters).
        draws: Random sign patterns.
        seed: Their seed.
    """
    values = np.asarray(contributions, dtype=float)
    moved = values[values != 0]
    if moved.size == 0:
        return 1.0
    observed = abs(float(moved.sum())) - 1e-12 * float(np.abs(moved).sum())
    if moved.size <= ENUMERATE:
        return float(np.mean(np.abs(_patterns(moved.size) @ moved) >= observed))
    generator = np.random.default_rng(seed)
    hits = 0
    chunk = max(1, min(draws, 4_000_000 // moved.size))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        flips = generator.integers(0, 2, size=(rows, moved.size), dtype=np.int8)
        # sum of s_i x_i with s = 1 - 2 b
        hits += int(np.sum(np.abs(moved.sum() - 2 * (flips @ moved)) >= observed))
    return (1 + hits) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment over one table; NaN stays NaN and does not count."""
    from statsmodels.stats.multitest import multipletests

    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    if known:
        values: Any = multipletests([p_values[i] for i in known], method="holm")[1]
        for i, value in zip(known, values, strict=True):
            adjusted[i] = float(value)
    return adjusted
