"""Two runs to the rows of a leaderboard: each benchmark's score under both, their paired difference, the mean.

A benchmark's score is linear in its documents but for the floor at guessing. The floor takes away what a run lost below
it, and has no interval that holds at the kink. So scores are the leaderboard's own, and where a subtask lies below
guessing, difference, interval and p are of the scores before the floor, and a note says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from grains_eval.comparison.estimates import Row, assemble, metric_row
from grains_eval.comparison.intervals import Estimate, Procedure, paired
from grains_eval.comparison.item_metrics import PairedMetric
from grains_eval.comparison.leaderboards import Benchmark, Leaderboard, Part
from grains_eval.comparison.runs import Run, Sample
from grains_eval.comparison.settings import ESTIMANDS, Analysis
from grains_eval.comparison.significance import Array

METRIC = "score"


@dataclass(frozen=True)
class Scaled:
    """A procedure for a difference that is a multiple of its own."""

    procedure: Procedure
    factor: float

    def tails(self, value: float) -> tuple[float, float]:
        """See `Procedure`."""
        return self.procedure.tails(value / self.factor)

    def interval(self, level: float) -> tuple[float, float]:
        """See `Procedure`."""
        low, high = self.procedure.interval(level)
        return low * self.factor, high * self.factor

    def detectable(self, level: float, power: float) -> float:
        """See `Procedure`."""
        return self.procedure.detectable(level, power) * self.factor


@dataclass(frozen=True)
class _Scored:
    """A part or benchmark under both runs.

    Attributes:
        metric: Its items between 0 and 1, with weights that sum to one.
        scores: The leaderboard's scores, 0 to 1.
        floored: Names of subtasks that lie below guessing in a run.
    """

    metric: PairedMetric
    scores: tuple[float, float]
    floored: tuple[str, ...] = ()


Measured = Mapping[str, Sequence[PairedMetric]]


def leaderboard_rows(
    board: Leaderboard, baseline: Run, other: Run, measured: Measured, analysis: Analysis
) -> tuple[list[Row], list[str]]:
    """Rows of a leaderboard's benchmarks and their mean, then of their subtasks (`Row.within`); and notes.

    Args:
        board: The leaderboard.
        baseline: The run that describes the tasks.
        other: The other run, whose name the rows bear.
        measured: Paired metrics by task.
        analysis: Level and seed.
    """
    rows: list[Row] = []
    subtasks: list[Row] = []
    scored: list[_Scored] = []
    notes: list[str] = []
    for benchmark in board.benchmarks:
        parts = benchmark.parts_in(baseline.results)
        tasks = [task for part in parts for task in part.tasks]
        there = [task for task in tasks if task in measured]
        if not there:
            notes.append(f"{benchmark.name} was not evaluated")
            continue
        found = [_part(part, measured, benchmark) for part in parts]
        if len(there) < len(tasks) or any(part is None for part in found):
            missing = next((task for task in tasks if task not in measured), "")
            why = f"{len(tasks) - len(there)} of its {len(tasks)} subtasks were not evaluated ({missing}, …)"
            notes.append(f"{benchmark.name} is left out: {why if missing else 'metrics of its tasks are missing'}")
            continue
        whole = _benchmark(benchmark, [part for part in found if part is not None], parts)
        scored.append(whole)
        rows.append(_row(whole, analysis, len(tasks)))
        notes += _remarks(benchmark, whole, baseline, other, tasks)
        if len(tasks) > 1:
            subtasks += _subtasks(benchmark, parts, measured, analysis)
    if len(scored) == len(board.benchmarks):
        rows.append(_mean(board, scored, analysis))
    elif scored:
        notes.append(f"{board.group}: no mean over {len(scored)} of {len(board.benchmarks)} benchmarks is formed")
    named = [replace(row, comparison=replace(row.comparison, method=other.name)) for row in (*rows, *subtasks)]
    return named, notes


def _part(part: Part, measured: Measured, benchmark: Benchmark) -> _Scored | None:
    """The documents of a part, each with the mean of its metrics; None where a metric is missing."""
    sets: list[list[PairedMetric]] = []
    for key in part.metrics:
        found = [next((m for m in measured.get(task, ()) if m.key == key), None) for task in part.tasks]
        sets.append([metric for metric in found if metric is not None])
    sizes = [[metric.baseline.size for metric in found] for found in sets]
    if any(len(found) < len(part.tasks) for found in sets) or any(size != sizes[0] for size in sizes):
        return None
    caps: list[Array] = []  # what a document can add to the score
    adds: list[tuple[Array, Array]] = []
    for found in sets:
        weights = np.concatenate([np.ones(m.baseline.size) if m.weights is None else m.weights for m in found])
        caps.append(weights / weights.sum() / len(sets))
        sides = (np.concatenate([m.baseline for m in found]), np.concatenate([m.steered for m in found]))
        adds.append((caps[-1] * sides[0], caps[-1] * sides[1]))
    cap = np.sum(caps, axis=0)
    first, second = (np.sum([side[index] for side in adds], axis=0) for index in (0, 1))
    pairs = tuple(pair for metric in sets[0] for pair in metric.pairs)
    raw = float(first.sum()), float(second.sum())
    metric = PairedMetric(
        task=part.tasks[0] if len(part.tasks) == 1 else benchmark.name,
        metric=METRIC,
        key=METRIC,
        higher_is_better=True,
        baseline=first / cap,
        steered=second / cap,
        pairs=pairs,
        clusters=_questions(pairs, benchmark.question) or _clusters(sets[0]),
        excluded=sum(metric.excluded for metric in sets[0]),
        weights=cap,
        bounded=True,
        factor=1 / (1 - part.chance),
    )
    floored = (metric.task,) if min(raw) < part.chance else ()
    return _Scored(metric, (part.rescaled(raw[0]), part.rescaled(raw[1])), floored)


def _questions(pairs: Sequence[tuple[Sample, Sample]], field: str) -> tuple[Hashable, ...] | None:
    """The question of each document, where some are asked more than once."""
    if not field:
        return None
    asked = [_question(sample, field) for sample, _ in pairs]
    return tuple(asked) if len(set(asked)) < len(asked) else None


def _question(sample: Sample, field: str) -> str:
    document = cast(Mapping[str, Any], sample.doc) if isinstance(sample.doc, Mapping) else {}
    return " ".join(str(document.get(field, sample.doc_hash)).split())


def _clusters(metrics: Sequence[PairedMetric]) -> tuple[Hashable, ...] | None:
    """Clusters of several sets of documents, none of which is in two; None where all documents are independent."""
    if all(metric.clusters is None for metric in metrics):
        return None
    return tuple((place, label) for place, m in enumerate(metrics) for label in (m.clusters or range(m.baseline.size)))


def _benchmark(benchmark: Benchmark, found: Sequence[_Scored], parts: Sequence[Part]) -> _Scored:
    """Parts that count alike as one."""
    made = _joined(benchmark.name, found)
    first, second = np.mean([part.scores for part in found], axis=0).tolist()
    return replace(made, scores=(first, second), floored=tuple(name for part in found for name in part.floored))


def _joined(name: str, found: Sequence[_Scored]) -> _Scored:
    """Several scored sets of documents as one, each with as much to say as the others."""
    metrics = [part.metric for part in found]
    factor = float(np.mean([metric.factor for metric in metrics]))
    shares = [metric.factor / factor / len(found) for metric in metrics]
    weights = [np.asarray(m.weights) * share for m, share in zip(metrics, shares, strict=True)]
    metric = replace(
        metrics[0],
        task=name,
        baseline=np.concatenate([m.baseline for m in metrics]),
        steered=np.concatenate([m.steered for m in metrics]),
        pairs=tuple(pair for m in metrics for pair in m.pairs),
        clusters=_clusters(metrics),
        excluded=sum(m.excluded for m in metrics),
        weights=np.concatenate(weights),
        factor=factor,
    )
    return _Scored(metric, (0.0, 0.0))


def _row(scored: _Scored, analysis: Analysis, parts: int = 1) -> Row:
    estimate = _estimate(scored, analysis)
    about = ESTIMANDS["fixed"] if parts > 1 else ""
    return assemble(scored.metric.task, (scored.metric,), *scored.scores, estimate, about)


def _estimate(scored: _Scored, analysis: Analysis) -> Estimate:
    """The paired difference in units of the score; exact where documents count alike and are right or wrong."""
    metric, factor, weights = scored.metric, scored.metric.factor, np.asarray(scored.metric.weights)
    sides = np.concatenate([metric.baseline, metric.steered])
    alike = metric.clusters is None and float(np.ptp(weights)) <= 1e-9 * float(weights.max())
    if alike and bool(np.isin(sides, (0, 1)).all()):
        exact = paired(metric.baseline, metric.steered, alpha=analysis.alpha)
        return replace(
            exact,
            difference=exact.difference * factor,
            standard_error=exact.standard_error * factor,
            procedure=Scaled(exact.procedure, factor),
        )
    return paired(
        metric.baseline * factor,
        metric.steered * factor,
        clusters=metric.clusters,
        weights=weights,
        reach=factor,
        alpha=analysis.alpha,
        seed=analysis.seed,
    )


def _mean(board: Leaderboard, scored: Sequence[_Scored], analysis: Analysis) -> Row:
    first, second = np.mean([benchmark.scores for benchmark in scored], axis=0).tolist()
    return _row(replace(_joined(board.group, scored), scores=(first, second)), analysis, len(scored))


def _subtasks(benchmark: Benchmark, parts: Sequence[Part], measured: Measured, analysis: Analysis) -> list[Row]:
    """A row for each task of a benchmark, of its own metric, with what a difference of it adds to the benchmark's."""
    rows: list[Row] = []
    for part in parts:
        found = [next(m for m in measured[task] if m.key == part.metrics[0]) for task in part.tasks]
        size = sum(metric.baseline.size for metric in found)
        for metric in found:
            share = metric.baseline.size / size / (1 - part.chance) / len(parts)
            rows.append(replace(metric_row(metric, analysis), within=benchmark.name, share=share))
    return rows


def _remarks(benchmark: Benchmark, scored: _Scored, baseline: Run, other: Run, tasks: Sequence[str]) -> list[str]:
    """What keeps the scores from being the leaderboard's own, or the difference from being theirs."""
    notes: list[str] = []
    if scored.floored:
        listed = ", ".join(scored.floored[:3]) + (", …" if scored.floored[3:] else "")
        several = scored.floored != (benchmark.name,)
        which = f"{len(scored.floored)} of {len(tasks)} subtasks ({listed}) " if several else ""
        notes.append(
            f"{benchmark.name}: {which}below guessing in '{baseline.name}' or '{other.name}', where the leaderboard's "
            "score is 0; difference, interval and p are of the scores before that"
        )
    shots = {baseline.setting("n-shot", task) for task in tasks} - {None}
    if shots - {benchmark.shots}:
        given = ", ".join(map(str, sorted(shots, key=str)))
        notes.append(f"{benchmark.name} was asked with {given} examples; the leaderboard gives {benchmark.shots}")
    counts = [baseline.setting("n-samples", task) or {} for task in tasks]
    asked, all_ = (sum(int(count.get(kind) or 0) for count in counts) for kind in ("effective", "original"))
    if asked < all_:
        notes.append(f"{benchmark.name}: {asked:,} of its {all_:,} documents were evaluated (--limit)")
    return notes
