"""What each run and row of a report is there for: methods and controls, targets and preserved skills."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from grains_eval.errors import GrainsError, unknown
from grains_eval.report.choices import check_known
from grains_eval.report.compare import Row, adjust
from grains_eval.report.data import AgainstControl, Band
from grains_eval.report.runs import Run, leaf_tasks, method_of
from grains_eval.report.wording import answer, gain

# The metric that speaks for a task when nobody says: the first of these that it has, else its first.
HEADLINE_METRICS = ("acc", "exact_match", "bleu_acc", "f1", "mcc", "bleu", "word_perplexity")
# Benchmarks of general skill that are compared to see what steering cost, not what it gained.
PRESERVATION_TASKS = ("preserve", "mmlu", "mmmu", "hellaswag", "arc_", "gsm8k", "winogrande", "piqa")
# Whole names of controls, as studies write them: `random_3`, `grains_negated`, `random_tokens_raw_1`.
_CONTROL = re.compile(r"random(_vectors?|_tokens)?(_raw)?(_\d+)?|(.+_)?(negated|sign_flip|vocabulary|projected)")
# A method without its confound says what the gain is made of; it is no explanation that rivals the method's own.
_ABLATED = re.compile(r"without_vocabulary\b|projected\b")


def control_names(runs: Sequence[Run], given: Collection[str] | None, strict: bool = True) -> set[str]:
    """The runs that are controls, by their names in the tables.

    Args:
        runs: All but the baseline.
        given: Names of controls, as in the tables or as their folders; None takes the runs whose method is a control's,
            or whose name where no artifact of ours says the method.
        strict: Whether every given name must be a run's.

    Raises:
        GrainsError: a name that no run has.
    """
    if given is None:
        return {run.name for run in runs if any(map(_CONTROL.fullmatch, _methods(run)))}
    folders = {run.name: run.name.partition(" (")[0] for run in runs}
    if strict:
        check_known(list(given), [*folders, *folders.values()], "control run")
    return {name for name, folder in folders.items() if name in given or folder in given}


def _methods(run: Run) -> list[str]:
    return [re.sub("[- ]", "_", name.lower()) for name in (method_of(run) or run.name).split(" + ")]


def headline_rows(rows: Sequence[Row], wanted: Mapping[str, str]) -> list[Row]:
    """One row per method and task: the metric that speaks for the task."""
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


def preserved(baseline: Run, tasks: Sequence[str], preserve: Sequence[str] | None) -> set[str]:
    """Tasks whose score must not fall: those that were named, else known benchmarks of general skill."""
    if preserve is not None:
        leaves = {leaf for name in preserve for leaf in leaf_tasks(baseline.results, name)}
        return {task for task in tasks if task in preserve or task in leaves}
    return {
        task
        for task in tasks
        if task.startswith(PRESERVATION_TASKS)
        or task.endswith("_skills")
        or baseline.setting("configs", task, "metadata", "preserve")
    }


def check_preserve(baseline: Run, preserve: Sequence[str] | None) -> None:
    """Refuse a preserved task that was not evaluated.

    Raises:
        GrainsError: neither a task nor a group of the baseline.
    """
    known = {*baseline.tasks, *baseline.results.get("groups", {}), *baseline.results.get("group_subtasks", {})}
    for name in preserve or ():
        if name not in known:
            raise unknown(name, known, "task to preserve")


def against_controls(
    chosen: Sequence[Row],
    runs: Sequence[Run],
    controlled: set[str],
    kept: set[str],
    alpha: float,
    rows_of: Callable[[Run, Run, Sequence[str] | None, Sequence[str] | None], list[Row]],
) -> tuple[AgainstControl, ...]:
    """Each method that is better than the baseline, compared with the control that gained most.

    Vectors with the vocabulary direction projected out are left aside: a tie with them speaks for the method.
    """
    by_name = {run.name: run for run in runs}
    found: list[tuple[str, str, Row]] = []
    for row in chosen:
        mine = row.comparison
        if mine.method in controlled or mine.task in kept or answer(mine, alpha) != "better":
            continue
        rivals = [
            other.comparison
            for other in chosen
            if other.comparison.method in controlled
            and not _ABLATED.search(other.comparison.method.lower())
            and (other.comparison.task, other.comparison.metric) == (mine.task, mine.metric)
        ]
        if not rivals:
            continue
        rival = max(rivals, key=gain).method
        metric = mine.metric.partition(",")[0]
        paired = [
            candidate
            for candidate in rows_of(by_name[rival], by_name[mine.method], (mine.task,), (metric,))
            if (candidate.comparison.task, candidate.comparison.metric) == (mine.task, mine.metric)
        ]
        found.extend((mine.method, rival, candidate) for candidate in paired)
    adjusted = adjust([row for _, _, row in found])
    return tuple(AgainstControl(method, rival, row) for (method, rival, _), row in zip(found, adjusted, strict=True))


def draw_ranges(bands: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> tuple[Band, ...]:
    """The range of each control that has several draws."""
    made: list[Band] = []
    for label, members in bands.items():
        draws: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if row.comparison.method in members:
                key = (row.comparison.task, row.comparison.metric)
                draws.setdefault(key, []).append(row.comparison.difference)
        made.append(
            Band(
                label=label,
                members=tuple(members),
                low={key: min(values) for key, values in draws.items()},
                mean={key: math.fsum(values) / len(values) for key, values in draws.items()},
                high={key: max(values) for key, values in draws.items()},
            )
        )
    return tuple(made)
