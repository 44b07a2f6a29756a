"""Figures."""

from __future__ import annotations

import pytest

from grains_eval.report import plots
from grains_eval.report.data import Curve, Series


@pytest.mark.parametrize(
    ("label", "values", "top"), [("accuracy", (0.2, 1.0), 1.0), ("nats", (0.2, 1.0), 1.04), ("accuracy", (1, 3), 3.1)]
)
def test_axes_of_shares_end_at_one(label: str, values: tuple[float, float], top: float) -> None:
    from unittest.mock import patch

    drawn = Curve("title", "strength", label, (Series("line", (1.0, 2.0), values),))
    with patch.object(plots, "_svg", side_effect=lambda figure, *_: figure.axes[0].get_ylim()[1]):
        assert plots.curve(drawn, "c") == pytest.approx(top)
