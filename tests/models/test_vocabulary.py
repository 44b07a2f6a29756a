"""Log-probabilities through the output embeddings equal those of whole logits, and only plain heads take that way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grains_eval.models import vocabulary
from grains_eval.models.scoring import picked_logprobs
from grains_eval.models.vocabulary import linear_head, logprobs_through_head
from tests import tiny

CAPPED = {"gemma2"}
ROWS, TOKENS = torch.tensor([0, 0, 3, 4, 0, 2]), torch.tensor([2, 36, 1, 10, 2, 17])


def head(bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 37, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("budget", [1, 20, 5 * 36, 5 * 37, 10_000])
def test_values_and_gradients_whatever_the_parts(monkeypatch, budget, bias):
    monkeypatch.setattr(vocabulary, "_LOGITS_CPU", budget)
    plain = head(bias)
    generator = torch.Generator().manual_seed(1)
    # far apart, so that the largest logit so far keeps rising
    hidden = (9 * torch.randn(5, 16, generator=generator)).requires_grad_(True)
    weights = torch.randn(len(ROWS), generator=generator)
    found = logprobs_through_head(hidden, plain, ROWS, TOKENS)
    exact = hidden.double() @ plain.weight.double().T + (plain.bias.double() if bias else 0.0)
    expected = exact.log_softmax(-1)[ROWS, TOKENS]
    torch.testing.assert_close(found, expected.float())
    ours, theirs = (torch.autograd.grad((weights * each).sum(), hidden)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_precision_is_no_further_from_the_truth_than_whole_logits(monkeypatch):
    monkeypatch.setattr(vocabulary, "_LOGITS_CPU", 40)
    half = head(False, torch.bfloat16)
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_(True)
    truth = (hidden.double() @ half.weight.double().T).log_softmax(-1)[ROWS, TOKENS]
    through = logprobs_through_head(hidden, half, ROWS, TOKENS)
    whole = picked_logprobs(half(hidden), ROWS, TOKENS)
    assert through.dtype == torch.float32
    torch.testing.assert_close(through, whole, rtol=0, atol=1e-5)
    slopes = [torch.autograd.grad(each.sum(), hidden)[0].double() for each in (through, whole, truth)]
    assert slopes[0].dtype == torch.float64 and (slopes[0] - slopes[2]).norm() <= 1.1 * (slopes[1] - slopes[2]).norm()


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    hidden = torch.randn(5, 16)
    assert not logprobs_through_head(hidden, head(False), ROWS, TOKENS).requires_grad
    with torch.no_grad():
        found = logprobs_through_head(hidden.requires_grad_(True), head(False), ROWS, TOKENS)
    assert not found.requires_grad


@pytest.mark.parametrize("family", sorted(set(tiny.TEXT) - {"bart"}))
def test_heads_whose_logits_the_model_changes_are_left_alone(loaded_text, family):
    model = loaded_text(family).model
    with torch.no_grad():
        found = linear_head(model)
    assert found is (None if family in CAPPED else model.get_output_embeddings())


def test_heads_that_learn_are_adapted_or_changed_by_a_hook_are_left_alone(loaded_text):
    learning = copy.deepcopy(loaded_text("llama").model).requires_grad_(True)
    assert linear_head(learning) is None
    with torch.no_grad():
        assert linear_head(learning) is learning.get_output_embeddings()

    hooked = copy.deepcopy(learning).requires_grad_(False)
    hooked.get_output_embeddings().register_forward_hook(lambda module, arguments, output: 2 * output)
    assert linear_head(hooked) is None

    adapted = copy.deepcopy(learning).requires_grad_(False)
    adapted.set_output_embeddings(nn.Sequential(adapted.get_output_embeddings()))
    assert linear_head(adapted) is None
