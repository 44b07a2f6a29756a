"""The table for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from grains_eval.report.data import Band, ReportData, StudyTable
from grains_eval.report.headline import all_kept, would_tell
from grains_eval.report.published import published_tables
from grains_eval.report.wording import (
    answer,
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
from grains_eval.types import Comparison

# One line per column: heading, whether it is a number, cell.
COLUMNS = (
    ("task", False),
    ("metric", False),
    ("method", False),
    ("blocks: strength", False),
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


# Columns that fit a terminal; the files hold all of them.
_TERMINAL = (
    "method",
    "blocks: strength",
    "baseline",
    "steered",
    "difference",
    "interval",
    "verdict",
    "adjusted p",
    "helped / harmed / same",
)


# Below how many columns which of them go, the least important first.
_LEFT_OUT = (
    (70, frozenset({"blocks: strength", "baseline", "steered", "helped / harmed / same", "verdict"})),
    (90, frozenset({"blocks: strength", "baseline", "helped / harmed / same"})),
    (112, frozenset({"helped / harmed / same"})),
)


def add_column(table: Table, name: str, *, numeric: bool, fold: bool = False) -> None:
    """A column whose words stay whole: only names may break within, and headings between their words."""
    longest = max(len(word) for word in name.split())
    table.add_column(name, justify="right" if numeric else "left", overflow="fold", min_width=4 if fold else longest)


def render_terminal(report: ReportData, console: Any, *, folder: Path | None = None) -> None:
    """Print verdict, a table per task and notes to a rich console; draws of one control share a row."""
    console.print(f"[bold]{escape(report.headline)}[/bold]", highlight=False)
    left_out = next((names for width, names in _LEFT_OUT if console.width < width), frozenset[str]())
    kept = [name for name in _TERMINAL if name not in left_out]
    shown = [index for index, (name, _) in enumerate(COLUMNS) if name in kept]
    styles = {"better": "bold", "worse": "bold", "changed": "bold"}
    drawn = {member for band in report.bands for member in band.members}
    keys = dict.fromkeys((row.comparison.task, row.comparison.metric) for row in report.rows)
    for key in keys:
        rows = [row.comparison for row in report.rows if (row.comparison.task, row.comparison.metric) == key]
        better = {True: "", False: ", lower is better", None: ", no direction declared"}[rows[0].higher_is_better]
        table = Table(title=escape(f"{key[0]}, {key[1]}{better}, {rows[0].n:,} items"), title_justify="left")
        for index in shown:
            name, numeric = COLUMNS[index]
            add_column(table, name, numeric=numeric, fold=name == "method")
        for row in rows:
            if row.method not in drawn:
                texts = cells(row, report)
                table.add_row(
                    *(escape(texts[index]) for index in shown), style=styles.get(answer(row, report.alpha), "")
                )
        for band in report.bands:
            if key in band.mean:
                drawn_cells: dict[str, str] = dict(zip(_TERMINAL, band_cells(report, band, key, rows[0]), strict=True))
                table.add_row(*(escape(drawn_cells[name]) for name in kept), style="dim")
        console.print(table)
        for methods, said in _procedures(rows):
            console.print(escape(f"p and interval{methods and f' of {methods}'}: {said}"), style="dim", highlight=False)
    console.print(escape(caption(report, whole=False)), style="dim", highlight=False)
    for study in report.tables:
        console.print(_terminal_table(study))
    for method, reason in report.failures.items():
        console.print(f"{escape(method)} failed: {escape(reason)}", highlight=False)
    for line in control_lines(report):
        console.print(escape(line), highlight=False)
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    if folder is not None:
        console.print(f"report: {escape(str(Path(folder) / 'report.html'))}", highlight=False, soft_wrap=True)


def _terminal_table(study: StudyTable) -> Table:
    table = Table(title=escape(study.title), title_justify="left", caption=escape(study.note), caption_justify="left")
    for index, name in enumerate(study.header):
        add_column(table, escape(name), numeric=index > 0, fold=index == 0)
    for row in study.rows:
        table.add_row(*map(escape, row))
    return table


def _procedures(rows: Sequence[Comparison]) -> list[tuple[str, str]]:
    """What gave p and interval in one table: methods, which are named only where they differ in it, and sentence."""
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
        for methods, said in _procedures(rows)
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
    apart = ", and apart from them over all rows of controls" if report.controls else ""
    pushed = "; anti-steered: items pushed the wrong way" if whole else ""
    return (
        "Differences in points where the metric is a share or out of 100; "
        f"{confidence(report.alpha)} intervals; p adjusted by Holm over all rows of methods{apart}{pushed}.{held_out}"
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
    scales = {(row.comparison.task, row.comparison.metric): row.comparison.scale for row in report.rows}
    return [
        f"{band.heading} on {task} {metric}: "
        f"{change(band.low[task, metric], scales[task, metric])} to "
        f"{change(band.high[task, metric], scales[task, metric])}, "
        f"mean {change(band.mean[task, metric], scales[task, metric])}."
        for band in report.bands
        for task, metric in band.low
        if not report.targets or (task, metric) in report.targets
    ]


def to_markdown(report: ReportData) -> str:
    """The report without figures and items."""
    parts = [f"# {_inline(report.title)}", "", f"**{_inline(report.headline)}**", ""]
    rows = [cells(row.comparison, report) for row in report.rows]
    rows += [("", "", name, reason, *[""] * 4, "failed", *[""] * 5) for name, reason in report.failures.items()]
    parts += _markdown_table([name for name, _ in COLUMNS], rows, [numeric for _, numeric in COLUMNS])
    parts += ["", caption(report)]
    lines = [*control_lines(report), *band_lines(report), *report.notes]
    if lines:
        parts += ["", *(f"- {_inline(line)}" for line in lines)]
    if report.verdicts:
        parts += ["", "## Skills", ""]
        parts += _markdown_table([name for name, _ in SKILLS], verdict_cells(report), [right for _, right in SKILLS])
        parts += ["", _inline(SKILLS_NOTE)]
        if said := claims(report):
            parts += ["", *(f"- {_inline(claim)}" for claim in said)]
    for table in report.tables:
        parts += ["", f"## {table.title}", ""]
        parts += _markdown_table(table.header, table.rows, [False] + [True] * (len(table.header) - 1))
        parts += ["", _inline(table.note)]
    parts += ["", "## What gave p and interval", ""]
    parts += [f"- {_inline(line)}" for line in procedure_lines(report)]
    for published in published_tables(report):
        parts += ["", f"## Published, not measured here: {published.title}", ""]
        parts += _markdown_table(published.header, published.rows, [False] + [True] * (len(published.header) - 1))
        parts += ["", _inline(published.source)]
    parts += ["", "## What was run", ""]
    for run in report.runs:
        parts.append(f"- **{_inline(run.name)}** ({run.role}), {_inline(run.file)}, SHA-256 {run.digest}")
        parts += [f"    - {label}: {_inline(text)}" for label, text in run.facts]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    parts += ["", f"Written {report.created} with {versions}."]
    return "\n".join(parts) + "\n"


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


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('---:' if right else '---' for right in numeric)}|"]
    return [*lines, *(f"| {' | '.join(_inline(cell) for cell in row)} |" for row in rows)]


def _inline(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
