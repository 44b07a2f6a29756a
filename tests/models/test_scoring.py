"""Log-probabilities of responses, and their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from grains_eval.models.scoring import picked_logprobs, response_sums


def test_picked_logprobs_and_their_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator, dtype=torch.float64).float().requires_grad_(True)
    rows, tokens = torch.tensor([0, 0, 3, 4, 0]), torch.tensor([2, 7, 1, 10, 2])
    weights = torch.randn(5, generator=generator)
    found = picked_logprobs(logits.clone(), rows, tokens)
    expected = logits.log_softmax(-1)[rows, tokens]
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad((weights * each).sum(), logits)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_second_backward_pass_is_refused():
    logits = torch.randn(2, 5).requires_grad_(True)
    found = picked_logprobs(logits, torch.tensor([0]), torch.tensor([3])).sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        found.backward()


def test_far_likelier_tokens_lose_nothing():
    logits = torch.tensor([[300.0, -300.0, 299.0]])
    found = picked_logprobs(logits.clone(), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found, logits.double().log_softmax(-1)[0].float())


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_(True)
    response = torch.tensor([1, 6, 0])
    places = torch.arange(6).view(2, 3)
    found = response_sums(partial(picked_logprobs, logits.flatten(0, 1)), [(places, response)])[0]
    expected = logits.float().log_softmax(-1)[:, torch.arange(3), response].sum(-1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found.sum(), logits)[0].dtype == torch.bfloat16
