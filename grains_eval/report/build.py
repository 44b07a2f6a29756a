"""Many runs to one report: `compare_runs`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grains_eval.comparison.checks import check_levels
from grains_eval.comparison.noninferiority import CapabilityVerdict, judge_rows
from grains_eval.comparison.roles import (
    against_controls,
    check_named,
    control_names,
    draw_ranges,
    headline_rows,
    task_roles,
)
from grains_eval.comparison.rows import Groups, Row, adjust, compare_pair
from grains_eval.comparison.runs import Run, name_runs, read_run
from grains_eval.comparison.verdict import answer
from grains_eval.errors import GrainsError
from grains_eval.report.changed_items import changes
from grains_eval.report.data import Curve, ReportData, StudyTable, TokenMap
from grains_eval.report.headline import headline
from grains_eval.report.run_cards import run_card
from grains_eval.types import Comparison


def compare_runs(
    paths: Sequence[str | Path] | Mapping[str, str | Path],
    output: Path | None = None,
    console: Any = None,
    *,
    alpha: float = 0.05,
    margin: float = 0.01,
    overwrite: bool = False,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    headline_metrics: Mapping[str, str] | None = None,
    targets: Sequence[str] | None = None,
    preserve: Sequence[str] | None = None,
    clusters: Mapping[str, str] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    exclude: Collection[str] | None = None,
    subtasks: bool = False,
    groups: Groups = "fixed",
    prompts_may_differ: Collection[str] | bool = False,
    controls: Collection[str] | None = None,
    beside: Mapping[str, Collection[str]] | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    failures: Mapping[str, str] | None = None,
    keep_going: bool = False,
    tables: Sequence[StudyTable] = (),
    curves: Sequence[Curve] = (),
    token_maps: Sequence[TokenMap] = (),
    items: int = 5,
    title: str | None = None,
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ReportData:
    """Compare runs of lm-eval with the first of them, and write and print the report where asked.

    Args:
        paths: Run folders, the baseline first; a mapping also names them.
        output: Folder for `report.html`, `report.md`, `report.json`, `comparisons.csv`; None writes nothing.
        console: A rich console to print the tables to; None prints nothing.
        alpha: One minus the confidence level, and the level of "better" and "worse" after adjustment.
        margin: Loss on preservation tasks that still counts as kept, as a share (0.01 is one point).
        overwrite: Replace a report in `output`.
        tasks: Tasks or groups to restrict to.
        metrics: Metrics to restrict to.
        headline_metrics: The metric that speaks for a task; default: accuracy where there is one.
        targets: Tasks or groups that were to improve; default: all that nothing declares preserved.
        preserve: Tasks or groups whose score must not fall; default: those that the runs' artifacts, else the tasks'
            metadata, declare.
        clusters: Document field that names the cluster, by task or group.
        higher_is_better: Direction by metric, for those that no task declares one for; without it they get no verdict.
        exclude: Document hashes to leave out, on top of those that built or tuned any run's vector.
        subtasks: Also give a row to each task of an aggregated group.
        groups: What a group's row speaks of: "fixed", these subtasks; "sampled", subtasks like these, which makes
            them the clusters.
        prompts_may_differ: Runs that prompt differently by design; prompting artifacts are recognised.
        controls: Names of control runs; default: those whose artifacts say that they are.
        beside: Method to the controls at its own setting; those of other methods alone are no rivals of it.
        bands: Control label to the runs that are its draws.
        failures: Reason by method, for methods without a run: each becomes a row.
        keep_going: Turn a run that cannot be compared into such a row instead of raising.
        tables: Tables to show.
        curves: Figures to show.
        token_maps: Heat maps to show.
        items: Most helped and most harmed items to show in full, each.
        title: Heading of the report.
        notes: Further notes for the reader.
        extra: Anything else for `report.json`.
        seed: Seed of resampling tests.

    Raises:
        GrainsError: fewer than two runs, a run that cannot be compared, a choice that does not fit them, or a report
            that is in the way.
    """
    from grains_eval.report.write import refuse_existing, write

    check_levels(alpha, margin)
    if output is not None and not overwrite:
        refuse_existing(Path(output))
    failed = dict(failures or {})
    runs = _read(paths, failed, keep_going)
    if not isinstance(paths, Mapping):  # under names of their own, it is meant
        _refuse_twice(runs)
    if len(runs) < 2 and not failed:
        raise GrainsError("compare needs at least two runs: the baseline first, then the others")
    baseline, others = runs[0], runs[1:]
    if not keep_going:  # a study has evaluated what it names; a failure there is a row
        check_named(baseline, targets, "target task")
        check_named(baseline, preserve, "task to preserve")
    hidden = frozenset[str]().union(*(run.held_out_from() for run in runs), exclude or ())
    free = prompts_may_differ if not isinstance(prompts_may_differ, bool) else ()
    remarks: list[str] = []

    def rows_of(first: Run, second: Run, only: Sequence[str] | None, wanted: Sequence[str] | None) -> list[Row]:
        found, said = compare_pair(
            first,
            second,
            alpha=alpha,
            exclude=hidden,
            tasks=only,
            metrics=wanted,
            clusters=clusters or {},
            higher_is_better=higher_is_better,
            subtasks=subtasks,
            groups=groups,
            prompts_may_differ=prompts_may_differ is True or bool({first.name, second.name} & set(free)),
            seed=seed,
        )
        remarks.extend(note for note in said if note not in remarks)
        return [replace(row, comparison=replace(row.comparison, method=second.name)) for row in found]

    rows: list[Row] = []
    for run in others:
        try:
            rows.extend(rows_of(baseline, run, tasks, metrics))
        except GrainsError as error:
            if not keep_going:
                raise
            failed[run.name] = str(error)
    roles = task_roles(runs, list(dict.fromkeys(row.comparison.task for row in rows)), targets, preserve)
    remarks.extend(roles.notes)
    found = dict.fromkeys((row.comparison.task, row.comparison.metric) for row in rows)
    # as in the headline: what was to improve first, what was to be preserved last
    order = sorted(found, key=lambda key: (key[0] in roles.preserved, key[0] not in roles.targets))
    controlled = control_names(others, controls, strict=not keep_going)
    rows = adjust(
        sorted(rows, key=lambda row: order.index((row.comparison.task, row.comparison.metric))), controlled, alpha=alpha
    )
    chosen = headline_rows(rows, headline_metrics or {})
    comparisons = [row.comparison for row in chosen]
    wanted = [c for c in comparisons if c.task in roles.targets]
    undirected = [c for c in comparisons if c.higher_is_better is None]
    kept = [row for row in chosen if row.comparison.task in roles.preserved and row.comparison not in undirected]
    judged = judge_rows(kept, margin, alpha=alpha)
    verdicts = _shown_losses(judged, comparisons, alpha)
    remarks.extend(dict.fromkeys(_ask_direction(c) for c in undirected))
    rivals = against_controls(chosen, runs, controlled, roles.targets, alpha, rows_of, beside or {})
    report = ReportData(
        title=title or _title([run.name for run in others], baseline.name),
        headline=headline(
            [c for c in wanted if c.method not in controlled],
            [v for v in verdicts if v.method not in controlled],
            alpha,
            rivals,
            roles.missing,
        ),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        alpha=alpha,
        margin=margin,
        runs=tuple(
            run_card(r, "baseline" if r is baseline else "control" if r.name in controlled else "method") for r in runs
        ),
        rows=tuple(rows),
        targets=tuple(dict.fromkeys((c.task, c.metric) for c in wanted)),
        verdicts=verdicts,
        against_controls=rivals,
        failures=failed,
        changes=tuple(
            changes(row, items)
            for row in chosen
            if row.comparison.task in roles.targets and row.comparison.method not in controlled
        ),
        bands=draw_ranges(bands or {}, rows),
        tables=tuple(tables),
        curves=tuple(curves),
        token_maps=tuple(token_maps),
        notes=(*remarks, *notes),
        versions=_versions(),
        extra=dict(extra or {}),
    )
    if output is not None:
        write(report, Path(output), overwrite=overwrite)
    if console is not None:
        from grains_eval.report.tables import render_terminal

        render_terminal(report, console, folder=output)
    return report


def _shown_losses(
    verdicts: Sequence[CapabilityVerdict], rows: Sequence[Comparison], alpha: float
) -> tuple[CapabilityVerdict, ...]:
    """A loss that is shown is a loss, also where it cannot be told whether it is above the margin."""
    shown = {(row.method, row.task, row.metric) for row in rows if answer(row, alpha) == "worse"}
    return tuple(
        replace(verdict, answer="lost", items_needed=None, clusters_needed=None)
        if verdict.answer == "cannot tell" and (verdict.method, verdict.task, verdict.metric) in shown
        else verdict
        for verdict in verdicts
    )


def _ask_direction(row: Comparison) -> str:
    metric = row.metric.partition(",")[0]
    return (
        f"{row.task}: nobody declared whether a higher {metric} is better, so it has no verdict; pass "
        f"--higher_is_better {metric}=true or {metric}=false, or declare it in the task's metric_list"
    )


def _read(
    paths: Sequence[str | Path] | Mapping[str, str | Path], failed: dict[str, str], keep_going: bool
) -> list[Run]:
    named = list(paths.items()) if isinstance(paths, Mapping) else [(None, path) for path in paths]
    runs: list[Run] = []
    for name, path in named:
        try:
            runs.append(read_run(path, name))
        except GrainsError as error:
            if not keep_going or not runs:
                raise
            failed[name or Path(path).name] = str(error)
    if not runs:
        raise GrainsError("compare needs at least two runs: the baseline first, then the others")
    if isinstance(paths, Mapping):
        return runs
    return [replace(run, name=name) for run, name in zip(runs, name_runs(runs), strict=True)]


def _refuse_twice(runs: Sequence[Run]) -> None:
    seen: dict[Path, str] = {}
    for run in runs:
        file = run.file.resolve()
        if file in seen:
            raise GrainsError(f"'{seen[file]}' and '{run.name}' are the same run, {run.file}; give each run once")
        seen[file] = run.name


def _title(names: Sequence[str], baseline: str) -> str:
    if len(names) <= 3:
        return f"{', '.join(names)} against {baseline}"
    return f"{len(names)} runs against {baseline}"


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("grains-eval", "scipy", "statsmodels", "numpy", "sacrebleu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
