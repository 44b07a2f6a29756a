"""The report in Markdown, without figures and items."""

from __future__ import annotations

from collections.abc import Sequence

from grains_eval.report.data import ReportData
from grains_eval.report.summary import HEADER, summary
from grains_eval.report.tables import (
    COLUMNS,
    SKILLS,
    SKILLS_NOTE,
    band_lines,
    caption,
    cells,
    claims,
    control_lines,
    procedure_lines,
    verdict_cells,
)


def to_markdown(report: ReportData) -> str:
    """The report without figures and items."""
    parts = [f"# {_inline(report.title)}", "", f"**{_inline(report.headline)}**", ""]
    if overview := summary(report):
        parts += [*_markdown_table(HEADER, overview, [False] * len(HEADER)), ""]
    rows = [cells(row.comparison, report) for row in report.rows]
    rows += [("", "", name, reason, *[""] * 4, verdict, *[""] * 5) for name, reason, verdict in report.without_result]
    parts += _markdown_table([name for name, _ in COLUMNS], rows, [numeric for _, numeric in COLUMNS])
    parts += ["", _inline(caption(report))]
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
        parts += ["", f"## {_inline(table.title)}", ""]
        parts += _markdown_table(table.header, table.rows, [False] + [True] * (len(table.header) - 1))
        parts += ["", _inline(table.note)]
    parts += ["", "## What gave p and interval", ""]
    parts += [f"- {_inline(line)}" for line in procedure_lines(report)]
    parts += ["", "## What was run", ""]
    for run in report.runs:
        parts.append(f"- **{_inline(run.name)}** ({run.role}), {_inline(run.file)}, SHA-256 {run.digest}")
        parts += [f"    - {label}: {_inline(text)}" for label, text in run.facts]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    parts += ["", f"Written {report.created} with {versions}."]
    return "\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    lines = [
        f"| {' | '.join(_inline(name) for name in header)} |",
        f"|{'|'.join('---:' if right else '---' for right in numeric)}|",
    ]
    return [*lines, *(f"| {' | '.join(_inline(cell) for cell in row)} |" for row in rows)]


def _inline(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
