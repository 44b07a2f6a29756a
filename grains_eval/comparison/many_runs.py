"""Many runs to findings: each compared with the first, adjusted over the whole table, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grains_eval.comparison.controls import AgainstControl, against_controls, control_names
from grains_eval.comparison.estimates import Row, adjust
from grains_eval.comparison.noninferiority import CapabilityVerdict, judge_rows
from grains_eval.comparison.runs import Run
from grains_eval.comparison.settings import Analysis, Question, check_evaluated
from grains_eval.comparison.task_roles import TaskRoles, task_roles
from grains_eval.comparison.two_runs import compare_pair, held_out
from grains_eval.comparison.verdict import answer
from grains_eval.errors import GrainsError
from grains_eval.types import Comparison

# A task's headline metric where none is named: the first of these that it has, else its first.
HEADLINE_METRICS = ("acc", "exact_match", "bleu_acc", "f1", "mcc", "bleu", "word_perplexity")


@dataclass(frozen=True)
class Findings:
    """What a comparison of several runs shows.

    Attributes:
        runs: The runs, baseline first.
        rows: The adjusted rows: targets first, preserved tasks last.
        headline: One of them per run and task, of the task's headline metric.
        roles: What each task is there for.
        controls: Names of the control runs.
        verdicts: Whether preserved tasks were kept.
        against_controls: Methods that improved, against their strongest control.
        further_metrics: Metrics by task that could be compared and have no row.
        failures: Reason by name of runs that could not be compared.
        notes: What a careful reader should know.
        subtasks: Rows of the subtasks of a leaderboard's benchmarks, adjusted among themselves.
    """

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    headline: tuple[Row, ...]
    roles: TaskRoles
    controls: frozenset[str]
    verdicts: tuple[CapabilityVerdict, ...]
    against_controls: tuple[AgainstControl, ...]
    further_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    subtasks: tuple[Row, ...] = ()


def compare_all(
    runs: Sequence[Run],
    analysis: Analysis = Analysis(),
    question: Question = Question(),
    *,
    keep_going: bool = False,
) -> Findings:
    """Compare runs with the first of them, and judge what they show.

    Args:
        runs: The baseline, then the others, each with a name of its own.
        analysis: How two runs are compared.
        question: What is asked of them.
        keep_going: Turn a run that cannot be compared into a failure instead of raising, and let the question name
            tasks and controls that are not there.

    Raises:
        GrainsError: a run that cannot be compared, or a choice that does not fit the runs.
    """
    if not keep_going:
        check_evaluated(runs[0], question.targets, "target task")
        check_evaluated(runs[0], question.preserve, "task to preserve")
    analysis = held_out(analysis, runs)
    found, notes, failures = _with_baseline(runs, analysis, keep_going)
    rows, subtasks = ([row for row in found if bool(row.within) is inner] for inner in (False, True))
    roles = task_roles(runs, list(dict.fromkeys(row.comparison.task for row in rows)), question)
    controls = control_names(runs[1:], question.controls, strict=not keep_going)
    measured = rows
    if not analysis.all_metrics and analysis.metrics is None:
        rows = headline_rows(rows, question.headline_metrics)
    rows = adjust(_ordered(rows, roles), controls, alpha=analysis.alpha)
    chosen = headline_rows(rows, question.headline_metrics)
    undirected = [row.comparison for row in chosen if row.comparison.higher_is_better is None]
    rivals, on_rivals = against_controls(chosen, runs, controls, roles.targets, analysis, question.beside)
    notes += [*roles.notes, *map(_ask_direction, undirected), *on_rivals]
    return Findings(
        runs=tuple(runs),
        rows=tuple(rows),
        headline=tuple(chosen),
        roles=roles,
        controls=frozenset(controls),
        verdicts=_judged(chosen, roles, question.margin, analysis.alpha),
        against_controls=rivals,
        further_metrics=_without_row(measured, rows),
        failures=failures,
        notes=tuple(dict.fromkeys(notes)),
        subtasks=tuple(adjust(subtasks, controls, alpha=analysis.alpha)),
    )


def _with_baseline(
    runs: Sequence[Run], analysis: Analysis, keep_going: bool
) -> tuple[list[Row], list[str], dict[str, str]]:
    """Rows of every run against the first, not yet adjusted; notes; and why runs could not be compared."""
    rows: list[Row] = []
    notes: list[str] = []
    failures: dict[str, str] = {}
    for run in runs[1:]:
        try:
            found, said = compare_pair(runs[0], run, analysis)
        except GrainsError as error:
            if not keep_going:
                raise
            failures[run.name] = str(error)
            continue
        rows.extend(found)
        notes.extend(said)
    return rows, notes, failures


def _ordered(rows: Sequence[Row], roles: TaskRoles) -> list[Row]:
    """Rows by task and metric, as in the headline: what was to improve first, what was to be preserved last."""
    found = dict.fromkeys(row.key for row in rows)
    order = sorted(found, key=lambda key: (key[0] in roles.preserved, key[0] not in roles.targets))
    return sorted(rows, key=lambda row: order.index(row.key))


def headline_rows(rows: Sequence[Row], wanted: Mapping[str, str]) -> list[Row]:
    """One row per method and task: that of the task's headline metric."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.comparison.method, row.comparison.task), []).append(row)
    chosen: list[Row] = []
    for (_, task), candidates in grouped.items():
        named = {row.comparison.metric: row for row in reversed(candidates)}
        bare = {row.comparison.metric.partition(",")[0]: row for row in reversed(candidates)}
        if task in wanted and wanted[task] not in named and wanted[task] not in bare:
            raise GrainsError(
                f"task '{task}' has no metric '{wanted[task]}' to compare; it has {', '.join(sorted(named))}"
            )
        order = (wanted[task],) if task in wanted else HEADLINE_METRICS
        found = next((named.get(m) or bare[m] for m in order if m in named or m in bare), candidates[0])
        chosen.append(found)
    return chosen


def _without_row(measured: Sequence[Row], rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    shown = {row.key for row in rows}
    found: dict[str, list[str]] = {}
    for task, metric in dict.fromkeys(row.key for row in measured):
        if (task, metric) not in shown:
            found.setdefault(task, []).append(metric)
    return {task: tuple(metrics) for task, metrics in found.items()}


def _judged(rows: Sequence[Row], roles: TaskRoles, margin: float, alpha: float) -> tuple[CapabilityVerdict, ...]:
    """Verdicts on preserved tasks. A loss that is shown is a loss, even where it may be smaller than the margin."""
    preserved = [
        row for row in rows if row.comparison.task in roles.preserved and row.comparison.higher_is_better is not None
    ]
    worse = {_key(row.comparison) for row in rows if answer(row.comparison, alpha) == "worse"}
    return tuple(
        replace(verdict, answer="lost", items_needed=None, clusters_needed=None)
        if verdict.answer == "cannot tell" and _key(verdict) in worse
        else verdict
        for verdict in judge_rows(preserved, margin, alpha=alpha)
    )


def _key(of: Comparison | CapabilityVerdict) -> tuple[str, str, str]:
    return of.method, of.task, of.metric


def _ask_direction(row: Comparison) -> str:
    metric = row.metric.partition(",")[0]
    return (
        f"{row.task}: it is not declared whether a higher {metric} is better, so it has no verdict; pass "
        f"--higher_is_better {metric}=true or {metric}=false, or declare it in the task's metric_list"
    )
