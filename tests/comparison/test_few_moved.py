"""Where few clusters or items differ, resamples without them have no spread: the bootstrap must not be asked."""

import math

import numpy as np
import pytest

from grains_eval.comparison import corpus_metrics as corpus
from grains_eval.comparison import intervals as statistics
from grains_eval.comparison.item_metrics import corpus_metric

CLUSTERS = [item // 3 for item in range(96)]


def test_two_items_of_two_clusters_are_no_finding() -> None:
    after = np.zeros(96)
    after[[3, 50]] = 1
    found = statistics.paired(np.zeros(96), after, clusters=CLUSTERS)
    assert found.test == "betting over clusters" and found.clusters == 32 and found.guaranteed
    assert found.p > 0.4 and found.interval[0] < 0 < found.interval[1] < 0.2


def test_without_bounds_the_row_asks_for_more_clusters() -> None:
    after = np.zeros(96)
    after[[3, 50, 90]] = 5
    found = statistics.paired(np.zeros(96), after, clusters=CLUSTERS)
    assert math.isnan(found.p) and found.units_needed == 86  # 3 of 32 differ: 8 would among 86


def test_many_clusters_that_differ_take_the_bootstrap() -> None:
    after = (np.random.default_rng(0).random(96) < 0.4) * 1.0
    assert statistics.paired(np.zeros(96), after, clusters=CLUSTERS).test == "cluster bootstrap"


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
