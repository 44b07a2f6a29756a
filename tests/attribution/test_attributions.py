"""Attribution on real architectures: against one-at-a-time autograd, and untouched by how the work is batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grains_eval.attribution import ATTRIBUTION_METHODS, attribute
from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.errors import GrainsError
from grains_eval.models import encode
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample

FAMILIES = ["llama", "qwen2", "gemma2", "gemma3_text", "mistral", "gpt2", "gpt_neox", "opt", "mixtral"]
EXAMPLE = PreferenceExample("e", "h", "Question what is the capital of france Answer", " paris paris", " rome")


def preference(loaded, prompt_ids, chosen, rejected):
    """`F` from the token ids alone, one full forward for each response and nothing sliced."""
    total = 0.0
    for sign, response in ((1, chosen), (-1, rejected)):
        ids = torch.cat([prompt_ids, response])[None]
        logprobs = loaded.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        at = torch.arange(len(prompt_ids) - 1, ids.shape[1] - 1)
        total += sign * float(logprobs[at, response].sum())
    return total


def by_hand(loaded, example, config):
    """Integrated Gradients node by node with plain autograd, whole sequences and a loop."""
    baseline = prompt_baseline(loaded.model, example, config)
    nodes, weights = np.polynomial.legendre.leggauss(config.steps)
    scores = torch.zeros(len(example.input_ids))
    difference = example.embeddings - baseline
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (baseline + float(node) * difference).requires_grad_(True)
        total = 0.0
        for sign, response in ((1, example.chosen), (-1, example.rejected)):
            tail = loaded.model.get_input_embeddings()(response[:-1]).detach()
            logits = loaded.model(inputs_embeds=torch.cat([point, tail])[None], use_cache=False).logits[0]
            logprobs = logits[len(point) - 1 :].float().log_softmax(-1)
            total = total + sign * logprobs[torch.arange(len(response)), response].sum()
        (gradient,) = torch.autograd.grad(total, point)
        scores += float(weight) * (gradient * difference).sum(-1).detach()
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_agree_with_one_at_a_time_autograd(loaded_text, family):
    loaded = loaded_text(family)
    example = encode(loaded, EXAMPLE)
    config = AttributionConfig(steps=7, max_steps=7)
    found = attribute(loaded, example, config)
    expected = by_hand(loaded, example, config)
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))
    assert found.value == pytest.approx(
        preference(loaded, example.input_ids, example.chosen, example.rejected), abs=1e-4
    )


def test_the_internal_batch_changes_nothing(loaded_text):
    loaded = loaded_text("llama")
    scores = [
        attribute(loaded, EXAMPLE, AttributionConfig(steps=8, max_steps=8, internal_batch_size=size)).scores
        for size in (1, 3, 8)
    ]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=0, atol=1e-5 * float(scores[0].abs().max()))


def test_parameters_are_frozen_for_the_call_and_restored(loaded_text):
    loaded = loaded_text("qwen2")
    fixed, trained = list(loaded.model.parameters())[:2]
    fixed.requires_grad_(False)
    try:
        attribute(loaded, EXAMPLE, AttributionConfig(steps=2, max_steps=2))
        assert not fixed.requires_grad
        assert trained.requires_grad
        assert all(parameter.grad is None for parameter in loaded.model.parameters())
    finally:
        fixed.requires_grad_(True)


@pytest.mark.parametrize("method", sorted(ATTRIBUTION_METHODS))
def test_every_method_scores_every_prompt_token(loaded_text, method):
    loaded = loaded_text("llama")
    found = attribute(loaded, EXAMPLE, AttributionConfig(method=method, steps=4, max_steps=4, samples=3))
    assert found.scores.shape == (len(found.tokens),)
    assert found.scores.dtype == torch.float32
    assert not found.is_candidate[0], "the beginning-of-sequence token is no candidate"
    assert found.is_candidate[1:].all()


def test_scores_that_are_not_finite_are_refused(tiny_text):
    from grains_eval.models import load

    loaded = load({"pretrained": str(tiny_text("llama")), "dtype": "float32"}, device="cpu")
    with torch.no_grad():
        next(iter(loaded.model.get_decoder().layers.parameters())).fill_(float("nan"))
    with pytest.raises(GrainsError, match="not finite"):
        attribute(loaded, EXAMPLE)


def test_an_unknown_method_lists_the_known_ones(loaded_text):
    with pytest.raises(GrainsError, match=r"did you mean 'integrated_gradients'.*smoothgrad"):
        attribute(loaded_text("llama"), EXAMPLE, AttributionConfig(method="integrated_gradient"))
