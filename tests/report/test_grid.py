"""Curves over the numeric keys of an ablation's grid."""

from __future__ import annotations

import pytest

from grains_eval.comparison.estimates import Row
from grains_eval.report.data import Grid
from grains_eval.report.grid import grid_curves
from tests.comparison.rows import row

POINTS = {
    f"method={method}__top_k={k}": {"attribution.method": method, "attribution.top_k": k}
    for method in ("random", "integrated_gradients")
    for k in (5, 2)
}


def rows(**changes: object) -> list[Row]:
    return [
        Row(row(point["attribution.top_k"] / 100, 0.01, method=name, **changes), ()) for name, point in POINTS.items()
    ]


def test_a_numeric_key_has_a_curve_with_a_line_per_setting_of_the_others() -> None:
    own = {"attribution.method": "integrated_gradients", "attribution.top_k": 2}
    (curve,) = grid_curves(Grid(POINTS, own), rows(), [("mmlu", "acc")], 0.05)
    assert [series.name for series in curve.series] == ["method=random", "method=integrated_gradients"]
    line = curve.series[1]
    assert list(line.x) == [2, 5] and list(line.y) == pytest.approx([2, 5])
    assert list(line.low) == pytest.approx([1, 4]) and list(line.high) == pytest.approx([3, 6])
    assert (curve.chosen, curve.chosen_line) == (2, "method=integrated_gradients")
    assert "the recipe's own setting" in curve.note


def test_gains_are_turned_where_lower_is_better_and_a_setting_outside_is_not_marked() -> None:
    own = {"attribution.method": "integrated_gradients", "attribution.top_k": 10}
    (curve,) = grid_curves(Grid(POINTS, own), rows(higher_is_better=False), [("mmlu", "acc")], 0.05)
    assert list(curve.series[0].y) == pytest.approx([-2, -5])
    assert list(curve.series[0].low) == pytest.approx([-3, -6])
    assert curve.chosen is None and "not in the grid" in curve.note


def test_names_and_switches_have_no_curve() -> None:
    points = {name: {"a.b": name == "x"} for name in ("x", "y")}
    assert grid_curves(Grid(points, {"a.b": True}), rows(), [("mmlu", "acc")], 0.05) == []
