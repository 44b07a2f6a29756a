"""What no statistic may depend on: which run is called first, the order of items, names of clusters, units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from grains_eval.comparison.intervals import Estimate, paired
from grains_eval.comparison.significance import holm, mcnemar
from tests.properties import cases

BITS = st.sampled_from([0.0, 1.0])
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32)
FREE = st.sampled_from([-3.0, 0.0, 0.5, 7.0]) | st.floats(-1000, 1000, width=32)


@dataclass(frozen=True)
class Scores:
    first: np.ndarray
    second: np.ndarray
    clusters: list[int] | None

    def estimate(self, order=None, **options) -> Estimate:
        order = np.arange(self.first.size) if order is None else order
        labels = None if self.clusters is None else [self.clusters[index] for index in order]
        return paired(self.first[order], self.second[order], clusters=labels, **options)

    def swapped(self) -> Scores:
        return Scores(self.second, self.first, self.clusters)

    def are_bits(self) -> bool:
        return {*self.first.tolist(), *self.second.tolist()} <= {0.0, 1.0}


@st.composite
def scores(draw, kinds=(BITS, SHARES, FREE)):
    """Scores of one kind under two runs, mostly alike, sometimes in clusters; from a seed, as long lists are slow."""
    kind = draw(st.sampled_from(kinds))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.sampled_from([1, 2, 5, 30, 70, 130]))
    few = np.array(draw(st.lists(kind, min_size=2, max_size=6)))
    first, second = few[generator.integers(0, few.size, (2, count))]
    second = np.where(generator.random(count) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), second, first)
    if kind is not BITS and draw(st.booleans()):
        second = np.clip(second + 0.01 * generator.random(count), 0, 1 if kind is SHARES else math.inf)
    number = draw(st.sampled_from([None, None, 3, 25, 65]))
    clusters = None if number is None else generator.integers(0, number, count).tolist()
    return Scores(first, second, clusters)


def close(first, second):
    """Equal to rounding; NaN is NaN."""
    return np.allclose(first, second, rtol=1e-9, atol=1e-12, equal_nan=True)


def said(estimate: Estimate):
    """All that a table shows of it."""
    return (
        [estimate.difference, estimate.standard_error, estimate.p, *estimate.interval],
        [estimate.test, estimate.clusters, estimate.units_needed, estimate.guaranteed],
    )


@cases(60)
@given(scores())
def test_swapped_runs_turn_every_sign(made):
    one, other = made.estimate(), made.swapped().estimate()
    low, high = one.interval
    (numbers, names), (others, same) = said(one), said(other)
    assert names == same
    # searches for an end go from below, to 1e-6
    assert np.allclose(others, [-numbers[0], numbers[1], numbers[2], -high, -low], rtol=1e-6, atol=1e-6, equal_nan=True)


@cases(60)
@given(scores(), st.integers(0, 1000))
def test_the_order_of_items_leaves_the_estimate_alone(made, seed):
    order = np.random.default_rng(seed).permutation(made.first.size)
    one, other = made.estimate(), made.estimate(order)
    assert close([one.difference, one.standard_error], [other.difference, other.standard_error])
    assert said(one)[1] == said(other)[1]
    if one.test == "exact McNemar":
        assert said(one)[0] == said(other)[0]


@cases(60)
@given(scores(), st.integers(2, 4))
def test_items_that_stand_in_their_cluster_twice_say_nothing_new(made, times):
    clusters = made.clusters or list(range(made.first.size))
    one = Scores(made.first, made.second, clusters).estimate()
    other = Scores(*(np.repeat(values, times) for values in (made.first, made.second)),
                   [label for label in clusters for _ in range(times)]).estimate()  # fmt: skip
    (numbers, names), (others, same) = said(one), said(other)
    assert names == same
    assert np.allclose(numbers, others, rtol=1e-6, atol=1e-9, equal_nan=True)


@cases(60)
@given(scores(), st.sampled_from([str, lambda label: ("group", -label), lambda label: 10**20 + label]))
def test_the_names_of_clusters_mean_nothing(made, rename):
    clusters = made.clusters or list(range(made.first.size))
    one = Scores(made.first, made.second, clusters).estimate()
    other = paired(made.first, made.second, clusters=[rename(label) for label in clusters])
    assert said(one)[1] == said(other)[1]
    assert np.array_equal(said(one)[0], said(other)[0], equal_nan=True)


@cases(60)
@given(scores((SHARES, FREE)), st.sampled_from([0.125, 4.0, 1024.0]), st.booleans())
def test_another_unit_scales_everything_but_p(made, factor, bounded):
    """By powers of two, which rounding leaves alone; the bounds are of the same unit."""
    larger = Scores(made.first * factor, made.second * factor, made.clusters)
    assume(not made.are_bits() and not larger.are_bits())  # which are shares in any unit
    reach = 2000.0 if bounded else math.inf
    (numbers, names), (others, same) = said(made.estimate(reach=reach)), said(larger.estimate(reach=reach * factor))
    assert names == same and close(others[2], numbers[2])
    numbers, others = np.delete(numbers, 2), np.delete(others, 2)
    size = max(1.0, float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0)))
    assert np.allclose(others, numbers * factor, rtol=1e-6, atol=1e-6 * size * factor, equal_nan=True)


@cases(60)
@given(scores((FREE,)), st.sampled_from([-8.0, 16.0]))
def test_a_constant_that_both_runs_gain_cancels(made, shift):
    moved = Scores(made.first + shift, made.second + shift, made.clusters)
    assume(not made.are_bits() and not moved.are_bits())  # which have tests of their own
    one, other = made.estimate(reach=math.inf), moved.estimate(reach=math.inf)
    assert said(one)[1] == said(other)[1]
    if one.difference:  # of runs without any difference the scores' own size is the scale
        assert np.allclose(said(one)[0], said(other)[0], rtol=1e-6, atol=1e-6, equal_nan=True)


@cases(60)
@given(scores(), st.sampled_from([0.2, 0.05, 0.005]))
def test_intervals_hold_the_estimate_and_narrow_as_the_level_rises(made, level):
    estimate = made.estimate(alpha=level)
    low, high = estimate.interval
    if math.isnan(low):
        assert math.isnan(high) and math.isnan(estimate.p) and estimate.units_needed
        return
    assert low <= estimate.difference + 1e-9 and estimate.difference - 1e-9 <= high
    assert 0 <= estimate.p <= 1
    assert (estimate.p <= level) == (low > 0 or high < 0) or low == 0 or high == 0
    inner = estimate.procedure.interval(2 * level)
    assert low <= inner[0] + 1e-9 and inner[1] - 1e-9 <= high


P_VALUES = st.lists(st.floats(0, 1) | st.just(math.nan) | st.sampled_from([0.01, 0.05, 1.0]), max_size=12)


@cases(400)
@given(P_VALUES, st.randoms(use_true_random=False))
@example([0.04, 0.01, math.nan, 0.01], None)
def test_holm_only_raises_p_and_keeps_their_order(values, chance):
    adjusted = holm(values)
    known = [index for index, value in enumerate(values) if not math.isnan(value)]
    assert [math.isnan(value) for value in adjusted] == [math.isnan(value) for value in values]
    for index in known:
        assert values[index] <= adjusted[index] <= min(1.0, len(known) * values[index])
        for other in known:
            assert values[index] > values[other] or adjusted[index] <= adjusted[other]
    if known:
        least = min(values[index] for index in known)
        assert min(adjusted[index] for index in known) == min(1.0, least * len(known))
    # unknown ones do not count, and the order of rows does not either
    assert [adjusted[index] for index in known] == holm([values[index] for index in known])
    if chance is not None:
        order = chance.sample(range(len(values)), len(values))
        moved = holm([values[index] for index in order])
        assert np.array_equal(moved, [adjusted[index] for index in order], equal_nan=True)


@pytest.mark.parametrize("helped", range(0, 9, 2))
@pytest.mark.parametrize("harmed", range(0, 9, 3))
def test_mcnemar_is_the_same_from_either_side(helped, harmed):
    assert mcnemar(helped, harmed) == mcnemar(harmed, helped)
    assert mcnemar(helped + 1, 0) < mcnemar(helped, 0) or helped == 0
