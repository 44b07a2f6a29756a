"""Agreement with scipy and statsmodels, and cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

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
