"""Paired metrics to rows of a table: one task's or a group's difference, and Holm's adjustment over the table."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from grains_eval.comparison import corpus_metrics as corpus
from grains_eval.comparison.bootstrap import Studentised
from grains_eval.comparison.intervals import Estimate, Procedure, Undecided, paired, two_sided
from grains_eval.comparison.item_metrics import PairedMetric, total
from grains_eval.comparison.runs import Run, leaf_tasks
from grains_eval.comparison.settings import ESTIMANDS, Analysis
from grains_eval.comparison.significance import Array, holm
from grains_eval.errors import GrainsError
from grains_eval.types import Comparison

# The power of a row's minimum detectable effect.
POWER = 0.8
# Metrics of lm-eval that lie between 0 and 1 by definition; of others only the bounds seen are known.
SHARES = frozenset({
    "acc", "acc_norm", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2",
    "prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc",
})  # fmt: skip
SEEN_BOUNDS = "have the bounds seen here, 0 and 1"


@dataclass(frozen=True)
class Row:
    """A row of the table: a comparison, and what it was made from.

    Attributes:
        comparison: Its numbers.
        metrics: The paired items: one task, or the subtasks of a group.
        procedure: What gave p and interval, and gives them for other differences and levels.
        within: The benchmark whose subtask it is; empty for a row of the table.
        share: What a difference of the subtask adds to the benchmark's.
    """

    comparison: Comparison
    metrics: tuple[PairedMetric, ...]
    procedure: Procedure = field(default_factory=Undecided)
    within: str = ""
    share: float = 1.0

    @property
    def key(self) -> tuple[str, str]:
        """Task and metric."""
        return self.comparison.task, self.comparison.metric


def estimate_rows(
    baseline: Run, other: Run, measured: Mapping[str, Sequence[PairedMetric]], analysis: Analysis
) -> tuple[list[Row], list[str]]:
    """Rows of groups, then of the tasks outside of them, and notes for the reader.

    Args:
        baseline: The run that describes tasks and groups.
        other: The other run, whose name the rows bear.
        measured: Paired metrics by task.
        analysis: Level, seed, and what is said of groups.

    Raises:
        GrainsError: a group has other subtasks in the other run.
    """
    whole, grouped, notes = _groups(baseline, other, measured, analysis)
    rows: list[Row] = list(whole)
    for task, found in measured.items():
        if task in grouped and not analysis.subtasks:
            continue
        rows.extend(metric_row(metric, analysis) for metric in found)
    return [replace(row, comparison=replace(row.comparison, method=other.name)) for row in rows], notes


def adjust(rows: Sequence[Row], controls: Collection[str] = (), *, alpha: float = 0.05) -> list[Row]:
    """Fill in Holm's adjusted p-values: over all rows of methods, and separately over those of controls.

    Minimum detectable effects are filled in too. They are those of Holm's first step, in which a row has to pass the
    level divided by the number of rows of its family. A bootstrap draws as many resamples as that takes, up to a bound:
    a row that cannot pass it for want of resamples has no verdict, and says among how many rows it could have one.

    Args:
        rows: The table.
        controls: Names of the control runs.
        alpha: Level of the tests.
    """
    made = list(rows)
    for family in (True, False):
        places = [index for index, row in enumerate(rows) if (row.comparison.method in controls) is family]
        tested = sum(not math.isnan(rows[index].comparison.p) for index in places)
        level = alpha / tested if tested else math.nan
        for index in places if tested else ():
            made[index] = _resolved(rows[index], level, alpha)
        for index, p in zip(places, holm([made[index].comparison.p for index in places]), strict=True):
            found = _detectable(made[index], level)
            most = _most_rows(made[index], p, alpha)
            changed = replace(made[index].comparison, adjusted_p=p, minimum_detectable_effect=found, most_rows=most)
            made[index] = replace(made[index], comparison=changed)
    return made


def _resolved(row: Row, level: float, alpha: float) -> Row:
    """The row with enough resamples for a p-value below the level, where it may have one."""
    if not isinstance(row.procedure, Studentised):
        return row
    procedure = row.procedure.resolved(level)
    if procedure is row.procedure:
        return row
    reach = max((_reach(metric) for metric in row.metrics), default=math.inf)
    changed = replace(row.comparison, p=two_sided(procedure), interval=_within(procedure.interval(alpha), reach))
    return replace(row, comparison=changed, procedure=procedure)


def _most_rows(row: Row, adjusted_p: float, alpha: float) -> int | None:
    """Among how many rows its resamples can show anything, where only their number keeps it from being shown."""
    if not isinstance(row.procedure, Studentised) or adjusted_p < alpha:
        return None
    smallest = row.procedure.smallest_p
    # a row at the floor of p: all its resamples speak against no difference
    return math.ceil(alpha / smallest) - 1 if row.comparison.p < 1.5 * smallest else None


def _detectable(row: Row, level: float) -> float:
    """The effect that the row's procedure finds; NaN where there is none, or where the level reaches the power."""
    if not row.metrics or not level < POWER:
        return math.nan
    found = row.procedure.detectable(level, POWER)
    # no test finds an effect larger than the metric allows
    return found if found <= _reach(row.metrics[0]) else math.nan


def _estimate(metric: PairedMetric, analysis: Analysis) -> Estimate:
    alpha, seed, clusters = analysis.alpha, analysis.seed, metric.clusters
    if metric.corpus is not None:
        table, first, second = metric.corpus
        return corpus.compare(table, first, second, clusters=clusters, alpha=alpha, seed=seed)
    reach = _reach(metric)
    return paired(
        metric.baseline, metric.steered, clusters=clusters, weights=metric.weights, reach=reach, alpha=alpha, seed=seed
    )


def metric_row(metric: PairedMetric, analysis: Analysis) -> Row:
    """The row of one metric of one task, not yet adjusted."""
    baseline, steered = total(metric)
    return assemble(metric.task, (metric,), baseline, steered, _estimate(metric, analysis))


def assemble(
    name: str,
    metrics: tuple[PairedMetric, ...],
    baseline: float,
    steered: float,
    estimate: Estimate,
    estimand: str = "",
) -> Row:
    """A row, not yet adjusted, from its items, its values under both runs and their estimated difference."""
    gains = np.concatenate([metric.gains for metric in metrics])
    pushes = np.concatenate([metric.pushes for metric in metrics])
    reach = max(_reach(metric) for metric in metrics)
    known = all(_bounds_are_known(metric) for metric in metrics)
    comparison = Comparison(
        task=name,
        metric=metrics[0].metric,
        n=gains.size,
        baseline=baseline,
        steered=steered,
        difference=estimate.difference,
        standard_error=estimate.standard_error,
        interval=_within(estimate.interval, reach),
        p=estimate.p,
        adjusted_p=math.nan,
        test=estimate.test,
        helped=int(np.sum(gains > 0)),
        harmed=int(np.sum(gains < 0)),
        unchanged=int(np.sum(gains == 0)),
        excluded=sum(metric.excluded for metric in metrics),
        clusters=estimate.clusters,
        higher_is_better=metrics[0].higher_is_better,
        anti_steered=float(np.mean(pushes < 0)) if all(metric.has_right_way for metric in metrics) else math.nan,
        scale=metrics[0].scale,
        estimand=estimand,
        assumption=estimate.assumption if known else estimate.assumption.replace("have bounds", SEEN_BOUNDS),
        guaranteed=estimate.guaranteed and known,
        units_needed=estimate.units_needed,
    )
    return Row(comparison, metrics, estimate.procedure)


def _within(interval: tuple[float, float], reach: float) -> tuple[float, float]:
    return max(interval[0], -reach), min(interval[1], reach)


def _bounds_are_known(metric: PairedMetric) -> bool:
    """Whether scores cannot leave 0 to 1: by the metric's definition, or since they are nothing but 0 and 1."""
    if metric.bounded or metric.metric.partition(",")[0] in SHARES:
        return True
    return all(bool(np.isin(side, (0, 1)).all()) for side in (metric.baseline, metric.steered))


def _reach(metric: PairedMetric) -> float:
    """The largest difference that the metric allows for: 1 for plain shares, infinite where it has no whole."""
    if metric.corpus is not None:
        return metric.corpus[0].reach
    return metric.factor if metric.scale == 1 else math.inf


def _groups(
    baseline: Run, other: Run, measured: Mapping[str, Sequence[PairedMetric]], analysis: Analysis
) -> tuple[list[Row], set[str], list[str]]:
    """Rows of the groups that lm-eval itself aggregated, the outermost ones; and the tasks they cover."""
    names = [name for name in baseline.results.get("groups", {}) if name in other.results.get("groups", {})]
    leaves = {name: leaf_tasks(baseline.results, name) for name in names}
    covered = {name: set(leaves[name]) <= set(measured) for name in names}
    outer = [
        name for name in names if covered[name] and not any(covered[o] and _is_under(baseline, name, o) for o in names)
    ]
    rows: list[Row] = []
    grouped: set[str] = set()
    notes: list[str] = []
    for name in outer:
        if leaf_tasks(other.results, name) != leaves[name]:
            raise GrainsError(
                f"group '{name}' has other subtasks in '{baseline.name}' than in '{other.name}'; use one version of it"
            )
        keys = [key for key in baseline.results["groups"][name] if "," in key and "_stderr," not in key]
        made = 0
        for key in keys:
            members = [metric for leaf in leaves[name] for metric in measured[leaf] if metric.key == key]
            if not members:
                continue
            weights = _weights(baseline, name, key, members)
            if weights is None:
                notes.append(f"{name}: '{key}' is left out, its weights could not be told from the results")
                continue
            rows.append(_group_row(name, members, weights, analysis))
            made += 1
        if made:
            grouped.update(leaves[name])
    return rows, grouped, notes


def _is_under(run: Run, name: str, group: str) -> bool:
    children = [str(child) for child in run.setting("group_subtasks", group) or ()]
    return name in children or any(_is_under(run, name, child) for child in children)


def _weights(run: Run, group: str, key: str, members: Sequence[PairedMetric]) -> list[float] | None:
    """Weights of the subtasks as in the harness: by size, or equal.

    The results do not hold `weight_by_size`, so both means are formed from the reported values and compared
    with the reported group value. Sizes afterwards are those of the held-out items.
    """
    if any(metric.corpus is not None for metric in members):
        return None
    values = np.array([run.setting("results", metric.task, key) for metric in members], dtype=float)
    sizes = np.array([run.setting("n-samples", metric.task, "effective") for metric in members], dtype=float)
    reported = run.setting("groups", group, key)
    if math.isclose(float(values @ sizes / sizes.sum()), reported, rel_tol=1e-9, abs_tol=1e-12):
        return [float(metric.baseline.size) for metric in members]
    if math.isclose(float(values.mean()), reported, rel_tol=1e-9, abs_tol=1e-12):
        return [1.0] * len(members)
    return None


def _group_row(name: str, members: Sequence[PairedMetric], weights: Sequence[float], analysis: Analysis) -> Row:
    sizes = [metric.baseline.size for metric in members]
    share = np.asarray(weights) / float(np.sum(weights))
    clusters: list[Hashable] | None = None
    if analysis.groups == "sampled":
        clusters = np.repeat(np.arange(len(members)), sizes).tolist()
    elif any(metric.clusters is not None for metric in members):
        clusters = [
            (place, label) for place, m in enumerate(members) for label in (m.clusters or range(m.baseline.size))
        ]
    estimate = paired(
        np.concatenate([metric.baseline for metric in members]),
        np.concatenate([metric.steered for metric in members]),
        clusters=clusters,
        weights=np.concatenate([part * _spread(metric) for part, metric in zip(share, members, strict=True)]),
        reach=max(_reach(metric) for metric in members),
        alpha=analysis.alpha,
        seed=analysis.seed,
    )
    baseline, steered = (float(share @ values) for values in np.array([total(metric) for metric in members]).T)
    return assemble(name, tuple(members), baseline, steered, estimate, ESTIMANDS[analysis.groups])


def _spread(metric: PairedMetric) -> Array:
    """`[n]` weights of a metric's items, which sum to one."""
    weights = np.ones(metric.baseline.size) if metric.weights is None else metric.weights
    return weights / weights.sum()
