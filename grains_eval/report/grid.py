"""Curves over the numeric keys of an ablation's grid: what each value gains, one line per setting of the other keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grains_eval.comparison.estimates import Row
from grains_eval.comparison.verdict import gain
from grains_eval.report.data import Curve, Grid, Series
from grains_eval.report.formatting import confidence, unit


def grid_curves(grid: Grid, rows: Sequence[Row], targets: Sequence[tuple[str, str]], alpha: float) -> list[Curve]:
    """Gains on the targets against every numeric key that has two values or more.

    Args:
        grid: The points of the ablation, by the name of their row.
        rows: The table.
        targets: Task and metric pairs that were to improve.
        alpha: One minus the confidence level of its intervals.
    """
    found: list[Curve] = []
    for key in grid.own:
        values = {point[key] for point in grid.points.values() if _is_number(point[key])}
        if len(values) > 1:
            of_target = [[row for row in rows if row.key == target] for target in targets]
            found.extend(_curve(grid, key, chosen, alpha) for chosen in of_target if chosen)
    return found


def _curve(grid: Grid, key: str, rows: Sequence[Row], alpha: float) -> Curve:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        point = grid.points.get(row.comparison.method)
        if point is not None and _is_number(point[key]):
            lines.setdefault(_others(point, key), []).append(row)
    first = rows[0].comparison
    factor = 100.0 if first.scale == 1 else 1.0
    own = grid.own[key]
    measured = any(dict(point) == dict(grid.own) for point in grid.points.values())
    name = key.rpartition(".")[2]
    return Curve(
        f"{first.task} {first.metric} against {key}",
        name,
        f"gain ({unit(first.scale)})",
        tuple(_series(grid, key, line, found, factor) for line, found in lines.items()),
        chosen=float(own) if measured and _is_number(own) else None,
        chosen_line=_others(grid.own, key) if measured else "",
        note=f"Gain over the unsteered model with {confidence(alpha)} intervals, not adjusted for their number; "
        + ("ringed: the recipe's own setting." if measured else "the recipe's own setting is not in the grid."),
    )


def _series(grid: Grid, key: str, line: str, rows: Sequence[Row], factor: float) -> Series:
    ordered = sorted(rows, key=lambda row: grid.points[row.comparison.method][key])
    shown = [row.comparison for row in ordered]
    ends = [sorted(gain(bound, row.higher_is_better) * factor for bound in row.interval) for row in shown]
    return Series(
        line,
        [float(grid.points[row.method][key]) for row in shown],
        [gain(row.difference, row.higher_is_better) * factor for row in shown],
        [low for low, _ in ends],
        [high for _, high in ends],
    )


def _others(point: Mapping[str, Any], key: str) -> str:
    """The setting of the other keys, which names a line."""
    others = [f"{name.rpartition('.')[2]}={value}" for name, value in point.items() if name != key]
    return ", ".join(others) or "gain"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
