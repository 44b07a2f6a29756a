"""What is read off the logits of a pass."""

from __future__ import annotations

import pytest
import torch

from grains_eval.harness.prefix_sharing.plan import Branch, Group
from grains_eval.harness.prefix_sharing.targets import ScoreSums, Targets, branch_pass, context_pass


def test_first_tokens_are_read_at_the_ends_of_contexts_and_a_tail_in_its_row():
    branching = Group((5, 6, 7), ((1, 2), (3,)), (0, 1), extendable=False)
    lone = Group((8, 9), ((4, 5, 6),), (2,))
    plan, targets = context_pass([branching, lone], 0, None)
    assert plan.inputs["input_ids"].tolist() == [[5, 6, 7, 0], [8, 9, 4, 5]]
    assert plan.lengths.tolist() == [3, 4] and plan.prompts.tolist() == [3, 2]
    places = list(zip(*(part.tolist() for part in plan.reads), strict=True))
    found = [
        (places[read], token, owner)
        for read, token, owner in zip(targets.reads, targets.tokens, targets.owners, strict=True)
    ]
    assert found == [((0, 2), 1, 0), ((0, 2), 3, 1), ((1, 1), 4, 2), ((1, 2), 5, 2), ((1, 3), 6, 2)]


def test_branches_feed_all_tokens_but_the_last():
    plan, targets = branch_pass([Branch(0, (1, 2, 3), 7), Branch(1, (4, 5), 8)])
    assert plan.inputs["input_ids"].tolist() == [[1, 2], [4, 0]] and plan.parents.tolist() == [0, 1]
    assert (targets.tokens, targets.owners) == ([2, 3, 5], [7, 7, 8])
    assert [part.tolist() for part in plan.reads] == [[0, 0, 1], [0, 1, 0]]


def test_sums_are_kept_by_configuration_and_request():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[2.0, 0.0, 0.0], [0.0, 0.0, 4.0]]])
    sums = ScoreSums(3, torch.float64)
    sums.add([0, 2], logits, Targets([0, 1], [2, 0], [9, 9]))
    logprobs = logits.double().log_softmax(-1)
    assert sums.scores()[0][9] == (pytest.approx(float(logprobs[0, 0, 2] + logprobs[0, 1, 0])), True)
    assert sums.scores()[2][9] == (pytest.approx(float(logprobs[1, 0, 2] + logprobs[1, 1, 0])), False)
    assert sums.scores()[1] == {}
    sums.add([0, 1], logits[:1], Targets([0], [0], [4]))
    assert sums.scores()[0][4] == sums.scores()[1][4] and not sums.scores()[1][4][1]
