"""Exact tests of the difference of two paired shares: 0/1 scores of independent items under two runs.

Of `n` items some are helped (0 to 1) and some harmed (1 to 0). No difference is McNemar's exact test. Any other
difference `v` leaves open how many items change at all: the p-value is the largest, over all shares of changed items
that the data allow (Berger and Boos 1994, JASA 89), of the chance of counts that speak for as large a difference as
those seen do. Counts are ordered by the lower end of Tango's interval (1998, Statistics in Medicine 17). The order is
the same for every `v`, so that the p-value rises with `v`, and the interval is its inversion (Buehler 1957, JASA 52).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from grains_eval.comparison.significance import Array, one_sided_mcnemar

# The share of changed items lies outside what is searched with this chance, which the p-value pays for.
GAMMA = 1e-6
# Shares of changed items that are looked at: less than a sixth of a standard error apart.
GRID = 64
PRECISION = 1e-7
# Of the interval by whose lower end counts are ordered: that of an unadjusted verdict.
QUANTILE = float(stats.norm.isf(0.025))


def tango_score(helped: NDArray[Any], harmed: NDArray[Any], n: int, value: float) -> Array:
    """Tango's score of the hypothesis that the difference is `value`, for `[...]` counts; it rises with `helped`."""
    b = -helped - harmed + (2 * n - helped + harmed) * value
    root = np.sqrt(np.maximum(b * b + 8 * n * harmed * value * (1 - value), 0.0))
    variance = (root - b) / 2 + n * value * (1 - value)
    distance = helped - harmed - n * value
    with np.errstate(divide="ignore", invalid="ignore"):
        still = np.where(np.abs(distance) > 1e-9, np.copysign(np.inf, distance), 0.0)
        return np.where(variance > 1e-12 * n, distance / np.sqrt(variance), still)


@lru_cache(maxsize=65_536)
def tail(helped: int, harmed: int, n: int, value: float) -> float:
    """One-sided exact p-value of "the difference, helped minus harmed, is at most `value`".

    Args:
        helped: Items that turned from 0 to 1.
        harmed: Items that turned from 1 to 0.
        n: All items, unchanged ones included.
        value: Between -1 and 1.
    """
    mcnemar = one_sided_mcnemar(helped, harmed)
    if value == 0:
        return mcnemar
    # A difference of at most zero, rejected, leaves none below; one that is not rejected leaves all above.
    return min(mcnemar, _tail(helped, harmed, n, value)) if value < 0 else max(mcnemar, _tail(helped, harmed, n, value))


def _tail(helped: int, harmed: int, n: int, value: float) -> float:
    changed = helped + harmed
    if harmed == n:  # nothing speaks less for a difference
        return 1.0
    low = float(stats.beta.ppf(GAMMA / 2, changed, n - changed + 1)) if changed else 0.0
    high = float(stats.beta.isf(GAMMA / 2, changed + 1, n - changed)) if changed < n else 1.0
    share = np.square(np.linspace(math.sqrt(low), math.sqrt(high), GRID))
    if -value > high:  # fewer items changed than this difference takes
        return 3 * GAMMA
    if -value > low:
        share = np.append(share[share > -value], -value)
    share = share[:, None]
    # Numbers of changed items, and from how many helped ones on each speaks for as large a difference as the data.
    counts = np.arange(int(stats.binom.ppf(GAMMA / 4, n, low)), int(stats.binom.isf(GAMMA / 4, n, high)) + 1)
    reference = tango_end(helped, harmed, n)
    observed = float(tango_score(np.array(helped), np.array(harmed), n, reference)) - 1e-9
    below, from_ = np.full(counts.size, -1), counts + 1
    while bool((from_ - below > 1).any()):
        middle = np.maximum((below + from_) // 2, 0)
        enough = tango_score(middle, counts - middle, n, reference) >= observed
        from_, below = np.where(enough, middle, from_), np.where(enough, below, middle)
    weights = stats.binom.pmf(counts, n, share)
    rows, columns = np.nonzero(weights > 1e-13)
    chance = np.clip((1 + value / np.maximum(share[rows, 0], 1e-300)) / 2, 0.0, 1.0)
    against = weights[rows, columns] * stats.binom.sf(from_[columns] - 1, counts[columns], chance)
    return min(1.0, float(np.bincount(rows, against).max()) + 3 * GAMMA)


@lru_cache(maxsize=65_536)
def tango_end(helped: int, harmed: int, n: int) -> float:
    """The lower end of Tango's 95 % interval, above -1 where not all items are harmed."""
    found: Any = optimize.brentq(
        lambda value: float(tango_score(np.array(helped), np.array(harmed), n, value)) - QUANTILE,
        -1 + 1e-12,
        (helped - harmed) / n,
        xtol=1e-13,
    )
    return float(found)


@lru_cache(maxsize=65_536)
def lower_end(helped: int, harmed: int, n: int, level: float) -> float:
    """Below this, every difference is rejected at a one-sided `level`; below zero where zero is not rejected."""
    estimate, quantile = (helped - harmed) / n, float(stats.norm.isf(level))
    start, end = -1.0, estimate
    if estimate > 0:
        start, end = (0.0, estimate) if tail(helped, harmed, n, 0.0) <= level else (-1.0, 0.0)

    def missing(value: float) -> float:
        # On the normal scale p is nearly a line. Zero stands for the side that is searched.
        inside = value or math.copysign(PRECISION / 100, start + end)
        return quantile - float(stats.norm.isf(min(max(tail(helped, harmed, n, inside), 1e-300), 1 - 1e-9)))

    if end <= start or missing(start) >= 0:
        return start
    if missing(end) <= 0:
        return end - (PRECISION if end <= 0 else 0.0)
    found: Any = optimize.brentq(missing, start, end, xtol=PRECISION)
    return max(start, float(found) - 2 * PRECISION)
