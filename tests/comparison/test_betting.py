"""Betting on bounded differences: capital by hand, and an interval that holds the mean."""

from __future__ import annotations

import math

import numpy as np

from grains_eval.comparison.betting import BoundedMean, log_capital


def test_no_stake_wins_against_the_truth_without_spread() -> None:
    values = np.full((1, 50), 0.25)
    assert log_capital(values, np.array([0.25]), math.log(20))[0] == 0.0
    assert log_capital(values, np.array([0.0]), math.log(20))[0] > math.log(20)


def test_the_interval_holds_the_mean_and_narrows() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for n in (50, 800):
        values = np.clip(generator.normal(0.1, 0.3, n), -1, 1)
        low, high = BoundedMean(values, 1.0, 0.05).interval(0.05)
        assert -1 <= low < values.mean() < high <= 1
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
