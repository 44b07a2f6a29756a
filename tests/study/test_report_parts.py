"""Development curves as figures."""

from __future__ import annotations

from math import nan

from grains_eval.study.report_parts import strength_curves


def point(strength, accuracy, layers=None, **more):
    bounds = {"lower": accuracy - 0.1, "upper": accuracy + 0.1}
    return {"layers": layers, "strength": strength, "accuracy": accuracy, **bounds, "n": 40, **more}


def test_one_line_for_each_layer_that_starts_at_the_unsteered_model():
    points = [point(0.0, 0.5), point(2.0, 0.9, [3]), point(1.0, 0.7, [3]), point(1.0, 0.6, [1])]
    (figure,) = strength_curves("grains", points)
    lines = {series.name: series for series in figure.series}
    assert set(lines) == {"layer 3", "layer 1"}
    assert list(lines["layer 3"].x) == [0.0, 1.0, 2.0] and list(lines["layer 3"].y) == [0.5, 0.7, 0.9]
    assert list(lines["layer 3"].low) == [0.4, 0.6, 0.8] and figure.chosen is None
    assert "40 development examples" in figure.note and "(relative)" in figure.x_label


def test_a_single_line_has_its_interval_and_other_measures_figures_of_their_own():
    points = [point(strength, 0.5, log_p_chosen=-3.0, preserved=0.8) for strength in (0.0, 1.0, 2.0)]
    accuracy, likelihood, preserved = strength_curves("caa", points)
    assert list(accuracy.series[0].low) == [0.4, 0.4, 0.4]
    assert list(likelihood.series[0].y) == [-3.0] * 3 and list(preserved.series[0].y) == [0.8] * 3
    assert preserved.title == "caa: accuracy on preserved development items"
    without = strength_curves("caa", [{**one, "preserved": nan} for one in points])
    assert len(without) == 2


def test_found_tokens_have_no_unsteered_point_on_their_axis():
    points = [point(None, 0.5), point(-1.0, 0.6), point(0.0, 0.7)]
    (figure,) = strength_curves("found_tokens", points)
    assert list(figure.series[0].x) == [-1.0, 0.0] and "log of a multiplicity" in figure.x_label


def test_two_points_are_no_curve():
    assert strength_curves("grains", [point(0.0, 0.5), point(1.0, 0.6)]) == []
