"""Which subtasks carry the loss of a leaderboard's benchmarks, as tables and sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from grains_eval.comparison.estimates import Row
from grains_eval.comparison.verdict import answer
from grains_eval.report.data import StudyTable
from grains_eval.report.formatting import change, interval, level, p_value

HEADER = (
    *("subtask", "benchmark", "adds", "baseline", "steered", "difference", "interval", "verdict", "adjusted p"),
    *("n",),
)
NOTE = (
    "Subtasks that fell, the one that costs its benchmark most first. Adds: what its difference adds to that of the "
    "benchmark before the floor at guessing, in points. The other columns are of its own metric; p adjusted by Holm "
    "over the subtasks of all methods."
)


def subtask_tables(rows: Sequence[Row], controls: Collection[str], alpha: float) -> tuple[StudyTable, ...]:
    """A table for each method with the subtasks that fell; none where none did.

    Args:
        rows: Adjusted rows of subtasks.
        controls: Names of control runs, which get no table.
        alpha: Level of the verdicts.
    """
    tables: list[StudyTable] = []
    for method in dict.fromkeys(row.comparison.method for row in rows if row.comparison.method not in controls):
        fallen = [row for row in rows if row.comparison.method == method and row.comparison.difference < 0]
        fallen.sort(key=lambda row: row.comparison.difference * row.share)
        if fallen:
            cells = tuple(_cells(row, alpha) for row in fallen)
            tables.append(StudyTable(f"Subtasks that fell: {method}", HEADER, cells, NOTE))
    return tuple(tables)


def subtask_notes(rows: Sequence[Row], controls: Collection[str], alpha: float) -> list[str]:
    """In one sentence a method: on which subtasks a loss is shown."""
    said: list[str] = []
    for method in dict.fromkeys(row.comparison.method for row in rows if row.comparison.method not in controls):
        mine = [row for row in rows if row.comparison.method == method]
        lost = [row.comparison for row in mine if answer(row.comparison, alpha) == "worse"]
        lost.sort(key=lambda row: row.difference)
        listed = ", ".join(f"{row.task} ({change(row.difference, row.scale)})" for row in lost[:5])
        more = f" and {len(lost) - 5} more" if lost[5:] else ""
        said.append(
            f"{method}: a loss is shown on {len(lost)} of {len(mine)} subtasks{': ' if lost else ''}{listed}{more}"
        )
    return said


def subtask_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All subtasks for `report.json`."""
    return [{**asdict(row.comparison), "benchmark": row.within, "share": row.share} for row in rows]


def _cells(row: Row, alpha: float) -> tuple[str, ...]:
    found = row.comparison
    return (
        found.task,
        row.within,
        change(found.difference * row.share, found.scale),
        level(found.baseline, found.scale),
        level(found.steered, found.scale),
        change(found.difference, found.scale),
        interval(found.interval, found.scale),
        answer(found, alpha),
        p_value(found.adjusted_p),
        f"{found.n:,}",
    )
