"""Runs to a report: read, compare and judge them, lay the findings out, write and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from grains_eval.comparison.controls import draw_ranges
from grains_eval.comparison.logs import read_runs
from grains_eval.comparison.many_runs import Findings, compare_all
from grains_eval.comparison.runs import Run
from grains_eval.comparison.settings import Analysis, Question
from grains_eval.errors import GrainsError
from grains_eval.report.changed_items import changes
from grains_eval.report.data import ReportData, Role, Supplement
from grains_eval.report.grid import grid_curves
from grains_eval.report.headline import headline
from grains_eval.report.leaderboard import subtask_data, subtask_notes, subtask_tables
from grains_eval.report.run_cards import run_card
from grains_eval.report.terminal import render_terminal
from grains_eval.report.write import refuse_existing, write
from grains_eval.versions import package_versions

_PACKAGES = ("grains-eval", "scipy", "statsmodels", "numpy", "sacrebleu")  # what its numbers depend on


def compare_runs(
    paths: Sequence[str | Path] | Mapping[str, str | Path],
    output: str | Path | None = None,
    console: Any = None,
    *,
    analysis: Analysis = Analysis(),
    question: Question = Question(),
    supplement: Supplement = Supplement(),
    overwrite: bool = False,
    keep_going: bool = False,
) -> ReportData:
    """Compare runs of lm-eval with the first of them, and write and print the report where asked.

    Args:
        paths: Run folders, the baseline first; a mapping also names them.
        output: Folder for `report.html`, `report.md`, `report.json`, `comparisons.csv`; None writes nothing.
        console: A rich console to print the tables to; None prints nothing.
        analysis: How two runs are compared: level, tasks, metrics, clusters and so on.
        question: What is asked of them: targets, preserved tasks, margin, controls.
        supplement: What the report shows besides: title, notes, figures, failures.
        overwrite: Replace a report in `output`.
        keep_going: Turn a run that cannot be read or compared into a failure, which is a row, instead of raising.

    Raises:
        GrainsError: fewer than two runs, a run that cannot be compared, a choice that does not fit them, or a report
            that is in the way.
    """
    folder = None if output is None else Path(output)
    if folder is not None and not overwrite:
        refuse_existing(folder)
    runs, unread = read_runs(paths, keep_going=keep_going)
    supplement = replace(supplement, failures={**supplement.failures, **unread})
    if len(runs) < 2 and not supplement.failures:
        raise GrainsError("compare needs at least two runs: the baseline first, then the others")
    findings = compare_all(runs, analysis, question, keep_going=keep_going)
    report = lay_out(findings, analysis.alpha, question.margin, supplement)
    if folder is not None:
        write(report, folder, overwrite=overwrite)
    if console is not None:
        render_terminal(report, console, folder=folder)
    return report


def lay_out(findings: Findings, alpha: float, margin: float, supplement: Supplement) -> ReportData:
    """Findings and what is shown beside them as the content of a report.

    Args:
        findings: What the comparison shows.
        alpha: One minus its confidence level.
        margin: Loss on preserved tasks that still counts as kept, as a share.
        supplement: What is shown besides.
    """
    roles, controls = findings.roles, findings.controls
    targets = [row for row in findings.headline if row.comparison.task in roles.targets]
    of_methods = [row for row in targets if row.comparison.method not in controls]
    keys = tuple(dict.fromkeys(row.key for row in targets))
    over_grid = grid_curves(supplement.grid, findings.headline, keys, alpha) if supplement.grid else []
    return ReportData(
        title=supplement.title or _title(findings.runs),
        headline=headline(
            [row.comparison for row in of_methods],
            [verdict for verdict in findings.verdicts if verdict.method not in controls],
            alpha,
            findings.against_controls,
            roles.missing,
        ),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        alpha=alpha,
        margin=margin,
        runs=tuple(run_card(run, _role(run, findings)) for run in findings.runs),
        rows=findings.rows,
        targets=keys,
        verdicts=findings.verdicts,
        against_controls=findings.against_controls,
        further_metrics=findings.further_metrics,
        failures={**supplement.failures, **findings.failures},
        absent=supplement.absent,
        changes=tuple(changes(row, supplement.items) for row in of_methods),
        bands=draw_ranges(supplement.bands, findings.rows),
        tables=(*subtask_tables(findings.subtasks, controls, alpha), *supplement.tables),
        curves=(*over_grid, *supplement.curves),
        token_maps=tuple(supplement.token_maps),
        notes=(*subtask_notes(findings.subtasks, controls, alpha), *findings.notes, *supplement.notes),
        versions=package_versions(_PACKAGES),
        extra={**supplement.extra, **({"subtasks": subtask_data(findings.subtasks)} if findings.subtasks else {})},
    )


def _role(run: Run, findings: Findings) -> Role:
    if run is findings.runs[0]:
        return "baseline"
    return "control" if run.name in findings.controls else "method"


def _title(runs: Sequence[Run]) -> str:
    baseline, *others = (run.name for run in runs)
    if len(others) <= 3:
        return f"{', '.join(others)} against {baseline}"
    return f"{len(others)} runs against {baseline}"
