"""The page of a sweep: what was chosen on top, marked in every curve, with intervals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grains_eval.report.html import render_curves
from grains_eval.study.sweep_page import point_numbers, sweep_page
from grains_eval.study.tune import Choice, CurvePoint
from grains_eval.types import SteeringConfig, TokenConfig
from tests.report.outline import Outline


def point(layer: int | None, strength: float, accuracy: float) -> CurvePoint:
    config = SteeringConfig(None if layer is None else (layer,), strength)
    return CurvePoint(config, accuracy, accuracy - 0.1, accuracy + 0.1, 0.5, -2.0, -3.0, -1.0, 50, 0.9, 20, 0.25)


POINTS = (point(None, 0.0, 0.3), *(point(layer, s, 0.3 + s / 10) for layer in (2, 3) for s in (1.0, 2.0)))


def test_the_chosen_setting_is_marked_in_every_curve_and_every_line_has_intervals() -> None:
    page = sweep_page({"top_k=1": Choice(POINTS[4].config, "why", POINTS)}, "top_k=1", ["a note"])
    assert len(page.curves) == 3
    for curve in page.curves:
        assert (curve.chosen, curve.chosen_line) == (2.0, "layer 3")
        for line in curve.series:
            assert list(line.x) == [0.0, 1.0, 2.0] and len(line.low) == len(line.high) == 3
            assert all(low < y < high for low, y, high in zip(line.low, line.y, line.high, strict=True))
    likelihood = page.curves[1].series[0]
    assert likelihood.high[0] - likelihood.y[0] == pytest.approx(2.0096 * 0.25, abs=1e-3), "Student's t of 49"
    assert page.headline == "Chosen: top_k=1, layer 3, strength 2: why."
    shown = render_curves(page)
    assert shown.index("What was chosen") < shown.index("<svg") < shown.index("Every setting of top_k=1")
    assert shown.count("chosen: layer 3, 2") == 6, "the legend of three figures, each wide and narrow"
    assert "a note" in Outline.text(shown)


def test_an_unsteered_choice_is_said_and_marked_at_zero() -> None:
    off = Choice(SteeringConfig((3,), 0.0), "none was better", POINTS)
    page = sweep_page({"top_k=1": off}, "top_k=1", [])
    assert "Chosen: top_k=1, the unsteered model" in page.headline
    assert {(curve.chosen, curve.chosen_line) for curve in page.curves} == {(0.0, "")}
    assert "The unsteered model was chosen." in page.curves[0].note


def test_found_tokens_that_are_off_have_no_strength_and_no_place() -> None:
    tokens = [
        replace(one, config=TokenConfig(strength=s))
        for one, s in zip(POINTS, (-float("inf"), 0.0, 1.0, 2.0), strict=False)
    ]
    off = Choice(tokens[0].config, "none was better", tuple(tokens))
    assert point_numbers(tokens[0], off)["strength"] is None
    page = sweep_page({"tokens=1": off}, "tokens=1", [])
    assert {curve.chosen for curve in page.curves} == {None}
    assert list(page.curves[0].series[0].x) == [0.0, 1.0, 2.0]


def test_points_without_errors_have_a_line_without_bars() -> None:
    old = tuple(replace(one, log_p_chosen_error=float("nan"), preserved=float("nan"), preserved_n=0) for one in POINTS)
    page = sweep_page({"top_k=1": Choice(old[4].config, "why", old)}, "top_k=1", [])
    accuracy, likelihood = page.curves
    assert accuracy.series[0].low and not likelihood.series[0].low
