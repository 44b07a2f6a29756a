"""From paired samples to numbers: which metrics a task has, how each aggregates, and its clusters."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from grains_eval.comparison.corpus_metrics import CorpusMetric, corpus_metric, numbers
from grains_eval.comparison.intervals import Array
from grains_eval.comparison.margins import fitting, paired_margins
from grains_eval.comparison.pairing import PairedTask, pair
from grains_eval.comparison.runs import Run, Sample
from grains_eval.comparison.settings import Analysis, check_known, clusters_by_task
from grains_eval.comparison.verdict import gain
from grains_eval.errors import GrainsError

# How lm-eval aggregates a metric whose task does not declare it.
_DEFAULTS = {
    "bleu": "bleu",
    "chrf": "chrf",
    "chrf++": "chrf++",
    "ter": "ter",
    "f1": "f1",
    "mcc": "matthews_corrcoef",
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
    "brier_score": "brier_score",
    "bypass": "bypass",
}
# Directions of lm-eval's own metrics (`lm_eval.api.metrics`), for results that do not hold them.
REGISTERED = {
    **dict.fromkeys(("ter", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score"), False),
    **dict.fromkeys(("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_all", "exact_match"), True),
    **dict.fromkeys(("likelihood", "mcc", "f1", "bleu", "chrf", "chrf++"), True),
}


@dataclass(frozen=True)
class PairedMetric:
    """One metric of one task under both runs.

    Attributes:
        task: Task, or group of tasks.
        metric: Metric, with its filter where that is not `none`.
        key: lm-eval's key in the results (`acc,none`).
        higher_is_better: Its direction; None where it is not declared.
        baseline: `[n]` item scores of the baseline.
        steered: `[n]` item scores of the other run.
        pairs: `[n]` the samples behind them.
        clusters: `[n]` labels of items that are not independent, None when all are.
        excluded: Items left out.
        corpus: Where the metric is not a mean of items: the metric and its statistics under both runs.
        margins: `[n]` log-likelihood of the right choice above the best wrong one, under both runs (nats).
        scale: What counts as a whole: 1 for shares, 100 for BLEU, 0 where nothing does.
        weights: `[n]` what an item counts for, None where all count alike: a list of scores for its length.
        bounded: Whether its task says that scores lie between 0 and 1.
        factor: By what a difference of the items' mean is multiplied to give the metric's (1 / (1 - chance), rescaled).
    """

    task: str
    metric: str
    key: str
    higher_is_better: bool | None
    baseline: Array
    steered: Array
    pairs: tuple[tuple[Sample, Sample], ...]
    clusters: tuple[Hashable, ...] | None
    excluded: int
    corpus: tuple[CorpusMetric, Array, Array] | None = None
    margins: tuple[Array, Array] | None = None
    scale: float = 1.0
    weights: Array | None = None
    bounded: bool = False
    factor: float = 1.0

    @property
    def gains(self) -> Array:
        """`[n]` per-item change, positive where it got better, or rose where no direction is declared."""
        return gain(self.steered - self.baseline, self.higher_is_better)

    @property
    def pushes(self) -> Array:
        """`[n]` how far each item was pushed the right way: its margin where it has one (nats), else its gain.

        A multiple-choice item whose right answer lost likelihood was steered the wrong way even where the choice
        stayed (Tan et al. 2024, arXiv 2407.12404, call such items anti-steerable).
        """
        return self.gains if self.margins is None else self.margins[1] - self.margins[0]

    @property
    def has_right_way(self) -> bool:
        """Whether items can be pushed the right way: they have margins, or the metric a direction."""
        return self.margins is not None or self.higher_is_better is not None


def measure_tasks(
    baseline: Run, other: Run, tasks: Sequence[str], analysis: Analysis
) -> tuple[dict[str, list[PairedMetric]], list[str]]:
    """Pair the samples of every task and score them under both runs.

    Args:
        baseline: The run that describes the tasks.
        other: The other run.
        tasks: Leaf tasks of both.
        analysis: Metrics, clusters, directions, and documents to leave out.

    Returns:
        The metrics of each task, and notes on what could not be compared.

    Raises:
        GrainsError: documents do not fit together, or a metric or cluster that is asked for is not there.
    """
    other_prompts = analysis.allows_other_prompts(baseline, other) or other.instructed or baseline.instructed
    fields = clusters_by_task(analysis.clusters, baseline, tasks)
    measured: dict[str, list[PairedMetric]] = {}
    known: set[str] = set()
    notes: list[str] = []
    for task in tasks:
        measured[task] = []
        for paired in pair(baseline, other, task, analysis.exclude, prompts_may_differ=other_prompts):
            known.update(paired.baseline[0].values)
            notes.extend(note for note in paired.notes if note not in notes)
            found, remarks = measure(baseline, other, paired, analysis, fields.get(task))
            measured[task].extend(found)
            notes.extend(remarks)
    check_known(analysis.metrics, known)
    check_known(analysis.higher_is_better, known, "metric to declare a direction for")
    if not any(measured.values()):
        reasons = "; ".join(note for note in notes if " is left out" in note)
        raise GrainsError(
            f"nothing to compare between '{baseline.name}' and '{other.name}': "
            f"{reasons or 'no metric of theirs is a number per document'}"
        )
    return measured, notes


_Logged = tuple[Sequence[Any], ...]


def measure(
    baseline: Run, other: Run, paired: PairedTask, analysis: Analysis, cluster_key: str | None = None
) -> tuple[list[PairedMetric], list[str]]:
    """Every metric of a paired task, and notes on those that cannot be compared.

    Args:
        baseline: The run that describes the task.
        other: The other run.
        paired: Its samples.
        analysis: Metrics to restrict to, and directions over what the runs say.
        cluster_key: Field of the document that names the cluster; default: that of the task's metadata.

    Raises:
        GrainsError: a document lacks the cluster field.
    """
    key = cluster_key or baseline.setting("configs", paired.task, "metadata", "cluster_key")
    clusters = None if not key else tuple(_cluster(sample, str(key), paired.task) for sample in paired.baseline)
    margins = paired_margins(paired)
    found: list[PairedMetric] = []
    notes: list[str] = []
    for name in paired.baseline[0].values:
        aggregation = _aggregation(baseline, paired.task, name)
        if aggregation == "bypass" or (analysis.metrics is not None and name not in analysis.metrics):
            continue
        label = name if paired.filter == "none" else f"{name},{paired.filter}"
        logged = tuple([sample.values.get(name) for sample in side] for side in (paired.baseline, paired.steered))
        there = scored(logged)
        both: NDArray[np.bool_] = there[0] & there[1]
        if not bool((both & np.array(paired.kept)).any()):
            notes.append(f"{paired.task}: metric '{label}' is left out: not all finite numbers")
            continue
        whole = bool(both.all())
        scores = _corpus_scores(logged, aggregation) or _item_scores(logged, margins if whole else None)
        if isinstance(scores, str):
            notes.append(f"{paired.task}: metric '{label}' is left out: {scores}")
            continue
        direction = _direction((baseline, other), paired.task, name, analysis.higher_is_better)
        if isinstance(direction, str):
            notes.append(f"{paired.task}: metric '{label}' has no verdict: {direction}")
            direction = None
        metric = PairedMetric(
            task=paired.task,
            metric=label,
            key=f"{name},{paired.filter}",
            higher_is_better=direction,
            pairs=tuple(zip(paired.baseline, paired.steered, strict=True)),
            clusters=clusters,
            excluded=0,
            bounded=_metric_entry(baseline, paired.task, name).get("bounds") == [0, 1],
            **scores,
        )
        if disagreement := _disagreement(metric, baseline, other, there):
            notes.append(disagreement)
            continue
        if not whole:
            first, second, lost = (int((~row).sum()) for row in (*there, both))
            notes.append(
                f"{paired.task}: {lost} of {there.shape[1]} documents have no {label} ({first} in '{baseline.name}', "
                f"{second} in '{other.name}') and are left out of both; whether they are like the others is not known"
            )
            metric = replace(restrict(metric, both), excluded=0)
        found.append(restrict(metric, np.array(paired.kept)[both]))
    return found, notes


def scored(logged: _Logged) -> NDArray[np.bool_]:
    """`[2, n]` whether an item has a value under each run: neither nothing nor NaN."""
    return np.array([[value is not None and value == value for value in side] for side in logged], dtype=bool)


def _corpus_scores(logged: _Logged, aggregation: str) -> dict[str, Any] | str | None:
    """What a metric of the whole corpus fills into `PairedMetric`, why it cannot; None for a mean over items."""
    table = corpus_metric(aggregation)
    if table is None:
        return None
    try:
        first, second = table.statistics(logged[0], logged[1])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return f"its samples hold no {aggregation}"
    return {
        "baseline": table.item(first),
        "steered": table.item(second),
        "corpus": (table, first, second),
        "scale": table.scale,
    }


def _item_scores(logged: _Logged, margins: tuple[Array, Array] | None) -> dict[str, Any] | str:
    """What a mean over items fills into `PairedMetric`, or why it cannot."""
    if all(isinstance(value, list) for side in logged for value in side):
        return _list_scores(logged)
    there = scored(logged)
    first, second = (
        numbers([value if is_there else 0.0 for value, is_there in zip(side, row, strict=True)])
        for side, row in zip(logged, there, strict=True)
    )
    if first is None or second is None:
        return "not all finite numbers"
    share = all(bool(np.all((side >= 0) & (side <= 1))) for side in (first, second))
    return {
        "baseline": first,
        "steered": second,
        "margins": fitting(margins, first, second),
        "scale": float(share),
    }


def _list_scores(logged: _Logged) -> dict[str, Any] | str:
    """What a mean over the entries of lists fills in (IFEval's instruction level): a list counts for its length.

    The entries of one list are about one document and are not independent, so that the list is the unit.
    """
    lists = [[numbers(value) for value in side] for side in logged]
    if any(values is None or values.size == 0 for side in lists for values in side):
        return "not all lists of finite numbers"
    rows = [[cast(Array, values) for values in side] for side in lists]
    lengths = [np.array([values.size for values in side], dtype=float) for side in rows]
    if not np.array_equal(lengths[0], lengths[1]):
        return "lists of other lengths in the other run"
    entries = np.concatenate([values for side in rows for values in side])
    return {
        "baseline": np.array([values.mean() for values in rows[0]]),
        "steered": np.array([values.mean() for values in rows[1]]),
        "scale": float(bool(np.all((entries >= 0) & (entries <= 1)))),
        "weights": lengths[0],
    }


def restrict(metric: PairedMetric, kept: NDArray[np.bool_]) -> PairedMetric:
    """The metric over some of its items; the others count as excluded."""
    if bool(kept.all()):
        return metric
    index = np.flatnonzero(kept)
    return replace(
        metric,
        baseline=metric.baseline[index],
        steered=metric.steered[index],
        pairs=tuple(metric.pairs[i] for i in index),
        clusters=None if metric.clusters is None else tuple(metric.clusters[i] for i in index),
        excluded=metric.excluded + int(kept.size - index.size),
        corpus=metric.corpus and (metric.corpus[0], metric.corpus[1][index], metric.corpus[2][index]),
        margins=metric.margins and (metric.margins[0][index], metric.margins[1][index]),
        weights=None if metric.weights is None else metric.weights[index],
    )


def _cluster(sample: Sample, key: str, task: str) -> Hashable:
    value: Any = sample.doc
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            there = (
                ", ".join(sorted(map(str, cast(Mapping[str, Any], value)))) if isinstance(value, Mapping) else "none"
            )
            raise GrainsError(
                f"task '{task}', document {sample.doc_id} has no field '{key}' to cluster by; its fields are {there}; "
                "name one of them with --clusters, or as 'cluster_key' in the task's metadata"
            )
        value = cast(Mapping[str, Any], value)[part]
    return value if isinstance(value, str | int | float | bool) else repr(value)


def _metric_entry(run: Run, task: str, name: str) -> Mapping[str, Any]:
    for entry in run.setting("configs", task, "metric_list") or ():
        if isinstance(entry, Mapping) and entry.get("metric") == name:
            return cast(Mapping[str, Any], entry)
    return {}


def _aggregation(run: Run, task: str, name: str) -> str:
    declared = _metric_entry(run, task, name).get("aggregation")
    return declared if isinstance(declared, str) else _DEFAULTS.get(name, "mean")


def _direction(runs: Sequence[Run], task: str, name: str, declared: Mapping[str, bool]) -> bool | str | None:
    """Whether higher is better: as the user declares, as a run logged it, else as for lm-eval's metric of that name.

    lm-eval logs null for a metric that is neither its own nor declared in the task's `metric_list`.

    Returns:
        The direction, None where there is none, and why there is none where runs contradict each other.
    """
    if name in declared:
        return declared[name]
    logged = {run.name: run.setting("higher_is_better", task, name) for run in runs}
    says = {run: known for run, known in logged.items() if isinstance(known, bool)}
    if len(set(says.values())) > 1:
        higher, lower = (next(run for run, known in says.items() if known is side) for side in (True, False))
        return f"higher is better in '{higher}', lower in '{lower}'; declare its direction (higher_is_better)"
    return next(iter(says.values()), REGISTERED.get(name))


def _disagreement(metric: PairedMetric, baseline: Run, other: Run, there: NDArray[np.bool_]) -> str | None:
    """A note where the samples do not give the value in the results, so that this is not a mean over items.

    Args:
        metric: The metric over all items.
        baseline: The first run.
        other: The second.
        there: `[2, n]` items that have a value under each; Inspect's means are over these.
    """
    for index, run in enumerate((baseline, other)):
        reported = run.setting("results", metric.task, metric.key)
        own = total(restrict(metric, there[index]))[index]
        if not isinstance(reported, int | float) or _is_close(own, reported):
            continue
        if run.tool == "lmms_eval" and _is_close(100 * own, reported):  # its tasks often report per cent
            continue
        return (
            f"{metric.task}: metric '{metric.metric}' is left out, it is not a mean over documents "
            f"({own:.6g} from the samples of '{run.name}', {reported:.6g} in its results)"
        )
    return None


def _is_close(own: float, reported: float) -> bool:
    return math.isclose(own, reported, rel_tol=1e-6, abs_tol=1e-9)


def total(metric: PairedMetric) -> tuple[float, float]:
    """The metric's value under both runs."""
    if metric.corpus is not None:
        table, first, second = metric.corpus
        return float(table.score(first.sum(axis=0))), float(table.score(second.sum(axis=0)))
    return (
        float(np.average(metric.baseline, weights=metric.weights)),
        float(np.average(metric.steered, weights=metric.weights)),
    )
