"""Error rates that procedures promise, on simulated data with fixed seeds; `benchmarks.coverage` has all cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import coverage
from grains_eval.comparison.intervals import BinaryPairs, Procedure, paired

GUARANTEED = [
    "graded, rare collapse, others jitter",
    "graded, rare collapse, others tied",
    "0/1, rare collapse",
    "0/1, churn",
    "8 preserved tasks, any",
]


def ceiling(rate: float, repeats: int) -> float:
    """The rate plus three Monte Carlo standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / repeats)


@pytest.mark.parametrize("case", GUARANTEED)
@pytest.mark.parametrize("n", [100, 400])
def test_guarantees_hold(case: str, n: int) -> None:
    repeats = 200 if case.startswith("8") else 1_000
    found = coverage.ERRORS[case](n, repeats, np.random.default_rng(11))
    assert found.kept <= ceiling(0.025, repeats)
    assert math.isnan(found.rejected) or found.rejected <= ceiling(0.05, repeats)


def test_the_simulation_can_fail() -> None:
    """The t interval calls rare collapse kept ten times too often, on the same data."""
    found = coverage.by_t(coverage.collapse(100, 1_000, np.random.default_rng(11), jitter=0.02), -0.01)
    assert found.kept > 0.2


def test_too_few_clusters_get_no_verdict_and_enough_do() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.05, (20, 5))
    few = paired(np.zeros(100), values.ravel(), clusters=[i % 5 for i in range(100)])
    assert math.isnan(few.p) and math.isnan(few.interval[0]) and few.units_needed == 20
    enough = paired(np.zeros(240), np.resize(values, 240), clusters=[i % 20 for i in range(240)])
    assert enough.units_needed is None and enough.p < 0.05
    # one cluster that holds most items leaves few that count
    labels = [0] * 200 + list(range(1, 21))
    one = paired(np.zeros(220), np.random.default_rng(1).normal(1, 1, 220), clusters=labels)
    assert one.units_needed is not None and one.units_needed > 21


def _procedures() -> list[Procedure]:
    generator = np.random.default_rng(3)
    made: list[Procedure] = []
    for shift in np.linspace(-0.2, 0.2, 9):
        n = int(generator.integers(60, 200))
        first, second = generator.random(n), np.clip(generator.random(n) + shift, 0, 1)
        made.append(paired(first, second).procedure)
        made.append(paired((first < 0.5) * 1.0, (second < 0.5) * 1.0).procedure)
        made.append(paired(first, second, clusters=[i % 25 for i in range(n)]).procedure)
        made.append(paired(first * 9, second * 9).procedure)
    made.extend(BinaryPairs(helped, harmed, 60) for helped in range(14) for harmed in range(8))
    return made


def test_p_and_interval_never_disagree() -> None:
    """An interval holds zero where, and only where, the test of zero does not reject; at every level."""
    seen = {True: 0, False: 0}
    for procedure in _procedures():
        for level in (0.2, 0.05, 0.005):
            low, high = procedure.interval(level)
            rejected = 2 * min(procedure.tails(0.0)) <= level
            inside = low < 0 < high
            assert inside is not rejected, (procedure, level, low, high)
            seen[rejected] += 1
    assert min(seen.values()) > 50


def test_tails_are_monotone_and_their_interval_is_their_inversion() -> None:
    for procedure in _procedures()[:36]:
        low, high = procedure.interval(0.05)
        reach = max(1.0, high - low)
        values = np.linspace(low - reach / 4, high + reach / 4, 25)
        above, below = np.array([procedure.tails(float(v)) for v in values]).T
        assert np.all(np.diff(above) >= -1e-9) and np.all(np.diff(below) <= 1e-9)
        step = 1e-3 * reach
        assert procedure.tails(low - step)[0] <= 0.025 + 1e-9
        assert procedure.tails(high + step)[1] <= 0.025 + 1e-9


def test_detectable_effects_of_counts_are_found_with_their_power() -> None:
    procedure, level = BinaryPairs(30, 30, 1_000), 0.05 / 40
    effect = procedure.detectable(level, 0.8)
    shares = [0.03 + effect / 2, 0.03 - effect / 2]
    counts = np.random.default_rng(6).multinomial(1_000, [*shares, 1 - sum(shares)], size=1_000)
    found = [2 * min(BinaryPairs(int(a), int(b), 1_000).tails(0.0)) <= level for a, b, _ in counts]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    # where nothing changed, an effect is found that changes items one way
    still = BinaryPairs(0, 0, 1_000).detectable(0.05, 0.8)
    assert 6 / 1_000 < still < 9 / 1_000


def test_a_hundred_thousand_items_stay_within_memory() -> None:
    """Peaks of one row of a bounded metric and of a corpus metric, at a size that tests afford."""
    import tracemalloc

    from grains_eval.comparison import corpus_metrics as corpus

    generator = np.random.default_rng(0)
    n = 20_000
    metric = corpus.CORPUS_METRICS["matthews_corrcoef"]
    gold = generator.integers(0, 10, n)
    guesses = [np.where(generator.random(n) < share, gold, 0) for share in (0.7, 0.75)]
    sides = [list(zip(gold.tolist(), guess.tolist(), strict=True)) for guess in guesses]
    tracemalloc.start()
    corpus.compare(metric, *metric.statistics(*sides)).p  # noqa: B018
    paired(generator.random(n), generator.random(n)).interval  # noqa: B018
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e8


def test_weighted_items_are_no_coins() -> None:
    """McNemar's test counts items; where some weigh more it would test another difference than the one reported."""
    before, after = [0.0] * 30 + [1.0] * 30, [1.0] * 15 + [0.0] * 15 + [1.0] * 30
    heavy = paired(before, after, weights=[5.0] * 10 + [1.0] * 50)
    assert heavy.test == "betting" and heavy.difference == pytest.approx(55 / 100)
    assert paired(before, after, weights=[2.0] * 60).test == "exact McNemar"
