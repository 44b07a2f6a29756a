"""On a sum of token weights, what removing tokens does can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from grains_eval.attribution.fidelity import MEASURES, example_fidelity, summarise
from grains_eval.types import Attribution

WEIGHTS = torch.tensor([5.0, -3.0, 1.0, 0.5, -0.25, 2.0, 0.0, 4.0, -1.0, 0.125])


def attributed(scores, candidates=None):
    count = len(scores)
    return Attribution(
        "e",
        tuple("abcdefghij"[:count]),
        torch.as_tensor(scores),
        torch.zeros(count, dtype=torch.bool),
        torch.ones(count, dtype=torch.bool) if candidates is None else torch.tensor(candidates),
        0.0,
        0.0,
        0.0,
        1,
    )


def remove(sets):
    return torch.stack([WEIGHTS.sum() - WEIGHTS[list(each)].sum() for each in sets])


def test_measures_of_exact_scores():
    found = example_fidelity(attributed(WEIGHTS), remove)
    # of ten tokens the shares are 1, 1, 1, 2 and 5; the largest are 5, 4, 2, 1 and .5
    assert found.comprehensiveness[0] == pytest.approx((5 + 5 + 5 + 9 + 12.5) / 5)
    whole = float(WEIGHTS.sum())
    assert found.sufficiency[0] == pytest.approx(whole - (5 + 5 + 5 + 9 + 12.5) / 5)
    assert found.leave_one_out[0] == pytest.approx(1.0)


def test_reversed_scores_are_worse_than_random_ones():
    found = example_fidelity(attributed(-WEIGHTS), remove, draws=20)
    assert found.comprehensiveness[0] < found.comprehensiveness[1]
    assert found.sufficiency[0] > found.sufficiency[1]
    assert found.leave_one_out[0] == pytest.approx(-1.0)


def test_random_rankings_come_out_at_the_mean_of_all_tokens():
    found = example_fidelity(attributed(WEIGHTS), remove, draws=4000)
    # a share of k tokens holds k times the mean weight
    assert found.comprehensiveness[1] == pytest.approx(2.0 * float(WEIGHTS.mean()), abs=0.1)
    assert abs(found.leave_one_out[1]) < 0.05


def test_only_candidates_are_ranked_removed_and_kept():
    asked = []

    def noting(sets):
        asked.extend(sets)
        return remove(sets)

    found = example_fidelity(attributed(WEIGHTS, [False] + [True] * 9), noting)
    assert not any(0 in each for each in asked)
    # of nine candidates the shares are 1, 1, 1, 2 and 5: 4, then 4 and 2, then with 1, .5 and .125
    assert found.comprehensiveness[0] == pytest.approx((4 + 4 + 4 + 6 + 7.625) / 5)


def test_scores_that_order_nothing_correlate_with_nothing():
    assert example_fidelity(attributed(torch.ones(10)), remove).leave_one_out[0] == 0.0
    with pytest.raises(ValueError, match="two candidates"):
        example_fidelity(attributed(WEIGHTS, [True] + [False] * 9), remove)


def test_means_and_the_interval_of_the_paired_difference():
    found = [example_fidelity(attributed(WEIGHTS + shift), remove, seed) for seed, shift in enumerate((0.0, 1.0, 2.0))]
    row = summarise(found)["comprehensiveness"]
    gained = torch.tensor([a - b for a, b in (each.comprehensiveness for each in found)], dtype=torch.float64)
    half = 4.302652729696142 * float(gained.std()) / math.sqrt(3)  # t(.975, df 2)
    assert row["difference"] == pytest.approx(float(gained.mean()))
    assert (row["low"], row["high"]) == pytest.approx((float(gained.mean()) - half, float(gained.mean()) + half))
    assert row["examples"] == 3
    assert math.isnan(summarise(found[:1])["sufficiency"]["low"])
    assert set(summarise(found)) == set(MEASURES)
