"""The statistics of transfer, by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import ttest_1samp

from grains_eval.attribution.transfer import best_of_examples, transfer_statistics
from grains_eval.errors import GrainsError


def test_t_is_that_of_the_other_units_means():
    changes = torch.tensor([[9.0, 1.0, 2.0, 4.0, 3.0, 5.0], [0.5, -9.0, -1.0, -2.0, -1.0, -2.5]])
    units = ["a", "b", "c", "c", "d", "e"]
    for sign, row, own, others in ((1.0, 0, 0, [1.0, 3.0, 3.0, 5.0]), (-1.0, 1, 1, [0.5, -1.5, -1.0, -2.5])):
        found = transfer_statistics(changes, [(0, 3), (1, 3)], units, sign)[row]
        expected = ttest_1samp([sign * each for each in others], 0, alternative="greater")
        assert own == row
        assert found.statistic == pytest.approx(expected.statistic)
        assert found.p == pytest.approx(expected.pvalue)


def test_candidates_are_not_tested_on_their_own_unit():
    changes = torch.tensor([[100.0, 100.0, 1.0, 1.5, 2.0, 1.0]])
    alone = transfer_statistics(changes, [(0, 1)], ["a", "a", "b", "c", "d", "e"], 1.0)[0]
    changes[0, :2] = -100
    assert transfer_statistics(changes, [(0, 1)], ["a", "a", "b", "c", "d", "e"], 1.0)[0] == alone


def test_too_few_documents_are_refused():
    with pytest.raises(GrainsError, match="there are 3 documents or clusters, and 4 are needed"):
        transfer_statistics(torch.ones(1, 3), [(0, 0)], ["a", "b", "c"], 1.0)


def test_best_candidate_of_the_best_half_of_the_examples():
    candidates = [(0, 1), (0, 2), (1, 1), (2, 1), (3, 1), (3, 2)]
    statistics = [1.0, 3.0, 2.0, -1.0, 2.5, 2.4]
    assert best_of_examples(candidates, statistics, 4, 0.5) == [1, 4]
    assert best_of_examples(candidates, statistics, 4, 1.0) == [1, 4, 2]
    assert best_of_examples(candidates, statistics, 4, 0.5, barred={1}) == [4, 2]
    assert best_of_examples(candidates, statistics, 4, 0.5, per_example=2) == [1, 0, 4, 5]
    assert best_of_examples(candidates, [-1.0] * 6, 4, 0.5) == []
