"""False positives and coverage on simulated paired data, with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from grains_eval.report import corpus, statistics
from grains_eval.report.statistics import paired

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, list[int] | None]]


def normal(n: int, mean: float = 0.0) -> Draw:
    return lambda g: (np.zeros(n), g.normal(mean, 1, n), None)


def heavy(n: int) -> Draw:
    return lambda g: (g.standard_t(3, n), g.standard_t(3, n), None)


def graded(n: int) -> Draw:
    """Scores with few levels, so that ties and equal differences are common."""
    return lambda g: (g.choice([0, 0.5, 1, 2], n), g.choice([0, 0.5, 1, 2], n), None)


def sparse(n: int, moved: float) -> Draw:
    """Most items tie; the others move by the same amount in either direction."""

    def draw(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        change = np.where(g.random(n) < moved, g.choice([-0.3, 0.3], n), 0)
        return np.full(n, 0.5), 0.5 + change, None

    return draw


def binary(n: int, helped: float, harmed: float) -> Draw:
    def draw(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        u = g.random(n)
        return ((u >= helped) & (u < helped + harmed)).astype(float), (u < helped).astype(float), None

    return draw


def clustered(sizes: list[int], correlation: float, mean: float = 0.0) -> Draw:
    labels = np.repeat(np.arange(len(sizes)), sizes)

    def draw(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int]]:
        shared = g.normal(size=len(sizes))[labels] * math.sqrt(correlation)
        own = g.normal(size=labels.size) * math.sqrt(1 - correlation)
        return np.zeros(labels.size), mean + shared + own, labels.tolist()

    return draw


def clustered_binary(sizes: list[int], correlation: float) -> Draw:
    labels = np.repeat(np.arange(len(sizes)), sizes)

    def draw(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int]]:
        common = g.choice([-1, 1], len(sizes))[labels]
        sign = np.where(g.random(labels.size) < correlation, common, g.choice([-1, 1], labels.size))
        change = np.where(g.random(labels.size) < 0.3, sign, 0)
        return (change < 0).astype(float), (change > 0).astype(float), labels.tolist()

    return draw


def rates(draw: Draw, repeats: int, truth: float = 0.0, seed: int = 0) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    counts = dict.fromkeys(("p", "t", "flip", "covered"), 0)
    for _ in range(repeats):
        first, second, labels = draw(generator)
        estimate = paired(first, second, clusters=labels)
        counts["p"] += estimate.p <= 0.05
        counts["t"] += estimate.t_p <= 0.05
        counts["flip"] += estimate.permutation_p <= 0.05
        counts["covered"] += estimate.interval[0] <= truth <= estimate.interval[1]
    return {name: count / repeats for name, count in counts.items()}


def ceiling(repeats: int) -> float:
    """Five per cent plus three Monte Carlo standard errors."""
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


NULLS = {
    "naive pairs": normal(60),
    "heavy tails": heavy(60),
    "tiny n = 2": normal(2),
    "tiny n = 3": normal(3),
    "tiny n = 6": normal(6),
    "tiny n = 10": normal(10),
    "graded n = 4": graded(4),
    "graded n = 8": graded(8),
    "graded n = 40": graded(40),
    "mostly ties, 4 move": sparse(500, 0.008),
    "mostly ties, 20 move": sparse(100, 0.2),
    "all ties": sparse(50, 0.0),
    "0/1, few changes": binary(200, 0.02, 0.02),
    "0/1, many changes": binary(200, 0.2, 0.2),
    "0/1, tiny n": binary(6, 0.3, 0.3),
    "clusters, equal": clustered([10] * 12, 0.3),
    "clusters, many": clustered([5] * 40, 0.3),
    "clusters, unequal": clustered(list(range(4, 30, 2)), 0.3),
    "clusters, five": clustered([8] * 5, 0.5),
    "clusters, one dominates": clustered([10] * 10 + [100], 0.3),
    "clusters, 0/1": clustered_binary([12] * 13, 0.4),
    "clusters, 0/1, unequal": clustered_binary([5] * 20 + [40] * 10, 0.4),
}


@pytest.mark.parametrize("name", NULLS)
def test_false_positive_rate(name: str) -> None:
    repeats = 1_500
    found = rates(NULLS[name], repeats)
    assert found["p"] <= ceiling(repeats)
    assert found["flip"] <= ceiling(repeats)


@pytest.fixture
def no_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals and the t test draw nothing at random, so long simulations of them need no sign flips."""
    monkeypatch.setattr(statistics, "sign_flip", lambda *_, **__: math.nan)


@pytest.mark.usefixtures("no_flips")
@pytest.mark.parametrize("n", [2, 3, 6, 10, 60])
def test_t_is_exact_on_normal_pairs(n: int) -> None:
    repeats = 3_000
    found = rates(normal(n), repeats)
    assert found["t"] == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / repeats))


@pytest.mark.usefixtures("no_flips")
def test_naive_test_of_clustered_pairs_would_be_wrong() -> None:
    """The simulation can fail: without clusters the same data reject far too often."""
    draw = clustered([10] * 12, 0.3)
    found = rates(lambda g: (*draw(g)[:2], None), 500)
    assert found["t"] > 0.2


COVERED = {
    "normal, n = 5": (normal(5, 1.0), 1.0),
    "normal, n = 60": (normal(60, 1.0), 1.0),
    "0/1, no effect": (binary(100, 0.1, 0.1), 0.0),
    "0/1, effect": (binary(100, 0.3, 0.1), 0.2),
    "0/1, n = 400": (binary(400, 0.12, 0.07), 0.05),
    "clusters, equal": (clustered([10] * 12, 0.3, 0.5), 0.5),
    "clusters, many": (clustered([5] * 40, 0.5, 0.5), 0.5),
    "clusters, unequal": (clustered(list(range(4, 30, 2)), 0.3, 0.5), 0.5),
}


@pytest.mark.usefixtures("no_flips")
@pytest.mark.parametrize("name", COVERED)
def test_interval_coverage(name: str) -> None:
    draw, truth = COVERED[name]
    assert rates(draw, 3_000, truth)["covered"] == pytest.approx(0.95, abs=0.015)


@pytest.mark.usefixtures("no_flips")
@pytest.mark.parametrize("name", ["mostly ties, 4 move", "mostly ties, 20 move", "graded n = 8", "all ties"])
def test_intervals_of_tied_data_are_not_too_short(name: str) -> None:
    assert rates(NULLS[name], 2_000)["covered"] >= 0.935


def _labels(g: np.random.Generator, n: int, right: float) -> list[tuple[int, int]]:
    gold = g.integers(0, 2, n)
    guess = np.where(g.random(n) < right, gold, 1 - gold)
    return [(int(a), int(b)) for a, b in zip(gold, guess, strict=True)]


@pytest.mark.parametrize("n", [15, 60])
def test_corpus_bootstrap_and_swaps(n: int) -> None:
    """F1: no mean over items, so bootstrap interval and random swaps."""
    metric = corpus.CORPUS_METRICS["f1"]
    generator = np.random.default_rng(0)
    repeats, rejected, covered = 600, 0, 0
    for seed in range(repeats):
        tables = metric.statistics(_labels(generator, n, 0.7), _labels(generator, n, 0.7))
        estimate = corpus.estimate(metric, *tables, seed=seed, resamples=300)
        rejected += estimate.p <= 0.05
        covered += estimate.interval[0] <= 0 <= estimate.interval[1]
    assert rejected / repeats <= ceiling(repeats)
    assert covered / repeats == pytest.approx(0.95, abs=0.015 + 2 * math.sqrt(0.05 * 0.95 / repeats))


@pytest.mark.slow
def test_bleu_bootstrap_and_swaps() -> None:
    metric = corpus.corpus_metric("bleu")
    assert metric is not None
    generator = np.random.default_rng(1)

    def table(n: int) -> np.ndarray:
        """Segment statistics as BLEU counts them: lengths, matches and totals of 1- to 4-grams."""
        lengths = generator.integers(6, 20, n)
        hits = generator.beta(2, 2, n)
        rows = np.zeros((n, 10))
        rows[:, 0], rows[:, 1] = lengths, lengths + generator.integers(-2, 3, n)
        for order in range(4):
            rows[:, 6 + order] = lengths - order
            rows[:, 2 + order] = generator.binomial(lengths - order, hits ** (order + 1))
        return rows

    repeats, rejected, covered = 800, 0, 0
    for seed in range(repeats):
        estimate = corpus.estimate(metric, table(40), table(40), seed=seed, resamples=400)
        rejected += estimate.p <= 0.05
        covered += estimate.interval[0] <= 0 <= estimate.interval[1]
    assert rejected / repeats <= ceiling(repeats)
    assert covered / repeats == pytest.approx(0.95, abs=0.015 + 2 * math.sqrt(0.05 * 0.95 / repeats))


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
def test_false_positive_rate_long(name: str) -> None:
    repeats = 8_000
    assert rates(NULLS[name], repeats, seed=1)["p"] <= ceiling(repeats)


@pytest.mark.slow
@pytest.mark.usefixtures("no_flips")
@pytest.mark.parametrize("name", COVERED)
def test_interval_coverage_long(name: str) -> None:
    draw, truth = COVERED[name]
    assert rates(draw, 20_000, truth, seed=1)["covered"] == pytest.approx(0.95, abs=0.015)
