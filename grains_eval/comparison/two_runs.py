"""Two runs to rows: `compare(baseline, steered)`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from grains_eval.comparison.estimates import Row, adjust, estimate_rows
from grains_eval.comparison.item_metrics import measure_tasks
from grains_eval.comparison.leaderboard_rows import leaderboard_rows
from grains_eval.comparison.leaderboards import LEADERBOARDS, Leaderboard
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.pairing import check, common_tasks
from grains_eval.comparison.runs import Run, name_runs
from grains_eval.comparison.settings import Analysis, Groups
from grains_eval.errors import GrainsError
from grains_eval.types import Comparison


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
    leaderboard: str | None = None,
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
        groups: What a group's row is about: "fixed", these subtasks; "sampled", subtasks like these, which makes
            them the clusters.
        prompts_may_differ: Accept other prompts for the same documents (prompting baselines).
        leaderboard: `open_llm_v2` or `open_llm_v1`: the rows are its benchmarks and their mean.
        seed: Seed of resampling tests.

    Raises:
        GrainsError: the runs cannot be compared; one line says why.
    """
    analysis = Analysis(
        alpha=alpha,
        tasks=tasks,
        metrics=metrics,
        clusters=clusters or {},
        higher_is_better=higher_is_better or {},
        exclude=exclude or (),
        subtasks=subtasks,
        groups=groups,
        prompts_may_differ=prompts_may_differ,
        leaderboard=leaderboard,
        seed=seed,
    )
    baseline, other = (run if isinstance(run, Run) else read_run(run) for run in (baseline_run, steered_run))
    rows, _ = compare_pair(baseline, other, held_out(analysis, [baseline, other]))
    rows = [row for row in rows if not row.within]
    method = name_runs([other])[0]
    return [replace(row.comparison, method=method) for row in adjust(rows, alpha=alpha)]


def held_out(analysis: Analysis, runs: Sequence[Run]) -> Analysis:
    """The analysis without the documents that built or tuned what steered any of these runs."""
    return replace(analysis, exclude=frozenset(analysis.exclude).union(*(run.held_out_from() for run in runs)))


def compare_pair(baseline: Run, other: Run, analysis: Analysis) -> tuple[list[Row], list[str]]:
    """Rows of one pair of runs, not yet adjusted, and notes for the reader.

    Args:
        baseline: The run that the other is compared with.
        other: The other run, whose name the rows bear.
        analysis: How, with all documents to leave out.

    Raises:
        GrainsError: the runs cannot be compared.
    """
    if baseline.tool != other.tool:
        raise GrainsError(
            f"'{baseline.name}' is a run of {baseline.tool} and '{other.name}' one of {other.tool}; each asks and "
            "scores in ways of its own, so compare runs of one tool"
        )
    board = LEADERBOARDS[analysis.leaderboard] if analysis.leaderboard else None
    tasks = common_tasks(baseline, other, _wanted(board, baseline, other, analysis.tasks))
    notes = [*baseline.notes, *other.notes]
    notes += check(baseline, other, tasks, prompts_may_differ=analysis.allows_other_prompts(baseline, other))
    rows: list[Row] = []
    if board is not None:
        on_board = set(board.tasks_in(baseline.results))
        of_board = [task for task in tasks if task in on_board]
        tasks = tuple(task for task in tasks if task not in on_board)
        if of_board:
            measured, said = measure_tasks(baseline, other, of_board, replace(analysis, metrics=None))
            rows, remarks = leaderboard_rows(board, baseline, other, measured, analysis)
            if not rows and not tasks:
                missing = "; ".join(remark for remark in remarks if "left out" in remark)
                raise GrainsError(f"no benchmark of the leaderboard is whole: {missing}; evaluate all tasks of one")
            notes += [*(note for note in said if note not in notes), *remarks]
    if tasks:
        measured, on_metrics = measure_tasks(baseline, other, tasks, analysis)
        found, on_groups = estimate_rows(baseline, other, measured, analysis)
        rows = [*rows, *found]
        notes += [*(note for note in on_metrics if note not in notes), *on_groups]
    return rows, notes


def _wanted(board: Leaderboard | None, baseline: Run, other: Run, tasks: Sequence[str] | None) -> Sequence[str] | None:
    """What to compare: the tasks that are named, and of a leaderboard without any its own that both runs have.

    Raises:
        GrainsError: they have none of its tasks.
    """
    if board is None:
        return tasks
    if tasks is not None:
        return board.expanded(tasks, baseline.results)
    found = [task for task in board.tasks_in(baseline.results) if task in baseline.tasks and task in other.tasks]
    if not found:
        raise GrainsError(
            f"'{baseline.name}' and '{other.name}' share no task of the leaderboard; run lm_eval with "
            f"--tasks {board.group} and --log_samples for both"
        )
    return found
