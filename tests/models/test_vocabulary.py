"""Log-probabilities through the output embeddings equal those of whole logits, and only plain heads take that way."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.build import example
from grains_eval.errors import GrainsError
from grains_eval.models import forward, vocabulary
from grains_eval.models.scoring import picked_logprobs
from grains_eval.models.vocabulary import logprobs_through_head, plain_head
from tests import tiny

ROWS, TOKENS = torch.tensor([0, 0, 3, 4, 0, 2]), torch.tensor([2, 36, 1, 10, 2, 17])
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
CHANGED = {
    "capped": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SMALL, head_dim=16)),
    "multiplied": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SMALL)),
    "divided": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**SMALL, logits_scaling=8.0)),
}


def head(bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 37, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("elements", [1, 20, 4 * 36, 4 * 37, 10_000])
@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_values_and_gradients_whatever_the_parts(monkeypatch, elements, bias, order):
    monkeypatch.setattr(vocabulary, "PART_CPU", elements)
    plain = head(bias)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 16, generator=generator)
    hidden[:, 0] = 30.0
    hidden.requires_grad_(True)
    # logits hundreds of nats apart, the largest at one end
    plain.weight[:, 0] = order * torch.linspace(-5.0, 5.0, 37)
    weights = torch.randn(len(ROWS), generator=generator)
    found = logprobs_through_head(hidden, plain, ROWS, TOKENS)
    exact = hidden.double() @ plain.weight.double().T + (plain.bias.double() if bias else 0.0)
    expected = exact.log_softmax(-1)[ROWS, TOKENS]
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad((weights * each).sum(), hidden)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_more_logits_are_made_than_a_part_holds(monkeypatch):
    monkeypatch.setattr(vocabulary, "PART_CPU", 4 * 10)
    made = []
    linear = functional.linear
    monkeypatch.setattr(functional, "linear", lambda *given: made.append(linear(*given)) or made[-1])
    logprobs_through_head(torch.randn(50, 16), head(), ROWS, TOKENS)
    # four of the fifty rows are read
    assert [tuple(each.shape) for each in made] == [(4, 10), (4, 10), (4, 10), (4, 7)]


def test_a_first_part_of_impossible_tokens(monkeypatch):
    monkeypatch.setattr(vocabulary, "PART_CPU", 4 * 5)
    plain = head(bias=True)
    plain.bias[:5] = -torch.inf
    hidden, tokens = torch.randn(5, 16, requires_grad=True), TOKENS.clamp(5)
    found, expected = logprobs_through_head(hidden, plain, ROWS, tokens), plain(hidden).log_softmax(-1)[ROWS, tokens]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), hidden)[0] for each in (found, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [4 * 10, 10_000])
def test_confident_tokens_keep_their_gradient_in_half_precision(monkeypatch, dtype, elements):
    """The embedding of a token that is nearly certain cancels; what is left must not be rounding."""
    monkeypatch.setattr(vocabulary, "PART_CPU", elements)
    half = head(dtype=dtype)
    half.weight += 1.0  # embeddings have much in common
    hidden = (40 * (half.weight[:5] - 1.0)).requires_grad_(True)
    exact = hidden.detach().double().requires_grad_(True)
    rows = torch.arange(5)
    truth = (exact @ half.weight.double().T).log_softmax(-1)[rows, rows]
    assert truth.exp().median() > 0.99
    through, whole = logprobs_through_head(hidden, half, rows, rows), picked_logprobs(half(hidden), rows, rows)
    assert through.dtype == torch.float32
    torch.testing.assert_close(through, whole, rtol=0, atol=1e-5)
    right = torch.autograd.grad(truth.sum(), exact)[0]
    errors = [(torch.autograd.grad(each.sum(), hidden)[0] - right).norm() / right.norm() for each in (through, whole)]
    assert errors[0] <= 1.2 * errors[1] + 1e-3


@pytest.mark.parametrize("leaf", [True, False])
def test_the_gradient_costs_nothing_where_none_is_asked_for(leaf):
    hidden = torch.randn(5, 16, requires_grad=leaf)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logprobs_through_head(hidden, head(), ROWS, TOKENS)
    assert counter.get_total_flops() == 2 * 4 * 16 * 37


def test_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(GrainsError, match="token 37 is outside the model's vocabulary of 37"):
        logprobs_through_head(torch.randn(5, 16), head(), torch.tensor([0]), torch.tensor([37]))


def judged(model):
    """What a pass over a prompt finds."""
    one = example(model, 6, (3, 3), 0)
    return forward.prefill(model, one, one.embeddings[None]).head


def agree(model) -> bool:
    """Whether scores through the head are those of whole logits, the prompt with each response."""
    one = example(model, 6, (3, 3), 0)
    shared, plain = (
        forward.response_logprobs(model, one, one.embeddings[None], share_prefix=share) for share in (True, False)
    )
    return torch.allclose(shared, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", sorted(set(tiny.TEXT) - {"bart", "gemma2", "mamba", "openai_gpt", "rwkv", "t5"}))
def test_families_whose_logits_are_the_heads(loaded_text, family):
    model = loaded_text(family).model
    with torch.no_grad():
        assert judged(model) is model.get_output_embeddings()


@pytest.mark.parametrize("kind", CHANGED)
def test_models_that_change_their_logits_make_them_themselves(kind):
    torch.manual_seed(0)
    model = CHANGED[kind]().eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(20.0)
    assert judged(model) is None and agree(model)
    one = example(model, 6, (3, 3), 0)
    rows = torch.stack([torch.zeros_like(one.embeddings), one.embeddings])
    shared, plain = (forward.response_logprobs(model, one, rows, share_prefix=share) for share in (True, False))
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-4)


def test_what_is_done_to_a_head_later_is_seen(loaded_text):
    model = copy.deepcopy(loaded_text("llama").model).requires_grad_(False)
    assert judged(model) is not None
    handle = model.get_output_embeddings().register_forward_hook(lambda module, arguments, output: 2 * output)
    assert judged(model) is None and agree(model)
    handle.remove()
    assert judged(model) is not None


def test_heads_that_learn_are_adapted_sharded_or_offloaded_are_left_alone(loaded_text):
    model = copy.deepcopy(loaded_text("llama").model).requires_grad_(False)
    hidden = torch.randn(1, 1, model.config.hidden_size)
    own = model.get_output_embeddings()
    assert plain_head(model, hidden, own(hidden)) is own

    own.bias = nn.Parameter(torch.zeros(own.out_features))
    assert plain_head(model, hidden, own(hidden)) is None
    with torch.no_grad():
        assert plain_head(model, hidden, own(hidden)) is own

    class Quantised(torch.Tensor):
        pass

    for changed in (nn.Sequential(head()), copy.deepcopy(own).requires_grad_(False).to("meta")):
        model.set_output_embeddings(changed)
        assert plain_head(model, hidden, own(hidden)) is None
    packed = copy.deepcopy(own).requires_grad_(False)
    packed.weight = nn.Parameter(packed.weight.data.as_subclass(Quantised), requires_grad=False)
    model.set_output_embeddings(packed)
    assert plain_head(model, hidden, own(hidden)) is None
