"""The report in the terminal, with the columns that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from grains_eval.comparison.verdict import answer
from grains_eval.report.data import ReportData, StudyTable
from grains_eval.report.summary import HEADER, summary
from grains_eval.report.tables import COLUMNS, band_cells, caption, cells, control_lines, procedures

# Columns that fit a terminal; the files hold all of them.
_TERMINAL = (
    "method",
    "layers: strength",
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
    (70, frozenset({"layers: strength", "baseline", "steered", "helped / harmed / same", "verdict"})),
    (90, frozenset({"layers: strength", "baseline", "helped / harmed / same"})),
    (112, frozenset({"helped / harmed / same"})),
)


def add_column(table: Table, name: str, *, numeric: bool, fold: bool = False) -> None:
    """A column whose words stay whole: only names may break within, and headings between their words."""
    longest = max(len(word) for word in name.split())
    table.add_column(name, justify="right" if numeric else "left", overflow="fold", min_width=4 if fold else longest)


def render_terminal(report: ReportData, console: Any, *, folder: Path | None = None) -> None:
    """Print verdict, a table per task and notes to a rich console; draws of one control share a row."""
    console.print(f"[bold]{escape(report.headline)}[/bold]", highlight=False)
    overview = summary(report)
    if len(overview) > 1:
        console.print(_terminal_table(StudyTable("", HEADER, tuple(overview)), numeric=False))
    left_out = next((names for width, names in _LEFT_OUT if console.width < width), frozenset[str]())
    kept = [name for name in _TERMINAL if name not in left_out]
    shown = [index for index, (name, _) in enumerate(COLUMNS) if name in kept]
    styles = {"better": "bold", "worse": "bold", "changed": "bold"}
    drawn = {member for band in report.bands for member in band.members}
    for key in dict.fromkeys(row.key for row in report.rows):
        rows = [row.comparison for row in report.rows if row.key == key]
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
        for methods, said in procedures(rows):
            console.print(escape(f"p and interval{methods and f' of {methods}'}: {said}"), style="dim", highlight=False)
    console.print(escape(caption(report, whole=False)), style="dim", highlight=False)
    for study in report.tables:
        console.print(_terminal_table(study))
    for method, reason, verdict in report.without_result:
        console.print(f"{escape(method)} {verdict}: {escape(reason)}", highlight=False)
    for line in control_lines(report):
        console.print(escape(line), highlight=False)
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    if folder is not None:
        console.print(f"report: {escape(str(folder / 'report.html'))}", highlight=False, soft_wrap=True)


def _terminal_table(study: StudyTable, *, numeric: bool = True) -> Table:
    table = Table(title=escape(study.title), title_justify="left", caption=escape(study.note), caption_justify="left")
    for index, name in enumerate(study.header):
        add_column(table, escape(name), numeric=numeric and index > 0, fold=index == 0)
    for row in study.rows:
        table.add_row(*map(escape, row))
    return table
