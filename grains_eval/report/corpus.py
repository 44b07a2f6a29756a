"""Metrics of a whole corpus (BLEU, perplexity, F1): no mean over items, so resampling instead of a t test.

Every metric here is a function of sums of per-item statistics, as BLEU is of its n-gram counts; a resample
is then a sum of rows, not a new scoring of texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grains_eval.report.statistics import Array, Estimate, cautious_half_width

RESAMPLES = 2_000


@dataclass(frozen=True)
class CorpusMetric:
    """A corpus metric as sums and a score.

    Attributes:
        statistics: Logged items of both runs to two `[n, K]` tables (together, so that label sets agree).
        score: `[K]` sums to the metric.
        item: `[K]` one item's statistics to a score of its own, for counting helped and harmed items.
        scale: What counts as a whole: 1 for F1, 100 for BLEU, 0 where nothing does.
        lowest: The smallest value of a metric that has a whole; minus infinity where its values have no bound (TER).
    """

    statistics: Callable[[Sequence[Any], Sequence[Any]], tuple[Array, Array]]
    score: Callable[[Array], float]
    item: Callable[[Array], float]
    scale: float = 1.0
    lowest: float = 0.0

    @property
    def reach(self) -> float:
        """The largest difference between two runs that there can be."""
        return self.scale - self.lowest if self.scale else math.inf


def estimate(
    metric: CorpusMetric,
    baseline: Array,
    steered: Array,
    *,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Paired comparison of a corpus metric.

    Interval: percentile bootstrap over items (or clusters), widened for small samples as Hesterberg 2015 (The
    American Statistician 69, section 3.4) advises. p: items swapped between the two runs at random
    (approximate randomisation; Noreen 1989, Riezler and Maxwell 2005), exact whatever the metric.

    Args:
        metric: The metric.
        baseline: `[n, K]` statistics of the baseline.
        steered: `[n, K]` statistics of the other run, same items.
        clusters: `[n]` labels of items that are not independent.
        alpha: One minus the confidence level.
        seed: Seed of both resamplings.
        resamples: Draws of each.
    """
    first, second = _per_unit(baseline, clusters), _per_unit(steered, clusters)
    units = first.shape[0]
    generator = np.random.default_rng(seed)
    difference = metric.score(second.sum(axis=0)) - metric.score(first.sum(axis=0))

    counts = generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(float)
    boot = _scores(metric, counts @ second) - _scores(metric, counts @ first)

    swaps = generator.integers(0, 2, size=(resamples, units)).astype(float)
    moved = swaps @ (second - first)
    null = _scores(metric, second.sum(axis=0) - moved) - _scores(metric, first.sum(axis=0) + moved)
    hits = int(np.sum(np.abs(null) >= abs(difference) - 1e-12 * max(1.0, abs(difference))))
    p = (1 + hits) / (1 + resamples)

    interval, error = (math.nan, math.nan), math.nan
    if units > 1:
        tail = float(stats.norm.cdf(math.sqrt(units / (units - 1)) * stats.t.ppf(alpha / 2, units - 1)))
        low, high = np.quantile(boot, [tail, 1 - tail])
        interval = (float(low), float(high))
        if np.array_equal(first, second):  # resampling what did not move tells nothing about what can
            half = cautious_half_width(np.zeros(units), alpha, _one_item(metric, baseline))
            interval = (-min(half, metric.reach), min(half, metric.reach))
        error = float(boot.std(ddof=1) * math.sqrt(units / (units - 1)))
    return Estimate(
        difference=difference,
        standard_error=error,
        degrees_of_freedom=units - 1,
        interval=interval,
        p=p,
        test="bootstrap, random swaps" if clusters is None else "clustered bootstrap, random swaps",
        t_p=math.nan,
        permutation_p=p,
        contributions=np.array([difference]),
        clusters=None if clusters is None else units,
    )


def _one_item(metric: CorpusMetric, table: Array) -> float:
    """What one moved item could plausibly add: its share of the whole, or of the range of the items' own scores."""
    if math.isfinite(metric.reach):
        return metric.reach / table.shape[0]
    return float(np.ptp([metric.item(row) for row in table])) / table.shape[0]


def _per_unit(table: Array, clusters: Sequence[Hashable] | None) -> Array:
    if clusters is None:
        return table
    labels: dict[Hashable, int] = {}
    index = [labels.setdefault(label, len(labels)) for label in clusters]
    sums = np.zeros((len(labels), table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def _scores(metric: CorpusMetric, sums: Array) -> Array:
    return np.array([metric.score(row) for row in sums])


# Text metrics: sacrebleu's own segment statistics, which its significance tests use the same way.


def _texts(items: Sequence[Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Predictions and reference streams from lm-eval's `[references, prediction]` items."""
    references = [[item[0]] if isinstance(item[0], str) else list(item[0]) for item in items]
    predictions = [item[1] if isinstance(item[1], str) else item[1][0] for item in items]
    # lm-eval hands sacrebleu as many reference streams as the shortest list has.
    return predictions, list(zip(*references, strict=False))


def _text_metric(kind: str) -> CorpusMetric:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    scorer: Any = {"bleu": BLEU, "chrf": CHRF, "chrf++": lambda: CHRF(word_order=2), "ter": TER}[kind]()
    # A single sentence rarely has a 4-gram in common; effective order keeps its score apart from zero.
    single: Any = BLEU(effective_order=True) if kind == "bleu" else scorer

    def table(items: Sequence[Any]) -> Array:
        predictions, references = _texts(items)
        return np.array(scorer._extract_corpus_statistics(predictions, references), dtype=float)

    def score(sums: Array, by: Any = scorer) -> float:
        counts = sums.tolist() if kind == "ter" else [round(x) for x in sums.tolist()]
        return float(by._compute_score_from_stats(counts).score)

    return CorpusMetric(
        statistics=lambda a, b: (table(a), table(b)),
        score=score,
        item=lambda row: score(row, single),
        scale=100.0,
        lowest=-math.inf if kind == "ter" else 0.0,
    )


# Classification metrics over [gold, predicted] items.


def _confusions(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    labels = sorted({repr(x) for item in [*first, *second] for x in item})
    size = len(labels)

    def table(items: Sequence[Any]) -> Array:
        rows = np.zeros((len(items), size * size))
        for i, (gold, predicted) in enumerate(items):
            rows[i, labels.index(repr(gold)) * size + labels.index(repr(predicted))] = 1
        return rows

    return table(first), table(second)


def _binary_counts(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    def table(items: Sequence[Any]) -> Array:
        rows = [(g == 1 and p == 1, g != 1 and p == 1, g == 1 and p != 1, g == p) for g, p in items]
        return np.array(rows, dtype=float)

    return table(first), table(second)


def _f1(sums: Array) -> float:
    true, false_positive, false_negative = sums[:3]
    total = 2 * true + false_positive + false_negative
    return float(2 * true / total) if total else 0.0


def _matthews(sums: Array) -> float:
    size = math.isqrt(sums.size)
    table = sums.reshape(size, size)
    n, correct = table.sum(), np.trace(table)
    gold, predicted = table.sum(axis=1), table.sum(axis=0)
    spread = math.sqrt((n**2 - predicted @ predicted) * (n**2 - gold @ gold))
    return float((correct * n - gold @ predicted) / spread) if spread else 0.0


def _balanced(sums: Array) -> float:
    """Mean recall over the classes that occur."""
    size = math.isqrt(sums.size)
    table = sums.reshape(size, size)
    gold = table.sum(axis=1)
    return float(np.mean(np.diag(table)[gold > 0] / gold[gold > 0])) if gold.any() else 0.0


def _hit(row: Array) -> float:
    return float(np.trace(row.reshape(math.isqrt(row.size), -1)))


# Likelihood metrics over log-likelihoods, or over [log-likelihood, weight] items.


def _columns(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    def table(items: Sequence[Any]) -> Array:
        rows = np.array(items, dtype=float)
        return rows if rows.ndim == 2 else np.column_stack([rows, np.ones(rows.size)])

    return table(first), table(second)


def _perplexity(sums: Array) -> float:
    return math.exp(min(-sums[0] / sums[1], 700.0))


def _bits(sums: Array) -> float:
    return float(-sums[0] / sums[1] / math.log(2))


def _brier(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    def table(items: Sequence[Any]) -> Array:
        rows: list[tuple[float, float]] = []
        for gold, logged in items:
            # lm-eval logs an array as its text, "[0.1 0.9]".
            probabilities = logged.strip("[]").split() if isinstance(logged, str) else logged
            wanted: NDArray[np.float64] = np.zeros(len(probabilities))
            wanted[int(gold)] = 1
            rows.append((float(np.sum((np.asarray(probabilities, dtype=float) - wanted) ** 2)), 1.0))
        return np.array(rows)

    return table(first), table(second)


def _ratio(sums: Array) -> float:
    return float(sums[0] / sums[1])


def corpus_metric(aggregation: str) -> CorpusMetric | None:
    """The corpus metric of lm-eval's aggregation of this name, None where there is none here."""
    if aggregation in ("bleu", "chrf", "chrf++", "ter"):
        return _text_metric(aggregation)
    return CORPUS_METRICS.get(aggregation)


CORPUS_METRICS: Mapping[str, CorpusMetric] = {
    "f1": CorpusMetric(_binary_counts, _f1, lambda row: float(row[3])),
    "matthews_corrcoef": CorpusMetric(_confusions, _matthews, _hit, lowest=-1.0),
    "balanced_accuracy": CorpusMetric(_confusions, _balanced, _hit),
    "perplexity": CorpusMetric(_columns, _perplexity, _perplexity, 0.0),
    "weighted_perplexity": CorpusMetric(_columns, _perplexity, _perplexity, 0.0),
    "bits_per_byte": CorpusMetric(_columns, _bits, _bits, 0.0),
    "brier_score": CorpusMetric(_brier, _ratio, _ratio, 0.0),
}


def numbers(items: Sequence[Any]) -> Array | None:
    """Per-item scores as floats, None where an item is no finite number."""
    try:
        values = np.array([float(item) for item in items], dtype=float)
    except (TypeError, ValueError):
        return None
    return values if bool(np.all(np.isfinite(values))) else None
