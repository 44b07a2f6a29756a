"""Figures."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest

from grains_eval.report import ReportData, plots
from grains_eval.report.data import Curve, Series
from grains_eval.report.html import render_html


@pytest.mark.parametrize(
    ("label", "values", "top"), [("accuracy", (0.2, 1.0), 1.0), ("nats", (0.2, 1.0), 1.04), ("accuracy", (1, 3), 3.1)]
)
def test_axes_of_shares_end_at_one(label: str, values: tuple[float, float], top: float) -> None:
    drawn = Curve("title", "strength", label, (Series("line", (1.0, 2.0), values),))
    with patch.object(plots, "_svg", side_effect=lambda figure, *_: figure.axes[0].get_ylim()[1]):
        assert plots.curve(drawn, "c") == pytest.approx(top)


def test_the_chosen_point_is_ringed_on_its_line_and_bars_do_not_overlap() -> None:
    lines = tuple(
        Series(name, (1.0, 2.0), (0.2, 0.4), (0.1, 0.3), (0.3, 0.5)) for name in ("layer 1", "layer 2", "layer 3")
    )
    drawn = Curve("title", "strength", "nats", lines, chosen=2.0, chosen_line="layer 3")
    with patch.object(plots, "_svg", side_effect=lambda figure, *_: figure.axes[0]):
        axes = plots.curve(drawn, "c")
    rings = [line for line in axes.lines if line.get_markersize() == 15]
    bars = [container.lines[0].get_xdata() for container in axes.containers]
    assert len(rings) == 1 and len(bars) == 3
    assert rings[0].get_xdata()[0] == bars[2][1], "the ring lies on the moved point"
    assert len({float(x[0]) for x in bars}) == 3
    with patch.object(plots, "_svg", side_effect=lambda figure, *_: figure.axes[0]):
        alone = plots.curve(Curve("title", "strength", "nats", lines[:1], chosen=2.0), "c")
    assert list(alone.containers[0].lines[0].get_xdata()) == [1.0, 2.0]
    assert not [line for line in alone.lines if line.get_markersize() == 15], "a place of all lines has no ring"


def test_every_figure_is_drawn_wide_and_narrow(report: ReportData) -> None:
    page = render_html(report)
    wide, narrow = page.count('<div class="wide"><svg'), page.count('<div class="narrow"><svg')
    assert wide == narrow >= 4
    boxes = [float(width) for width in re.findall(r'"(?:wide|narrow)"><svg[^>]*viewBox="0 0 ([\d.]+) ', page)]
    assert len(boxes) == 2 * wide and {round(width) for width in boxes} == {
        round(72 * paper.width) for paper in (plots.WIDE, plots.NARROW)
    }
