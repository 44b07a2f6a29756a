"""What the tables hold, whichever form they are written in: columns, cells, and the sentences below."""

from __future__ import annotations

from collections.abc import Sequence

from grains_eval.comparison.controls import Band
from grains_eval.comparison.verdict import answer
from grains_eval.report.data import ReportData
from grains_eval.report.formatting import (
    change,
    confidence,
    interval,
    level,
    no_verdict,
    p_phrase,
    p_value,
    procedure,
    share,
    unit,
)
from grains_eval.report.headline import all_kept, would_tell
from grains_eval.types import Comparison

# One line per column: heading, whether it is a number, cell.
COLUMNS = (
    ("task", False),
    ("metric", False),
    ("method", False),
    ("layers: strength", False),
    ("baseline", True),
    ("steered", True),
    ("difference", True),
    ("interval", True),
    ("verdict", False),
    ("adjusted p", True),
    ("p", True),
    ("n", True),
    ("helped / harmed / same", True),
    ("anti-steered", True),
)


def cells(row: Comparison, report: ReportData) -> tuple[str, ...]:
    """The texts of one row, in the order of `COLUMNS`."""
    return (
        row.task,
        row.metric + {True: "", False: " ↓", None: " ?"}[row.higher_is_better],
        row.method,
        report.settings.get(row.method, ""),
        level(row.baseline, row.scale),
        level(row.steered, row.scale),
        change(row.difference, row.scale),
        interval(row.interval, row.scale),
        answer(row, report.alpha),
        p_value(row.adjusted_p),
        p_value(row.p),
        f"{row.n:,}",
        f"{row.helped:,} / {row.harmed:,} / {row.unchanged:,}",
        share(row.anti_steered),
    )


def procedures(rows: Sequence[Comparison]) -> list[tuple[str, str]]:
    """What gave p and interval in one table: the methods, named only where they differ, and the sentence."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(procedure(row), []).append(row.method)
    return [("" if len(found) == 1 else ", ".join(methods), said) for said, methods in found.items()]


def procedure_lines(report: ReportData) -> list[str]:
    """What gave p and interval, task by task."""
    grouped: dict[str, list[Comparison]] = {}
    for row in report.rows:
        grouped.setdefault(f"{row.comparison.task} {row.comparison.metric}", []).append(row.comparison)
    return [
        f"{name}{methods and f', {methods}'}: {said}."
        for name, rows in grouped.items()
        for methods, said in procedures(rows)
    ]


def band_cells(report: ReportData, band: Band, key: tuple[str, str], row: Comparison) -> tuple[str, ...]:
    """Several draws of one control in the columns of the terminal: their mean, and their range as the interval."""
    bounds = (band.low[key], band.high[key])
    return (
        band.heading,
        report.settings[band.heading],
        level(row.baseline, row.scale),
        level(row.baseline + band.mean[key], row.scale),
        change(band.mean[key], row.scale),
        f"{interval(bounds, row.scale)} (range)",
        "",
        "",
        "",
    )


def caption(report: ReportData, *, whole: bool = True) -> str:
    """What the table's numbers are.

    Args:
        report: The report.
        whole: Explain the columns too that only the files have.
    """
    excluded = max((row.comparison.excluded for row in report.rows), default=0)
    held_out = (
        f" Up to {excluded:,} items a task built or tuned a vector and are left out for every method."
        if excluded
        else ""
    )
    further = ""
    if report.further_metrics:
        listed = "; ".join(f"{task} {', '.join(names)}" for task, names in report.further_metrics.items())
        further = f" One metric a task: {listed} also measured, with rows under --all_metrics."
    apart = ", and apart from them over all rows of controls" if report.controls else ""
    pushed = "; anti-steered: items pushed the wrong way" if whole else ""
    return (
        "Differences in points where the metric is a share or out of 100; "
        f"{confidence(report.alpha)} intervals; p adjusted by Holm over all rows of methods{apart}{pushed}."
        f"{held_out}{further}"
    )


def control_lines(report: ReportData) -> list[str]:
    """Methods against their strongest control, one sentence each."""
    lines: list[str] = []
    for item in report.against_controls:
        row = item.row.comparison
        found = answer(row, report.alpha)
        rival = f"its strongest control, {item.control}, on {row.task} {row.metric}"
        if why := no_verdict(row):
            lines.append(f"Whether {item.method} differs from {rival}, cannot be told: {why}.")
            continue
        verb = {
            "better": "is better than",
            "worse": "is worse than",
            "changed": "differs from",
            "not shown": "is not shown to differ from",
        }[found]
        lines.append(
            f"{item.method} {verb} {rival}: "
            f"{change(row.difference, row.scale)} {unit(row.scale)} ({interval(row.interval, row.scale)}, "
            f"adjusted {p_phrase(row.adjusted_p)}; {procedure(row)})."
        )
    return lines


def band_lines(report: ReportData) -> list[str]:
    """Ranges of controls with several draws, one sentence each."""
    scales = {row.key: row.comparison.scale for row in report.rows}
    return [
        f"{band.heading} on {task} {metric}: "
        f"{change(band.low[task, metric], scales[task, metric])} to "
        f"{change(band.high[task, metric], scales[task, metric])}, "
        f"mean {change(band.mean[task, metric], scales[task, metric])}."
        for band in report.bands
        for task, metric in band.low
        if not report.targets or (task, metric) in report.targets
    ]


# The table of preserved skills: heading, whether it is a number.
SKILLS = (
    ("task", False),
    ("metric", False),
    ("method", False),
    ("verdict", False),
    ("change", True),
    ("interval", True),
    ("margin", True),
    ("n", True),
    ("clusters", True),
    ("error rates", False),
    ("what would tell", False),
)
SKILLS_NOTE = (
    "Kept: a loss of the margin or more is ruled out. Lost: a loss larger than the margin is shown, or one that may be "
    "smaller. Cannot tell: neither; the last column says how many items, or clusters, would tell a difference like "
    "this one with 80 % power. No verdict: too few for any. The tasks of one method are judged together: that all are "
    "kept is one claim, and where not all are, each is adjusted for their number (Holm)."
)


def claims(report: ReportData) -> list[str]:
    """Which methods keep all that was to be preserved, one sentence each."""
    return [f"{claim}." for claim in all_kept([v for v in report.verdicts if v.method not in report.controls])]


def verdict_cells(report: ReportData) -> list[tuple[str, ...]]:
    """Rows of the table of preserved skills, in the order of `SKILLS`."""
    return [
        (
            v.task,
            v.metric,
            v.method,
            "no verdict" if v.units_needed is not None else v.answer,
            change(v.gain, v.scale),
            interval(v.interval, v.scale),
            level(v.margin, v.scale),
            f"{v.n:,}",
            "" if v.clusters is None else f"{v.clusters:,}",
            "" if v.units_needed is not None or not v.assumption else "guaranteed" if v.guaranteed else "approximate",
            would_tell(v) if v.answer == "cannot tell" else "",
        )
        for v in report.verdicts
    ]
