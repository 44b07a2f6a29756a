"""The power calculator against simulation and against statsmodels."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from grains_eval.comparison.power import (
    betting_detectable_effect,
    betting_items_needed,
    betting_power,
    items_needed,
    mcnemar_detectable_effect,
    mcnemar_items_needed,
    mcnemar_power,
    minimum_detectable_effect,
    t_power,
)
from grains_eval.comparison.significance import mcnemar
from grains_eval.errors import GrainsError

REPEATS = 20_000


def _near(share: float) -> float:
    return 3.5 * math.sqrt(share * (1 - share) / REPEATS)


def _t_rejections(effect: float, deviation: float, n: int) -> float:
    values = np.random.default_rng(0).normal(effect, deviation, size=(REPEATS, n))
    statistic = values.mean(axis=1) / (values.std(axis=1, ddof=1) / math.sqrt(n))
    return float(np.mean(np.abs(statistic) > stats.t.ppf(0.975, n - 1)))


@pytest.mark.parametrize(("effect", "deviation", "n"), [(0.5, 1.0, 30), (0.1, 0.4, 80), (1.0, 0.8, 6)])
def test_t_power_is_confirmed_by_simulation(effect: float, deviation: float, n: int) -> None:
    claimed = t_power(effect, deviation / math.sqrt(n), n - 1)
    assert _t_rejections(effect, deviation, n) == pytest.approx(claimed, abs=_near(claimed))


def test_minimum_detectable_effect_is_found_with_its_power() -> None:
    effect = minimum_detectable_effect(1.0 / math.sqrt(50), 49)
    assert _t_rejections(effect, 1.0, 50) == pytest.approx(0.8, abs=_near(0.8))


@pytest.mark.parametrize("freedom", [1, 2, 5, 100, 15_000])
def test_minimum_detectable_effect_inverts_the_power(freedom: int) -> None:
    effect = minimum_detectable_effect(0.01, freedom, power=0.9)
    assert t_power(effect, 0.01, freedom) == pytest.approx(0.9, abs=1e-6)


def test_items_needed_is_statsmodels_and_the_smallest() -> None:
    n = items_needed(0.1, 0.45)
    theirs = TTestPower().solve_power(effect_size=0.1 / 0.45, alpha=0.05, power=0.8)
    assert n == math.ceil(theirs)
    assert t_power(0.1, 0.45 / math.sqrt(n - 1), n - 2) < 0.8


def test_items_needed_grows_with_the_design_effect() -> None:
    assert items_needed(0.1, 0.45, design_effect=3) == pytest.approx(3 * items_needed(0.1, 0.45), rel=0.02)


def _rejection_edge(changed: int) -> int:
    """The largest smaller count with which the exact test rejects; -1 where it never does."""
    return max((k for k in range(changed // 2 + 1) if mcnemar(k, changed - k) <= 0.05), default=-1)


@pytest.mark.parametrize(("helped", "harmed", "n"), [(0.15, 0.05, 120), (0.3, 0.1, 40), (0.02, 0.005, 500)])
def test_mcnemar_power_is_confirmed_by_simulation(helped: float, harmed: float, n: int) -> None:
    claimed = mcnemar_power(helped, harmed, n)
    counts = np.random.default_rng(1).multinomial(n, [helped, harmed, 1 - helped - harmed], size=REPEATS)
    changed = counts[:, 0] + counts[:, 1]
    edges = np.array([_rejection_edge(m) for m in range(changed.max() + 1)])
    rejected = np.minimum(counts[:, 0], counts[:, 1]) <= edges[changed]
    assert float(rejected.mean()) == pytest.approx(claimed, abs=_near(claimed))


def test_mcnemar_power_by_hand() -> None:
    # six items, all change: rejected only at 6:0 or 0:6, 2 / 2^6 under no effect
    assert mcnemar_power(0.5, 0.5, 6) == pytest.approx(2 / 64, rel=1e-9)


def test_mcnemar_items_needed_reaches_its_power() -> None:
    n = mcnemar_items_needed(0.15, 0.05)
    assert mcnemar_power(0.15, 0.05, n) >= 0.8
    # The exact test's power moves in steps; a fifth fewer items are too few.
    assert mcnemar_power(0.15, 0.05, round(0.8 * n)) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("helped", "harmed", "n", "alpha"), [(0.2, 0.1, 37, 0.05), (0.01, 0.03, 900, 0.01)])
def test_mcnemar_power_is_the_sum_over_all_tables(helped: float, harmed: float, n: int, alpha: float) -> None:
    total = 0.0
    for changed in range(1, n + 1):
        rejected = [k for k in range(changed + 1) if mcnemar(k, changed - k) <= alpha]
        within = stats.binom.pmf(rejected, changed, helped / (helped + harmed)).sum()
        total += stats.binom.pmf(changed, n, helped + harmed) * within
    assert mcnemar_power(helped, harmed, n, alpha=alpha) == pytest.approx(total, abs=1e-9)


def test_mcnemar_detectable_effect_inverts_the_power() -> None:
    effect = mcnemar_detectable_effect(0.1, 500, power=0.9)
    assert mcnemar_power((0.1 + effect) / 2, (0.1 - effect) / 2, 500) == pytest.approx(0.9, abs=1e-9)
    assert math.isnan(mcnemar_detectable_effect(0.1, 20))


def test_items_in_clusters_bring_fewer_degrees_of_freedom() -> None:
    n = items_needed(0.5, 1.0, items_per_cluster=10)
    assert n > items_needed(0.5, 1.0)
    assert t_power(0.5, 1 / math.sqrt(n), n / 10 - 1) >= 0.8 > t_power(0.5, 1 / math.sqrt(n - 1), (n - 1) / 10 - 1)


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(GrainsError, match="effect of zero"):
        items_needed(0.0, 1.0)
    with pytest.raises(GrainsError, match="no feasible number"):
        items_needed(1e-9, 1.0)
    with pytest.raises(GrainsError, match="unequal"):
        mcnemar_items_needed(0.1, 0.1)
    with pytest.raises(GrainsError, match="sum to at most 1"):
        mcnemar_power(0.8, 0.4, 10)


@pytest.mark.parametrize("freedom", [1, 2, 3, 11, 287])
def test_detectable_effects_at_extreme_levels(freedom: int) -> None:
    assert math.isnan(minimum_detectable_effect(0.01, freedom, alpha=0.8))
    assert math.isnan(minimum_detectable_effect(0.01, freedom, alpha=0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effect = minimum_detectable_effect(1.0, freedom, alpha=1e-12)
    assert effect > stats.t.isf(5e-13, freedom) / 2


@pytest.mark.parametrize(("freedom", "alpha"), [(1, 6e-4), (2, 9e-7)])
def test_power_far_out_goes_on_from_the_exact_one(freedom: int, alpha: float) -> None:
    critical = stats.t.isf(alpha / 2, freedom)
    assert critical > 1000
    exact = stats.nct.sf(critical, freedom, 0.9 * critical)
    assert t_power(0.9 * critical, 1.0, freedom, alpha=alpha) == pytest.approx(exact, rel=1e-3)


def test_edge_values() -> None:
    assert math.isnan(minimum_detectable_effect(0.0, 10))
    assert math.isnan(minimum_detectable_effect(math.nan, 0))
    assert items_needed(0.2, 0.0) == 2
    assert mcnemar_power(0.0, 0.0, 10) == 0.0


def test_betting_power_is_confirmed_by_the_test_itself() -> None:
    """Uniform differences instead of normal ones of the same spread."""
    from grains_eval.comparison.intervals import paired

    n = betting_items_needed(0.05, 0.3)
    assert items_needed(0.05, 0.3) < n < 2 * items_needed(0.05, 0.3)
    generator = np.random.default_rng(9)
    half = 0.3 * math.sqrt(3)
    found = [
        paired(np.zeros(n), generator.uniform(0.05 - half, 0.05 + half, n), reach=1.0).p <= 0.05 for _ in range(150)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)
    assert betting_detectable_effect(0.3, n) == pytest.approx(0.05, rel=0.1)
    assert math.isnan(betting_detectable_effect(0.3, 4))


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 40])
def test_a_plan_for_betting_reaches_its_power_and_not_before(alpha: float) -> None:
    n = betting_items_needed(0.05, 0.3, alpha=alpha)
    assert betting_power(0.05, 0.3, n, alpha=alpha) >= 0.8 > betting_power(0.05, 0.3, n - 1, alpha=alpha)
    effect = betting_detectable_effect(0.3, n, alpha=alpha)
    # two hundred simulated samples
    assert betting_power(effect, 0.3, n, alpha=alpha) == pytest.approx(0.8, abs=0.0051)
    # the largest effect there is, of as few items as find it, and of fewer
    few = next(k for k in range(4, 60) if betting_power(1.0, 0.0, k, alpha=alpha) >= 0.8)
    assert betting_detectable_effect(1e-9, few, alpha=alpha) <= 1.0
    assert math.isnan(betting_detectable_effect(1e-9, few - 1, alpha=alpha))
