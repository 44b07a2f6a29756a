"""Margins of multiple choices: steering shows before an answer changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import compare
from tests.comparison.folders import TaskData, runs


def test_margins_show_steering_below_the_threshold(tmp_path: Path) -> None:
    """Accuracy does not move, yet a third of the items were pushed the wrong way."""
    choices = [" yes", " no"]
    before = [[["-1.0", "False"], ["-2.0", "False"]]] * 6
    after = [[[str(s), "False"], ["-2.0", "False"]] for s in (-0.5, -0.6, -0.7, -0.8, -1.5, -1.2)]
    data = {"choices": choices, "targets": ["0"] * 6}
    one = TaskData({"acc": [1.0] * 6}, responses=before, **data)  # type: ignore[arg-type]
    two = TaskData({"acc": [1.0] * 6}, responses=after, **data)  # type: ignore[arg-type]
    (row,) = compare(*runs(tmp_path, one, two))
    assert (row.unchanged, row.anti_steered) == (6, pytest.approx(2 / 6))
    # Margins that do not explain the metric are not used.
    strange = replace(two, values={"acc": [0.0] * 6})
    (row,) = compare(*runs(tmp_path / "again", one, strange))
    assert row.anti_steered == 1.0
