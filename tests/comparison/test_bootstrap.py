"""The studentised bootstrap: resolution among many rows, units that it takes, and what is said where nothing moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from grains_eval.comparison import bootstrap
from grains_eval.comparison import corpus_metrics as corpus
from grains_eval.comparison import intervals as statistics
from grains_eval.comparison.estimates import Row, adjust
from grains_eval.comparison.intervals import NoSpread, paired
from grains_eval.comparison.item_metrics import corpus_metric
from grains_eval.comparison.verdict import answer
from grains_eval.report.formatting import procedure
from grains_eval.report.headline import headline
from grains_eval.types import Comparison


def _row(shift: float, seed: int, n: int = 80, **changes: Any) -> Row:
    """A row of a score without bounds, before adjustment."""
    values = np.random.default_rng(seed).normal(shift, 1, n)
    found = paired(np.zeros(n), values)
    comparison = Comparison(
        task=f"task {seed}", metric="score", n=n, baseline=0.0, steered=found.difference, difference=found.difference,
        standard_error=found.standard_error, interval=found.interval, p=found.p, adjusted_p=math.nan, test=found.test,
        helped=1, harmed=1, unchanged=0, method="grains", scale=0.0, assumption=found.assumption,
    )  # fmt: skip
    return Row(replace(comparison, **changes), (), found.procedure)


@pytest.mark.parametrize("rows", [250, 1_000])
def test_an_overwhelming_row_is_better_among_as_many_rows_as_there_are(rows: int) -> None:
    null = _row(0.0, 1)
    first, *_ = adjust([_row(1.5, 2), *[null] * (rows - 1)])
    found = first.comparison
    assert found.p < 0.05 / rows and found.adjusted_p < 0.05
    assert answer(found, 0.05) == "better" and found.most_rows is None
    # p and interval are those of the same resamples
    assert found.p == statistics.two_sided(first.procedure) and found.interval == first.procedure.interval(0.05)


def test_only_rows_that_more_resamples_can_help_are_drawn_again() -> None:
    null = _row(0.0, 1)
    made = adjust([null] * 300)
    assert all(row.procedure is null.procedure for row in made)
    assert null.procedure.resolved(0.05) is null.procedure  # type: ignore[attr-defined]
    clear = _row(1.5, 2).procedure
    assert isinstance(clear, bootstrap.Studentised)
    assert clear.resolved(0.05 / 50) is clear
    assert clear.resolved(0.05 / 51).smallest_p == pytest.approx(2 / 10_200)


def test_with_the_most_resamples_the_row_says_among_how_many_rows_it_could_be_told() -> None:
    clear = _row(1.5, 2)
    assert isinstance(clear.procedure, bootstrap.Studentised)
    few = replace(clear, procedure=replace(clear.procedure, most=9_999))
    null = _row(0.0, 1)
    among = [adjust([few, *[null] * (rows - 1)])[0].comparison for rows in (249, 250)]
    assert [answer(row, 0.05) for row in among] == ["better", "no verdict"]
    others = adjust([few, *[null] * 249])[1:]
    assert {answer(row.comparison, 0.05) for row in others} == {"not shown"}  # more resamples would not show them
    assert among[1].most_rows == 249
    why = (
        "resamples give no p below 0.0002, which shows nothing among more than 249 rows; restrict the table with "
        "tasks or metrics"
    )
    assert headline([among[1]], [], 0.05).startswith("grains: no verdict on task 2 score, +1.5")
    assert why in headline([among[1]], [], 0.05)
    assert procedure(among[1]).endswith(f"no verdict is possible, {why}")


def test_tails_and_edges_by_hand() -> None:
    """Ratios -9 to 9: a ratio as far out as the observed one counts, and so does the sample itself."""
    deviations = np.arange(-9.0, 10.0)
    made = bootstrap.Studentised(8.0, 1.0, deviations, np.ones(19), 1e9, lambda more: made)
    assert made.tails(0.0) == (3 / 20, pytest.approx(1.0))  # of the far side Student's t is surer
    assert made.tails(16.0) == (pytest.approx(1.0), 3 / 20)
    # half of a level of .3 is three of twenty: as far out as 8 is rejected, and 7 is not
    assert made.interval(0.3) == (8.0 - 7.0, 8.0 + 7.0)
    assert (made.tails(0.99)[0], made.tails(1.0)[0]) == (3 / 20, 4 / 20)
    assert made.interval(0.05) == (-math.inf, math.inf) and math.isnan(made.detectable(0.05, 0.8))
    assert made.smallest_p == 0.1


def test_resamples_within_their_bound_take_seconds() -> None:
    """Few items or many, 10 s a row at the most; sacrebleu's metrics draw fewer."""
    assert bootstrap.MOST_DRAWS * bootstrap.MOST_UNITS <= 2e8
    for name in ("bleu", "chrf", "chrf++", "ter"):
        metric = corpus_metric(name)
        assert metric is not None and metric.most_draws == corpus.TEXT_DRAWS < bootstrap.MOST_DRAWS


def test_p_and_interval_are_no_narrower_than_students() -> None:
    """A tail to one side makes the bootstrap short on the other, where it errs above its level."""
    for values in (
        1 - np.random.default_rng(3).exponential(size=60),
        np.random.default_rng(4).exponential(size=60) - 1,
    ):
        found = bootstrap.of_mean(values / 60, np.full(60, 1 / 60), seed=0)
        theirs = stats.ttest_1samp(values, 0.0)
        low, high = theirs.confidence_interval(0.95)
        mine = found.interval(0.05)
        assert mine[0] <= low + 1e-9 and mine[1] >= high - 1e-9
        assert min(mine[0] - low, high - mine[1]) < -0.01  # longer towards the tail
        assert 2 * min(found.tails(0.0)) >= theirs.pvalue - 1e-9


@pytest.mark.parametrize(
    ("case", "units"),
    [
        ("no bounds, lognormal", bootstrap.FEWEST_UNBOUNDED),
        ("word perplexity, skewed", bootstrap.FEWEST_UNBOUNDED),
        ("equal clusters, skewed", bootstrap.FEWEST_UNITS),
        ("unequal clusters, normal", 40),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_fewest_units_that_get_a_verdict_err_in_five_per_cent(case: str, units: int, seed: int) -> None:
    repeats = 1_200
    found = coverage.ERRORS[case](units, repeats, np.random.default_rng([seed, units]))
    assert found.silent == 0
    assert max(found.kept, found.rejected) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_fewer_get_none() -> None:
    generator = np.random.default_rng(0)
    few = paired(np.zeros(59), generator.normal(5, 1, 59))
    assert math.isnan(few.p) and few.units_needed == 60
    assert paired(np.zeros(60), generator.normal(5, 1, 60)).units_needed is None
    # clusters of bounded scores have shorter tails than those of others
    labels = [item // 2 for item in range(60)]
    scores = generator.random(60)
    assert paired(np.zeros(60), scores, clusters=labels).units_needed is None
    assert paired(np.zeros(60), 9 * scores, clusters=labels).units_needed == 60
    metric = corpus_metric("perplexity")
    assert metric is not None
    for n, needed in ((59, 60), (60, None)):
        tables = metric.statistics((-generator.random(n)).tolist(), (-generator.random(n)).tolist())
        assert corpus.compare(metric, *tables).units_needed == needed


SAME: dict[str, Callable[[int], statistics.Estimate]] = {
    "0/1": lambda n: paired([1.0] * n, [1.0] * n),
    "bounded": lambda n: paired([0.3] * n, [0.3] * n),
    "weighted": lambda n: paired([0.3] * n, [0.3] * n, weights=list(range(1, n + 1))),
    "clusters": lambda n: paired([0.3] * n, [0.3] * n, clusters=list(range(n))),
    "one cluster": lambda n: paired([0.3] * n, [0.3] * n, clusters=["a"] * n),
    "no bounds": lambda n: paired(list(range(5, n + 5)), list(range(5, n + 5))),
    "no bounds, alike": lambda n: paired([7.0] * n, [7.0] * n),
    "no bounds, clusters": lambda n: paired([7.0] * n, [7.0] * n, clusters=list(range(n))),
}


@pytest.mark.parametrize("n", [1, 4, 12, 100])
@pytest.mark.parametrize("name", SAME)
def test_a_run_against_itself_has_p_of_one(name: str, n: int) -> None:
    found = SAME[name](n)
    low, high = found.interval
    assert found.p == 1 and found.difference == 0 and found.units_needed is None
    assert low < 0 < high and low == pytest.approx(-high)


@pytest.mark.parametrize("name", ["bleu", "ter", "perplexity", "brier_score", "f1"])
def test_a_corpus_against_itself_has_p_of_one(name: str) -> None:
    metric = corpus_metric(name)
    assert metric is not None
    items: dict[str, list[Any]] = {
        "bleu": [[["a b c d"], "a b c e"]],
        "ter": [[["a b c d"], "a b c d"]],
        "perplexity": [-1.0, -2.0],
        "brier_score": [[0, [0.7, 0.3]], [1, [0.2, 0.8]]],
        "f1": [[1, 1], [0, 1]],
    }
    for times in (2, 6):
        tables = metric.statistics(items[name] * times, items[name] * times)
        for clusters in (None, ["a"] * (times * len(items[name]))):
            found = corpus.compare(metric, *tables, clusters=clusters)
            assert found.p == 1 and found.interval[0] < 0 < found.interval[1]


def test_units_that_all_changed_alike_say_how_rare_others_can_be() -> None:
    """Three clusters of which each gained .5: a mean of zero or less lets them do so with at most (1 / 1.5)^3."""
    found = paired([0.0] * 6, [0.5] * 6, clusters=[0, 0, 1, 1, 2, 2])
    assert found.procedure.tails(0.0) == (pytest.approx((1 / 1.5) ** 3), 1.0)
    assert found.procedure.tails(0.6) == (1.0, pytest.approx((0.4 / 0.5) ** 3))
    low, high = found.interval
    for end, side in ((low, 0), (high, 1)):
        assert found.procedure.tails(end)[side] == pytest.approx(0.025)
    assert (found.test, found.guaranteed, found.clusters) == ("binomial bound", True, 3)
    assert "clusters are independent and scores have bounds" in found.assumption
    # clusters of other sizes weigh otherwise, and the bound is then no guarantee
    assert not paired([0.0] * 6, [0.5] * 6, clusters=[0, 0, 0, 1, 1, 2]).guaranteed
    # without bounds nothing is known of what others do
    assert math.isnan(paired([0.0] * 6, [5.0] * 6, clusters=[0, 0, 1, 1, 2, 2]).p)


def test_the_bound_is_wrong_no_more_often_than_promised() -> None:
    """Changes of two kinds whose mean is zero: all of one kind in a sample is rejected as often as its level."""
    generator = np.random.default_rng(0)
    for n, gain in ((3, 0.2), (8, 0.02), (20, 0.1)):
        chance = 1 / (1 + gain)  # the rest loses all
        same = generator.binomial(n, chance, 20_000) == n
        p = NoSpread(gain, n, 1.0).tails(0.0)[0]
        assert p == pytest.approx(chance**n)
        assert np.mean(same) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 20_000))


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrf++", "ter", "f1", "matthews_corrcoef", "perplexity"])
def test_standard_errors_of_corpus_metrics_are_the_jackknifes(name: str) -> None:
    metric = corpus_metric(name)
    assert metric is not None
    generator = np.random.default_rng(4)
    if name in ("bleu", "chrf", "chrf++", "ter"):
        words = np.array(["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "one", "big", "red", "house"])
        items = [words[generator.integers(0, 13, generator.integers(6, 12))] for _ in range(150)]
        sides = [
            [[[" ".join(item)], " ".join(np.where(generator.random(item.size) < share, item, "no"))] for item in items]
            for share in (0.6, 0.7)
        ]
    elif name == "perplexity":
        sides = [(-generator.exponential(size=150)).tolist() for _ in range(2)]
    else:
        gold = generator.integers(0, 2, 150)
        sides = [[[int(g), int(abs(g - (generator.random() < wrong)))] for g in gold] for wrong in (0.3, 0.2)]
    first, second = metric.statistics(*sides)
    before, after = first.sum(axis=0), second.sum(axis=0)
    left_out = metric.score(after - second) - metric.score(before - first)
    error = math.sqrt(149 / 150 * float(np.sum(np.square(left_out - left_out.mean()))))
    assert corpus.compare(metric, first, second, draws=9).standard_error == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (lambda g: g.normal(size=60), 1),
        (lambda g: g.normal(size=60), 40),
        (lambda g: g.random(80) * 5 - 2.5, 40),
        (lambda g: g.exponential(size=100) - 1, 1),
    ],
)
def test_detectable_effects_are_found_with_their_power(draw: Callable, rows: int) -> None:
    """As for betting: each sample's own effect, in fresh samples of the sign that is harder to find.

    Not so for skewed scores at Holm's first step, where resamples say too little of other samples' tails.
    """
    level, found = 0.05 / rows, {1: [], -1: []}
    for seed in range(25):
        generator = np.random.default_rng([seed, rows])
        values = draw(generator)
        effect = paired(np.zeros(values.size), values, reach=math.inf).procedure.detectable(level, 0.8)
        for sign, hits in found.items():
            for _ in range(8):
                fresh = draw(generator) + sign * effect
                made = bootstrap.of_mean(fresh / fresh.size, np.full(fresh.size, 1 / fresh.size), 0, 3_999)
                hits.append(2 * min(made.tails(0.0)) <= level)
    assert min(np.mean(hits) for hits in found.values()) == pytest.approx(0.8, abs=3 * math.hypot(0.028, 0.028))


CLUSTERS = [item // 3 for item in range(96)]


def test_two_items_of_two_clusters_are_no_finding() -> None:
    after = np.zeros(96)
    after[[3, 50]] = 1
    found = paired(np.zeros(96), after, clusters=CLUSTERS)
    assert found.test == "betting over clusters" and found.clusters == 32 and found.guaranteed
    assert found.p > 0.4 and found.interval[0] < 0 < found.interval[1] < 0.2


def test_without_bounds_the_row_asks_for_more_clusters() -> None:
    after = np.zeros(96)
    after[[3, 50, 90]] = 5
    found = paired(np.zeros(96), after, clusters=CLUSTERS)
    assert math.isnan(found.p) and found.units_needed == 86  # 3 of 32 differ: 8 would among 86


def test_many_clusters_that_differ_take_the_bootstrap() -> None:
    after = (np.random.default_rng(0).random(96) < 0.4) * 1.0
    assert paired(np.zeros(96), after, clusters=CLUSTERS).test == "cluster bootstrap"


@pytest.mark.parametrize("name", ["f1", "matthews_corrcoef", "balanced_accuracy", "bleu", "chrf"])
def test_identical_runs_of_a_corpus_metric_are_not_known_exactly(name: str) -> None:
    metric = corpus_metric(name)
    assert metric is not None
    words = [["a b c d e", "a b c d f"], ["g h i j", "g h i k"]] * 15
    pairs = (
        [[[left], right] for left, right in words]
        if name in ("bleu", "chrf")
        else [[n % 2, n % 3 % 2] for n in range(30)]
    )
    found = corpus.compare(metric, *metric.statistics(pairs, pairs))
    assert found.difference == 0 and found.interval[0] < 0 < found.interval[1] and found.p == 1


def test_a_corpus_metric_counts_unequal_clusters_for_what_they_say() -> None:
    metric = corpus_metric("f1")
    assert metric is not None
    generator = np.random.default_rng(1)
    clusters = [max(0, item - 399) for item in range(430)]  # one of 400 items, thirty of one
    before = [[int(generator.random() < 0.5), int(generator.random() < 0.5)] for _ in clusters]
    after = [[gold, int(generator.random() < 0.5)] for gold, _ in before]
    found = corpus.compare(metric, *metric.statistics(before, after), clusters=clusters)
    assert found.clusters == 31 and math.isnan(found.p) and (found.units_needed or 0) > 31


def ceiling(rate: float, repeats: int) -> float:
    """The rate plus three Monte Carlo standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / repeats)


def test_the_cluster_bootstrap_follows_skewness() -> None:
    """Twenty clusters, the fewest that get a verdict: wrong less often than 5 %, and than the t interval."""
    repeats = 600
    values = 1 - np.random.default_rng(5).exponential(size=(repeats, 20))
    ours, theirs = coverage.by_bootstrap(values, 0.0), coverage.by_t(values, 0.0)
    assert ours.kept <= ceiling(0.05, repeats)
    assert ours.kept < 0.75 * theirs.kept


def test_the_bootstrap_of_normal_means_is_near_student() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 60)
    found = bootstrap.of_mean(values / 60, np.full(60, 1 / 60), seed=0)
    theirs = stats.ttest_1samp(values, 0.0)
    assert isinstance(found, bootstrap.Studentised)
    assert 2 * min(found.tails(0.0)) == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.interval(0.05) == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=0.06)


def test_resamples_of_unequal_clusters_leave_each_out_with_its_weight() -> None:
    generator = np.random.default_rng(2)
    shares = generator.uniform(1, 5, 9)
    shares /= shares.sum()
    means = generator.normal(size=9)
    made = bootstrap.of_mean(shares * means, shares, seed=3, draws=4)
    drawn = np.random.default_rng(3).integers(0, 9, size=(4, 9), dtype=np.int32)
    for row, deviation, error in zip(drawn, made.deviations, made.errors, strict=True):
        whole = np.average(means[row], weights=shares[row])
        left_out = [np.average(np.delete(means[row], g), weights=np.delete(shares[row], g)) for g in range(9)]
        assert deviation == pytest.approx(whole - shares @ means)
        assert error == pytest.approx(math.sqrt(8 / 9 * np.sum(np.square(np.array(left_out) - whole))))
