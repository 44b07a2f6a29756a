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

from grains_eval.comparison import bootstrap
from grains_eval.comparison.clusters import cluster_sums
from grains_eval.comparison.intervals import Estimate, NoSpread, Procedure, Undecided
from grains_eval.comparison.significance import Array

RESAMPLES = 4_999
# sacrebleu scores one resample at a time.
TEXT_DRAWS = 12_000
WHOLE = 1e8
CHUNK = 2_000_000


@dataclass(frozen=True)
class CorpusMetric:
    """A corpus metric as sums and a score.

    Attributes:
        statistics: Logged items of both runs to two `[n, K]` tables (together, so that label sets agree).
        score: `[..., K]` sums to `[...]` values of the metric.
        item: `[n, K]` items' statistics to `[n]` scores of their own, for counting helped and harmed items.
        scale: What counts as a whole: 1 for F1, 100 for BLEU, 0 where nothing does.
        lowest: The smallest value of a metric that has a whole; minus infinity where its values have no bound (TER).
        most_draws: The most resamples that are drawn, so that a row takes seconds.
    """

    statistics: Callable[[Sequence[Any], Sequence[Any]], tuple[Array, Array]]
    score: Callable[[Array], Array]
    item: Callable[[Array], Array]
    scale: float = 1.0
    lowest: float = 0.0
    most_draws: int = bootstrap.MOST_DRAWS

    @property
    def reach(self) -> float:
        """The largest difference between two runs that there can be."""
        return self.scale - self.lowest if self.scale else math.inf


def compare(
    metric: CorpusMetric,
    baseline: Array,
    steered: Array,
    *,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    draws: int = RESAMPLES,
) -> Estimate:
    """Paired comparison of a corpus metric: the studentised bootstrap over items or clusters.

    A resample's standard error is that of its linearised difference (the infinitesimal jackknife; Efron 1982, The
    Jackknife, the Bootstrap and Other Resampling Plans, section 6).

    Args:
        metric: The metric.
        baseline: `[n, K]` statistics of the baseline.
        steered: `[n, K]` statistics of the other run, same items.
        clusters: `[n]` labels of items that are not independent.
        alpha: One minus the confidence level.
        seed: Seed of the resamples.
        draws: Their number.
    """
    units, index = _units(baseline.shape[0], clusters)
    groups = bootstrap.thrown_together(units, seed)
    if groups is not None:
        index = groups if index is None else groups[index]
    first, second = _summed(baseline, index), _summed(steered, index)
    whole = np.concatenate([first.sum(axis=0), second.sum(axis=0)])[None, :]
    difference = float(_difference(metric, whole)[0])
    both = np.concatenate([first, second], axis=1)
    error = float(_errors(metric, both, whole, np.ones((1, both.shape[0])))[0]) if units > 1 else math.nan
    labels = range(units) if index is None else index.tolist()
    _, shares, squares = cluster_sums(np.zeros(len(labels)), labels)
    equal = bootstrap.effective(np.zeros(shares.size), shares, squares)
    needed = bootstrap.units_needed(units, equal, bounded=False)
    moved = int(np.any(np.abs(first - second) > 1e-12 * np.abs(first).max(axis=0), axis=1).sum())
    if 0 < moved < bootstrap.FEWEST_DIFFERENT:  # resamples without them have no spread
        needed = max(needed or 0, math.ceil(units * bootstrap.FEWEST_DIFFERENT / moved))
    if moved == 0 or (needed is None and error <= 1e-12 * abs(difference)):
        needed = None
        procedure: Procedure = NoSpread(difference, units, _one_item(metric, baseline))
    elif needed is not None:
        procedure = Undecided()
    else:
        procedure = _resampled(metric, both, difference, error, min(equal, both.shape[0]) - 1, seed, draws)
    unit = "items" if clusters is None else "clusters"
    return Estimate(
        difference=difference,
        standard_error=error,
        procedure=procedure,
        test="studentised bootstrap" if clusters is None else "cluster bootstrap",
        assumption=f"{unit} are independent, and many enough for a bootstrap",
        alpha=alpha,
        clusters=None if clusters is None else units,
        units_needed=needed,
    )


def _resampled(
    metric: CorpusMetric, both: Array, difference: float, error: float, freedom: float, seed: int, draws: int
) -> bootstrap.Studentised:
    generator = np.random.default_rng(seed)
    units, width = both.shape
    deviations, errors = np.empty(draws), np.empty(draws)
    rows = max(1, CHUNK // max(units, width * width))
    for start in range(0, draws, rows):
        stop = min(start + rows, draws)
        counts = generator.multinomial(units, np.full(units, 1 / units), size=stop - start).astype(float)
        sums = counts @ both
        deviations[start:stop] = _difference(metric, sums) - difference
        errors[start:stop] = _errors(metric, both, sums, counts)
    return bootstrap.Studentised(
        difference,
        error,
        deviations,
        errors,
        freedom=freedom,
        redrawn=lambda more: _resampled(metric, both, difference, error, freedom, seed, more),
        most=metric.most_draws,
    )


def _difference(metric: CorpusMetric, sums: Array) -> Array:
    """`[R]` metric of the second half of `[R, 2K]` sums minus that of the first."""
    half = sums.shape[1] // 2
    return metric.score(sums[:, half:]) - metric.score(sums[:, :half])


def _errors(metric: CorpusMetric, both: Array, sums: Array, counts: Array) -> Array:
    """`[R]` standard errors of the difference at `[R, 2K]` sums of `[U, 2K]` statistics, drawn `[R, U]` times."""
    half = both.shape[1] // 2
    gradients = np.concatenate([-_gradient(metric, sums[:, :half]), _gradient(metric, sums[:, half:])], axis=1)
    # Metrics are functions of ratios of sums, so that influences add up to zero.
    influence = gradients @ both.T
    units = both.shape[0]
    return np.sqrt(units / (units - 1) * np.sum(counts * influence**2, axis=1))


def _gradient(metric: CorpusMetric, sums: Array) -> Array:
    """`[R, K]` derivatives of the metric at `[R, K]` sums, by central differences."""
    # A statistic that sums to zero is zero in every item, so that its derivative does not matter.
    steps = 1e-5 * np.abs(sums)
    shifts = steps[..., None] * np.eye(sums.shape[1])
    ends = [metric.score(sums[:, None, :] + side * shifts) for side in (1, -1)]
    return (ends[0] - ends[1]) / (2 * np.where(steps == 0, 1.0, steps))


def _one_item(metric: CorpusMetric, table: Array) -> float:
    """How far one item can plausibly move: the whole range, or that of the items' own scores."""
    return metric.reach if math.isfinite(metric.reach) else max(float(np.ptp(metric.item(table))), metric.scale)


def _units(items: int, clusters: Sequence[Hashable] | None) -> tuple[int, NDArray[np.intp] | None]:
    if clusters is None:
        return items, None
    labels: dict[Hashable, int] = {}
    index = np.array([labels.setdefault(label, len(labels)) for label in clusters], dtype=np.intp)
    return len(labels), index


def _summed(table: Array, index: NDArray[np.intp] | None) -> Array:
    if index is None:
        return table.astype(float)
    return np.stack([bootstrap.summed(column, index) for column in table.T], axis=1)


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

    def score(sums: Array, by: Any = scorer) -> Array:
        # Scores are of ratios. sacrebleu cuts lengths to whole numbers, which would spoil their derivatives.
        rows = (sums.reshape(-1, sums.shape[-1]) * WHOLE).tolist()
        return np.array([by._compute_score_from_stats(row).score for row in rows]).reshape(sums.shape[:-1])

    return CorpusMetric(
        statistics=lambda a, b: (table(a), table(b)),
        score=score,
        item=lambda table: score(table, single),
        scale=100.0,
        lowest=-math.inf if kind == "ter" else 0.0,
        most_draws=TEXT_DRAWS,
    )


# Classification metrics over [gold, predicted] items.


def _matthews_counts(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    """Columns: right answers, items, items of each label, and answers of each label."""
    labels = _labels(first, second)

    def table(items: Sequence[Any]) -> Array:
        gold, predicted = _one_hot(items, labels, 0), _one_hot(items, labels, 1)
        right = np.sum(gold * predicted, axis=1)
        return np.column_stack([right, np.ones(len(items)), gold, predicted])

    return table(first), table(second)


def _recall_counts(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    """Columns: right answers of each label, and items of each label."""
    labels = _labels(first, second)

    def table(items: Sequence[Any]) -> Array:
        gold, predicted = _one_hot(items, labels, 0), _one_hot(items, labels, 1)
        return np.column_stack([gold * predicted, gold])

    return table(first), table(second)


def _labels(first: Sequence[Any], second: Sequence[Any]) -> dict[str, int]:
    return {label: i for i, label in enumerate(sorted({repr(x) for item in [*first, *second] for x in item}))}


def _one_hot(items: Sequence[Any], labels: Mapping[str, int], place: int) -> Array:
    rows = np.zeros((len(items), len(labels)))
    rows[np.arange(len(items)), [labels[repr(item[place])] for item in items]] = 1
    return rows


def _binary_counts(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    def table(items: Sequence[Any]) -> Array:
        rows = [(g == 1 and p == 1, g != 1 and p == 1, g == 1 and p != 1, g == p) for g, p in items]
        return np.array(rows, dtype=float)

    return table(first), table(second)


def _f1(sums: Array) -> Array:
    true, false_positive, false_negative = sums[..., 0], sums[..., 1], sums[..., 2]
    return _over(2 * true, 2 * true + false_positive + false_negative)


def _matthews(sums: Array) -> Array:
    correct, n, rest = sums[..., 0], sums[..., 1], sums[..., 2:]
    gold, predicted = np.split(rest, 2, axis=-1)
    spread = (n**2 - np.sum(predicted**2, axis=-1)) * (n**2 - np.sum(gold**2, axis=-1))
    return _over(correct * n - np.sum(gold * predicted, axis=-1), np.sqrt(np.maximum(spread, 0.0)))


def _balanced(sums: Array) -> Array:
    """Mean recall over the classes that occur."""
    right, gold = np.split(sums, 2, axis=-1)
    return _over(np.sum(_over(right, gold), axis=-1), np.sum(gold > 0, axis=-1).astype(float))


def _over(top: Array, bottom: Array) -> Array:
    """A quotient; 0 where nothing is divided."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


# Likelihood metrics over log-likelihoods, or over [log-likelihood, weight] items.


def _columns(first: Sequence[Any], second: Sequence[Any]) -> tuple[Array, Array]:
    def table(items: Sequence[Any]) -> Array:
        rows = np.array(items, dtype=float)
        return rows if rows.ndim == 2 else np.column_stack([rows, np.ones(rows.size)])

    return table(first), table(second)


def _perplexity(sums: Array) -> Array:
    return np.exp(np.minimum(-sums[..., 0] / sums[..., 1], 700.0))


def _bits(sums: Array) -> Array:
    return -sums[..., 0] / sums[..., 1] / math.log(2)


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


def _ratio(sums: Array) -> Array:
    return sums[..., 0] / sums[..., 1]


def corpus_metric(aggregation: str) -> CorpusMetric | None:
    """The corpus metric of lm-eval's aggregation of this name, None where there is none here."""
    if aggregation in ("bleu", "chrf", "chrf++", "ter"):
        return _text_metric(aggregation)
    return CORPUS_METRICS.get(aggregation)


CORPUS_METRICS: Mapping[str, CorpusMetric] = {
    "f1": CorpusMetric(_binary_counts, _f1, lambda table: table[:, 3]),
    "matthews_corrcoef": CorpusMetric(_matthews_counts, _matthews, lambda table: table[:, 0], lowest=-1.0),
    "balanced_accuracy": CorpusMetric(
        _recall_counts, _balanced, lambda table: table[:, : table.shape[1] // 2].sum(axis=1)
    ),
    "perplexity": CorpusMetric(_columns, _perplexity, _perplexity, 0.0),
    "weighted_perplexity": CorpusMetric(_columns, _perplexity, _perplexity, 0.0),
    "bits_per_byte": CorpusMetric(_columns, _bits, _bits, 0.0),
    "brier_score": CorpusMetric(_brier, _ratio, _ratio, 0.0),
}


def numbers(items: Sequence[Any]) -> Array | None:
    """Per-item scores as floats, None where an item is not a finite number."""
    try:
        values = np.array([float(item) for item in items], dtype=float)
    except (TypeError, ValueError, OverflowError):
        return None
    return values if bool(np.all(np.isfinite(values))) else None
