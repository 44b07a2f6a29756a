"""Agreement with scipy and statsmodels, and cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from grains_eval.comparison.clusters import cluster_jackknife, cluster_standard_error, cluster_sums
from grains_eval.comparison.intervals import paired
from grains_eval.comparison.power import t_power
from grains_eval.comparison.significance import holm, mcnemar, standard_error

EXACT = {"rel": 1e-12, "abs": 1e-12}


@pytest.mark.parametrize(("helped", "harmed"), [(0, 0), (1, 0), (5, 1), (12, 12), (40, 20), (200, 150)])
def test_mcnemar_is_statsmodels(helped: int, harmed: int) -> None:
    theirs = sm_mcnemar([[10, helped], [harmed, 30]], exact=True).pvalue
    assert mcnemar(helped, harmed) == pytest.approx(theirs, **EXACT)


def test_mcnemar_by_hand() -> None:
    # five changed items, all helped: 2 * (1/2)^5
    assert mcnemar(5, 0) == pytest.approx(0.0625, **EXACT)


def test_cluster_standard_error_is_statsmodels() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=90)
    labels = generator.integers(0, 7, size=90)
    fit = sm.OLS(values, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": labels})
    assert cluster_standard_error(values, labels.tolist()) == pytest.approx(fit.bse[0], **EXACT)


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


def test_holm_is_statsmodels_and_passes_over_missing() -> None:
    values = [0.01, 0.2, math.nan, 0.03, 0.04]
    known = [0.01, 0.2, 0.03, 0.04]
    theirs = multipletests(known, method="holm")[1]
    mine = holm(values)
    assert math.isnan(mine[2])
    assert [mine[i] for i in (0, 1, 3, 4)] == pytest.approx(list(theirs), **EXACT)
    assert holm([]) == []


def test_power_is_statsmodels() -> None:
    theirs = TTestPower().power(effect_size=0.3, nobs=40, alpha=0.05)
    assert t_power(0.3, 1 / math.sqrt(40), 39) == pytest.approx(theirs, **EXACT)


def test_standard_error_is_scipys() -> None:
    values = np.random.default_rng(7).normal(size=50)
    assert standard_error(values) == pytest.approx(stats.sem(values), **EXACT)
    assert standard_error([0.1 + 1e-17, 0.1, 0.1]) == 0.0
    assert math.isnan(standard_error([1.0]))


def test_clusters_of_one_item_are_items() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=25), generator.normal(size=25)
    clustered, plain = paired(first, second, clusters=list(range(25))), paired(first, second)
    assert clustered.standard_error == pytest.approx(stats.sem(second - first), rel=1e-9)
    assert (clustered.p, clustered.interval) == (plain.p, plain.interval)


def test_equal_weights_are_none_and_others_scale_differences() -> None:
    generator = np.random.default_rng(8)
    first, second = generator.random(80), generator.random(80)
    assert paired(first, second, weights=[3.0] * 80).interval == paired(first, second).interval
    weights = generator.uniform(0.5, 2, 80)
    weighted = paired(first, second, weights=weights)
    assert weighted.difference == pytest.approx(np.average(second - first, weights=weights), **EXACT)
    assert weighted.guaranteed
