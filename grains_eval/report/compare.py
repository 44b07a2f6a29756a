"""Two runs to rows of a table: `compare(baseline, steered)`."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from grains_eval.errors import GrainsError, unknown
from grains_eval.report import corpus, statistics
from grains_eval.report.bootstrap import Studentised
from grains_eval.report.choices import check_known, check_levels, clusters_by_task
from grains_eval.report.elementary import Array, holm
from grains_eval.report.measures import PairedMetric, measure, total
from grains_eval.report.pairing import check, common_tasks, pair
from grains_eval.report.runs import Run, leaf_tasks, name_runs, read_run
from grains_eval.report.statistics import Estimate, Procedure, Undecided, two_sided
from grains_eval.types import Comparison

Groups = Literal["fixed", "sampled"]
ESTIMANDS: Mapping[str, str] = {"fixed": "these subtasks", "sampled": "subtasks like these"}
# The power of a row's minimum detectable effect.
POWER = 0.8
# Metrics of lm-eval that are shares of one item by definition; of others only the bounds seen are known.
SHARES = frozenset({"acc", "acc_norm", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2"})
SEEN_BOUNDS = "have the bounds seen here, 0 and 1"


@dataclass(frozen=True)
class Row:
    """A comparison with the items behind it.

    Attributes:
        comparison: The row.
        metrics: The paired items: one task, or the subtasks of a group.
        procedure: What gave its p and interval, and tells of other differences.
    """

    comparison: Comparison
    metrics: tuple[PairedMetric, ...]
    procedure: Procedure = field(default_factory=Undecided)


def compare(
    baseline_run: str | Path | Run,
    steered_run: str | Path | Run,
    *,
    alpha: float = 0.05,
    exclude: Collection[str] | None = None,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    clusters: Mapping[str, str] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    subtasks: bool = False,
    groups: Groups = "fixed",
    prompts_may_differ: bool = False,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two runs of lm-eval made with `--log_samples`, item by item.

    Args:
        baseline_run: Folder of the baseline run.
        steered_run: Folder of the other run.
        alpha: One minus the confidence level.
        exclude: Document hashes to leave out, on top of those that built or tuned the runs' vectors.
        tasks: Tasks or groups to restrict to.
        metrics: Metrics to restrict to.
        clusters: Document field that names the cluster, by task or group; default: the task's `cluster_key`.
        higher_is_better: Direction by metric, for those that no task declares one for.
        subtasks: Also give a row to each task of an aggregated group.
        groups: What a group's row speaks of: "fixed", these subtasks; "sampled", subtasks like these, which makes
            them the clusters.
        prompts_may_differ: Accept other prompts for the same documents (prompting baselines).
        seed: Seed of resampling tests.

    Raises:
        GrainsError: the runs cannot be compared; one line says why.
    """
    check_levels(alpha)
    first = baseline_run if isinstance(baseline_run, Run) else read_run(baseline_run)
    second = steered_run if isinstance(steered_run, Run) else read_run(steered_run)
    rows, _ = compare_pair(
        first,
        second,
        alpha=alpha,
        exclude=first.held_out_from() | second.held_out_from() | frozenset(exclude or ()),
        tasks=tasks,
        metrics=metrics,
        clusters=clusters or {},
        higher_is_better=higher_is_better or {},
        subtasks=subtasks,
        groups=groups,
        prompts_may_differ=prompts_may_differ,
        seed=seed,
    )
    return [row.comparison for row in adjust(rows, alpha=alpha)]


def compare_pair(
    baseline: Run,
    other: Run,
    *,
    alpha: float,
    exclude: Collection[str],
    tasks: Sequence[str] | None,
    metrics: Sequence[str] | None,
    clusters: Mapping[str, str],
    subtasks: bool,
    prompts_may_differ: bool,
    seed: int,
    higher_is_better: Mapping[str, bool] | None = None,
    groups: Groups = "fixed",
) -> tuple[list[Row], list[str]]:
    """Rows of one pair of runs, not yet adjusted, and notes for the reader."""
    names = common_tasks(baseline, other, tasks)
    notes = [*baseline.notes, *other.notes, *check(baseline, other, names, prompts_may_differ=prompts_may_differ)]
    prompts_may_differ = prompts_may_differ or other.instructed or baseline.instructed
    fields = clusters_by_task(clusters, baseline, names)
    measured: dict[str, list[PairedMetric]] = {}
    known: set[str] = set()
    for task in names:
        measured[task] = []
        for paired in pair(baseline, other, task, exclude, prompts_may_differ=prompts_may_differ):
            known.update(paired.baseline[0].values)
            notes.extend(note for note in paired.notes if note not in notes)
            found, remarks = measure(baseline, other, paired, fields.get(task), metrics, higher_is_better)
            measured[task].extend(found)
            notes.extend(remarks)
    check_known(metrics, known)
    check_known(list(higher_is_better or {}), known, "metric to declare a direction for")
    if not any(measured.values()):
        raise GrainsError(
            f"nothing to compare between '{baseline.name}' and '{other.name}': no metric of theirs is a"
            " number per document"
        )
    if groups not in ESTIMANDS:
        raise unknown(groups, ESTIMANDS, "kind of groups")
    whole, grouped, remarks = _groups(baseline, other, measured, groups, alpha, seed)
    notes.extend(remarks)
    method = name_runs([other])[0]
    rows: list[Row] = list(whole)
    for task, found in measured.items():
        if task in grouped and not subtasks:
            continue
        rows.extend(_row(metric, _estimate(metric, alpha, seed)) for metric in found)
    return [replace(row, comparison=replace(row.comparison, method=method)) for row in rows], notes


def adjust(rows: Sequence[Row], controls: Collection[str] = (), *, alpha: float = 0.05) -> list[Row]:
    """Fill in Holm's adjusted p-values: over all rows of methods, and apart from them over those of controls.

    With them come minimum detectable effects, of Holm's first step: alone among the rows of its family, a row
    has to pass the level divided by their number. A bootstrap draws as many resamples as that takes, up to a bound:
    a row that cannot pass it for want of resamples has no verdict, and says among how many rows it could have one.

    Args:
        rows: The table.
        controls: Names of the runs that nothing is claimed for.
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
    """The effect that the row's procedure finds; NaN where there is none, or where chance does as often."""
    if not row.metrics or not level < POWER:
        return math.nan
    found = row.procedure.detectable(level, POWER)
    # An effect that there cannot be is found by nobody.
    return found if found <= _reach(row.metrics[0]) else math.nan


def _estimate(metric: PairedMetric, alpha: float, seed: int) -> Estimate:
    if metric.corpus is not None:
        table, first, second = metric.corpus
        return corpus.compare(table, first, second, clusters=metric.clusters, alpha=alpha, seed=seed)
    return statistics.paired(
        metric.baseline, metric.steered, clusters=metric.clusters, reach=_reach(metric), alpha=alpha, seed=seed
    )


def _row(metric: PairedMetric, estimate: Estimate) -> Row:
    baseline, steered = total(metric)
    return _made(metric.task, (metric,), baseline, steered, estimate)


def _made(
    name: str,
    metrics: tuple[PairedMetric, ...],
    baseline: float,
    steered: float,
    estimate: Estimate,
    estimand: str = "",
) -> Row:
    gains = np.concatenate([gain(metric) for metric in metrics])
    pushed = np.concatenate([push(metric) for metric in metrics])
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
        anti_steered=float(np.mean(pushed < 0)) if has_right_way(metrics) else math.nan,
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
    if metric.metric.partition(",")[0] in SHARES:
        return True
    return all(bool(np.isin(side, (0, 1)).all()) for side in (metric.baseline, metric.steered))


def _reach(metric: PairedMetric) -> float:
    """The largest difference that the metric allows for: 1 for shares, infinite where it has no whole."""
    if metric.corpus is not None:
        return metric.corpus[0].reach
    return 1.0 if metric.scale == 1 else math.inf


def gain(metric: PairedMetric) -> Array:
    """`[n]` per-item change of the metric, positive where it got better, or rose where no direction is declared."""
    change = metric.steered - metric.baseline
    return -change if metric.higher_is_better is False else change


def has_right_way(metrics: Sequence[PairedMetric]) -> bool:
    """Whether items can be pushed the right way: they have margins, or the metric a direction."""
    return all(metric.margins is not None or metric.higher_is_better is not None for metric in metrics)


def push(metric: PairedMetric) -> Array:
    """`[n]` how far each item was pushed the right way: its margin where it has one (nats), else its gain.

    A multiple-choice item whose right answer lost likelihood was steered the wrong way even where the choice
    stayed (Tan et al. 2024, arXiv 2407.12404, call such items anti-steerable).
    """
    if metric.margins is not None:
        return metric.margins[1] - metric.margins[0]
    return gain(metric)


def _groups(
    baseline: Run, other: Run, measured: Mapping[str, list[PairedMetric]], groups: Groups, alpha: float, seed: int
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
            rows.append(_group_row(name, members, weights, groups, alpha, seed))
            made += 1
        if made:
            grouped.update(leaves[name])
    return rows, grouped, notes


def _is_under(run: Run, name: str, group: str) -> bool:
    children = [str(child) for child in run.setting("group_subtasks", group) or ()]
    return name in children or any(_is_under(run, name, child) for child in children)


def _weights(run: Run, group: str, key: str, members: Sequence[PairedMetric]) -> list[float] | None:
    """Weights of the subtasks, as the harness weighed them: by size or all the same.

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


def _group_row(
    name: str, members: Sequence[PairedMetric], weights: Sequence[float], groups: Groups, alpha: float, seed: int
) -> Row:
    sizes = [metric.baseline.size for metric in members]
    share = np.asarray(weights) / float(np.sum(weights))
    clusters: list[Hashable] | None = None
    if groups == "sampled":
        clusters = np.repeat(np.arange(len(members)), sizes).tolist()
    elif any(metric.clusters is not None for metric in members):
        clusters = [
            (place, label) for place, m in enumerate(members) for label in (m.clusters or range(m.baseline.size))
        ]
    estimate = statistics.paired(
        np.concatenate([metric.baseline for metric in members]),
        np.concatenate([metric.steered for metric in members]),
        clusters=clusters,
        weights=np.repeat(share / np.asarray(sizes), sizes),
        reach=max(_reach(metric) for metric in members),
        alpha=alpha,
        seed=seed,
    )
    baseline = float(share @ [metric.baseline.mean() for metric in members])
    steered = float(share @ [metric.steered.mean() for metric in members])
    return _made(name, tuple(members), baseline, steered, estimate, ESTIMANDS[groups])
