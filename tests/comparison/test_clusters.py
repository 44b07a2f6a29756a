"""Standard errors over clusters, against statsmodels and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from grains_eval.comparison.clusters import cluster_jackknife, cluster_sums

EXACT = {"rel": 1e-12, "abs": 1e-12}


def test_jackknife_equals_cr1_with_equal_clusters() -> None:
    generator = np.random.default_rng(1)
    values, labels = generator.normal(size=60), np.repeat(np.arange(6), 10)
    fit = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": labels})
    error, freedom = cluster_jackknife(*cluster_sums(values, labels.tolist()))
    assert error == pytest.approx(fit.bse[0], **EXACT)
    assert freedom == pytest.approx(5, abs=1e-9)


def test_jackknife_leaves_one_cluster_out() -> None:
    generator = np.random.default_rng(2)
    sizes = [3, 8, 1, 20, 5]
    labels = np.repeat(np.arange(5), sizes)
    values, weights = generator.normal(size=37), generator.uniform(0.5, 2, size=37)
    full = np.average(values, weights=weights)
    left_out = [np.average(values[labels != g], weights=weights[labels != g]) - full for g in range(5)]
    error, freedom = cluster_jackknife(*cluster_sums(values, labels.tolist(), weights))
    assert error == pytest.approx(math.sqrt(4 / 5 * np.sum(np.square(left_out))), **EXACT)
    assert 1 <= freedom <= 4


def test_satterthwaite_freedom_matches_the_quadratic_form() -> None:
    sizes = np.array([4, 9, 2, 15, 6])
    labels = np.repeat(np.arange(5), sizes)
    sums, shares, squares = cluster_sums(np.random.default_rng(0).normal(size=36), labels.tolist())
    _, freedom = cluster_jackknife(sums, shares, squares)
    # variance = x' B' B x over item values x; by hand with full matrices
    membership = (labels[None, :] == np.arange(5)[:, None]).astype(float) / 36
    scores = membership - shares[:, None] * np.full((1, 36), 1 / 36)
    half = scores * np.sqrt(4 / 5 / (1 - shares) ** 2)[:, None]
    spectrum = np.linalg.eigvalsh(half @ half.T)
    assert freedom == pytest.approx(spectrum.sum() ** 2 / np.sum(spectrum**2), rel=1e-10)
