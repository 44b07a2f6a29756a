"""Columns that benchmarks share."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from benchmarks.common import change


def test_change_is_a_clustered_t_and_a_t_over_worlds() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.random(90), generator.random(90) + 0.1
    worlds, clusters = [str(i // 30) for i in range(90)], [str(i // 15) for i in range(90)]
    found = change(before.tolist(), after.tolist(), worlds, clusters)
    fit = sm.OLS(after - before, np.ones(90)).fit(
        cov_type="cluster", cov_kwds={"groups": np.arange(90) // 15}, use_t=True
    )
    half = fit.bse[0] * stats.t.isf(0.025, 5)
    gain = fit.params[0]
    assert found["gain"] == f"{gain:+.3f}"
    assert found["in these worlds"] == f"[{gain - half:+.3f}, {gain + half:+.3f}]"
    means = (after - before).reshape(3, 30).mean(axis=1)
    theirs = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    low, high = (float(end.strip("[]")) for end in found["over worlds"].split(", "))
    assert (low, high) == pytest.approx(tuple(theirs), abs=6e-4)


def test_change_says_nothing_about_one_cluster_of_one_world() -> None:
    found = change([0.0, 1.0], [1.0, 1.0], ["a", "a"], ["a", "a"])
    assert (found["in these worlds"], found["over worlds"]) == ("–", "–")
