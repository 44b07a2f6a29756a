"""Exact tests of paired shares: against published numbers, and by summing over every table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from grains_eval.comparison.proportions import lower_end, tail, tango_score
from grains_eval.comparison.significance import one_sided_mcnemar


def score(helped: int, harmed: int, n: int, value: float) -> float:
    return float(tango_score(np.array(helped), np.array(harmed), n, value))


def ends(helped: int, harmed: int, n: int, level: float = 0.025) -> tuple[float, float]:
    return lower_end(helped, harmed, n, level), -lower_end(harmed, helped, n, level)


def test_the_order_is_tangos_score() -> None:
    helped, harmed, n, value = 14, 5, 60, 0.04
    # Tango 1998, equation 11: constrained estimate of the harmed share
    a, b, c = 2 * n, -helped - harmed + (2 * n - helped + harmed) * value, -harmed * value * (1 - value)
    share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    spread = math.sqrt(n * (2 * share + value * (1 - value)))
    assert score(helped, harmed, n, value) == pytest.approx((helped - harmed - n * value) / spread, abs=1e-9)
    # the same paper's table: of 44 pairs, 1 against 0 discordant ones give (-0.060, 0.118)
    quantile = stats.norm.ppf(0.975)
    low = optimize.brentq(lambda v: score(1, 0, 44, v) - quantile, -0.9, 1 / 44)
    high = optimize.brentq(lambda v: score(1, 0, 44, v) + quantile, 1 / 44, 0.9)
    assert (low, high) == pytest.approx((-0.060, 0.118), abs=1e-3)


@pytest.mark.parametrize("value", [-0.4, -0.05, -1e-9, 0.01, 0.3])
def test_more_helped_items_of_as_many_changed_ones_speak_for_more(value: float) -> None:
    """What the search for the first count on the far side rests on."""
    for n in (7, 40):
        for changed in range(n + 1):
            helped = np.arange(changed + 1)
            assert np.all(np.diff(tango_score(helped, changed - helped, n, value)) >= -1e-9)


@pytest.mark.parametrize(("n", "value"), [(30, -0.05), (30, 0.2), (60, -0.02)])
def test_the_truth_is_rejected_no_more_often_than_promised(n: int, value: float) -> None:
    """Every table that has a chance, for shares of changed items from the fewest possible on."""
    level = 0.025
    tables = [(h, k) for h in range(n + 1) for k in range(n + 1 - h) if h + k <= 25]
    found = {table: (tail(*table, n, value), tail(*table[::-1], n, -value)) for table in tables}
    rejected = np.array([[p <= level for p in found[table]] for table in tables])
    counts = np.array([(h, k, n - h - k) for h, k in tables])
    largest = np.zeros(2)
    for changed in np.linspace(abs(value) + 1e-9, abs(value) + 0.2, 41):
        shares = [(changed + value) / 2, (changed - value) / 2, 1 - changed]
        chances = stats.multinomial.pmf(counts, n, np.clip(shares, 0, 1))
        largest = np.maximum(largest, chances @ rejected)
    assert np.all(largest <= level)
    assert largest.max() > 0.6 * level  # and not by never rejecting


def test_p_rises_with_the_hypothesis_and_the_interval_is_its_inversion() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        n = int(generator.integers(1, 300))
        changed = int(generator.integers(0, min(n, 40) + 1))
        helped = int(generator.integers(0, changed + 1))
        estimate, error = (2 * helped - changed) / n, math.sqrt(max(changed, 1)) / n
        values = np.unique(np.clip(np.linspace(estimate - 5 * error, estimate + 3 * error, 40), -0.999, 0.999))
        assert np.diff([tail(helped, changed - helped, n, float(value)) for value in values]).min() >= -1e-12
        low, step = lower_end(helped, changed - helped, n, 0.025), 1e-6
        if low > -1 + step:
            assert (
                tail(helped, changed - helped, n, low - step) <= 0.025 < tail(helped, changed - helped, n, low + step)
            )


@pytest.mark.parametrize(("helped", "harmed"), [(0, 0), (1, 0), (5, 1), (12, 12), (40, 20)])
def test_no_difference_is_mcnemar_and_others_pass_through_it(helped: int, harmed: int) -> None:
    values = np.array([-0.3, -0.1, -0.01, -1e-6, 0.0, 1e-6, 0.01, 0.1, 0.3])
    tails = [tail(helped, harmed, 100, float(value)) for value in values]
    assert tails[4] == one_sided_mcnemar(helped, harmed)
    assert np.all(np.diff(tails) >= -1e-12)


def test_items_of_which_none_changed() -> None:
    """None of 400 lost: as likely as .99^400 where one in a hundred does."""
    assert 0.99**400 <= tail(0, 0, 400, -0.01) < 0.021


@pytest.mark.parametrize(("helped", "harmed", "n"), [(0, 0, 10), (10, 0, 10), (0, 10, 10), (3, 3, 6), (0, 1, 1)])
def test_intervals_at_the_edges(helped: int, harmed: int, n: int) -> None:
    low, high = ends(helped, harmed, n)
    assert -1 <= low <= (helped - harmed) / n <= high <= 1
    assert low < high
    assert tuple(-end for end in ends(harmed, helped, n))[::-1] == (low, high)


def test_intervals_hold_zero_where_mcnemar_does_not_reject_it() -> None:
    for helped in range(0, 14, 2):
        for harmed in range(0, 8, 2):
            low, high = ends(helped, harmed, 60)
            rejected = min(one_sided_mcnemar(helped, harmed), one_sided_mcnemar(harmed, helped)) <= 0.025
            assert (low < 0 < high) is not rejected
