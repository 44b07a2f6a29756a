"""BiPO against its equation: on a linear model the loss has a closed form, whatever the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.models.activations import median_norms, prompt_states
from grains_eval.models.forward import response_logprobs
from grains_eval.steering import steered
from grains_eval.study.tune import fixed_setting, grid
from grains_eval.types import SteeringConfig
from grains_eval.vectors import BuildContext, run_method
from grains_eval.vectors.bipo import Options, added, bidirectional_loss
from tests.reference.linear import encoded, linear_model
from tests.vectors.contexts import context, recipe


def linear_context(**options):
    loaded = linear_model()
    examples = [encoded(loaded, ids, *pair) for ids, pair in zip(PROMPTS, PAIRS, strict=True)]
    return BuildContext(loaded, examples, recipe("bipo", **options), lambda *_: None)


PROMPTS = [[1, 2, 3], [1, 4], [1, 5, 2, 6], [1, 3, 7]]
PAIRS = [(5, 6), (2, 3), (7, 4), (5, 3)]


def test_the_loss_is_that_of_the_equation():
    scores, reference = torch.tensor([[-1.0, -4.0]]), torch.tensor([-2.0, -3.0])
    for sign in (1.0, -1.0):
        expected = math.log(1 + math.exp(-sign * 0.5 * ((-1 + 2) - (-4 + 3))))
        assert float(bidirectional_loss(scores, reference, sign, 0.5)) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_training_follows_the_closed_form_on_a_linear_model(warmup):
    """`d` cancels: `d beta (u+ - u-) . M_after (d v)`, so AdamW on `-log sigmoid(beta a . v)` gives the same vector."""
    options = Options(beta=0.7, learning_rate=0.05, epochs=3, batch_size=3, warmup=warmup)
    given = linear_context(**options.model_dump())
    model = given.loaded.model
    built = run_method(given).vectors
    states = [prompt_states(model, one, one.embeddings[None]) for one in given.examples]
    scales = median_norms(states)
    after = {0: model.decoder.layers[1].weight.detach(), 1: torch.eye(3)}
    head = model.head.weight.detach()
    pulls = {
        layer: torch.stack([after[layer].T @ (head[one.chosen[0]] - head[one.rejected[0]]) for one in given.examples])
        for layer in after
    }
    for layer in (0, 1):
        unit = scales[layer] / 3**0.5
        moved = torch.nn.Parameter(torch.zeros(3))
        optimiser = torch.optim.AdamW([moved], lr=0.05, weight_decay=0.05)
        order = torch.Generator().manual_seed(0)
        steps = [batch for _ in range(3) for batch in _batches(order)]
        for number, batch in enumerate(steps):
            optimiser.param_groups[0]["lr"] = 0.05 * share_of_rate(number, len(steps), warmup)
            optimiser.zero_grad()
            (-torch.nn.functional.logsigmoid(0.7 * pulls[layer][batch] @ (moved * unit))).mean().backward()
            optimiser.step()
        torch.testing.assert_close(built.directions[layer], (moved * unit).detach(), atol=1e-4, rtol=1e-3)
        assert built.scales[layer] == pytest.approx(scales[layer])
        assert built.statistics[layer]["loss"] < math.log(2)


def share_of_rate(number, steps, warmup):
    """A line from zero over the warm-up, then half a cosine."""
    first = int(warmup * steps)
    if number < first:
        return number / first
    return 0.5 * (1 + math.cos(math.pi * (number - first) / (steps - first)))


def _batches(order):
    for batch in torch.randperm(4, generator=order).split(3):
        torch.randint(2, (len(batch),), generator=order)
        yield batch


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_rows_of_a_batch_are_the_layers_each_steered_alone(
    loaded_text: Callable[[str], LoadedModel], family: str
) -> None:
    given = context(loaded_text(family), "bipo", epochs=4, batch_size=2)
    model = given.loaded.model
    vectors = run_method(given).vectors
    example = given.examples[1]
    prompt = example.embeddings[None].expand(len(vectors.layers), -1, -1)
    with torch.no_grad(), added(model, vectors.layers, torch.stack([vectors.directions[i] for i in vectors.layers])):
        together = response_logprobs(model, example, prompt)
    for row, layer in enumerate(vectors.layers):
        setting = SteeringConfig((layer,), 1.0, "absolute", "add")
        with torch.no_grad(), steered(model, vectors, setting):
            alone = response_logprobs(model, example, example.embeddings[None])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)
        assert vectors.statistics[layer]["loss"] < math.log(2)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_tuned_over_layers_and_multipliers_of_the_vector_as_trained(
    loaded_text: Callable[[str], LoadedModel],
) -> None:
    own = recipe("bipo", epochs=1, steering={"candidate_layers": [0, 2]})
    built = run_method(context(loaded_text("llama"), "bipo", epochs=1, steering={"candidate_layers": [0, 2]})).vectors
    assert built.layers == (0, 2) and fixed_setting(own) is None
    settings = grid(built, own)
    assert {(one.operator, one.unit) for one in settings} == {("add", "absolute")}
    assert sorted({one.strength for one in settings}) == [0.25, 0.5, 1.0, 2.0] and len(settings) == 8
    with pytest.raises(GrainsError, match="layer 9 is not in the model"):
        run_method(context(loaded_text("llama"), "bipo", steering={"layers": [9]}))


def test_the_same_seed_gives_the_same_vectors(loaded_text: Callable[[str], LoadedModel]) -> None:
    one, same, other = (run_method(context(loaded_text("llama"), "bipo", seed, epochs=1)).vectors for seed in (0, 0, 1))
    assert all(torch.equal(one.directions[layer], same.directions[layer]) for layer in one.layers)
    assert any(not torch.equal(one.directions[layer], other.directions[layer]) for layer in one.layers)


def trained_by_hand(given, signed):
    """The vector of layer 1 by equation 3 as it stands, through autograd; `signed` False draws no -1."""
    model, width = given.loaded.model, 32
    states = [prompt_states(model, one, one.embeddings[None]) for one in given.examples]
    unit = median_norms(states)[1] / width**0.5
    with torch.no_grad():
        before = [response_logprobs(model, one, one.embeddings[None])[0] for one in given.examples]
    moved = torch.nn.Parameter(torch.zeros(1, width))
    optimiser = torch.optim.AdamW([moved], lr=0.2, weight_decay=0.0)
    order, steps = torch.Generator().manual_seed(0), 8
    for number in range(steps):
        if number % 2 == 0:
            batches = torch.randperm(len(before), generator=order).split(3)
        batch = batches[number % 2]
        drawn = 2 * torch.randint(2, (len(batch),), generator=order) - 1
        optimiser.param_groups[0]["lr"] = 0.2 * share_of_rate(number, steps, 0.0)
        optimiser.zero_grad()
        for index, sign in zip(batch.tolist(), (drawn if signed else drawn.abs()).tolist(), strict=True):
            example = given.examples[index]
            with added(model, [1], sign * moved * unit):
                gains = response_logprobs(model, example, example.embeddings[None])[0] - before[index]
            loss = -torch.nn.functional.logsigmoid(sign * 1.0 * (gains[0] - gains[1]))
            (loss / len(batch)).backward(inputs=[moved])
        optimiser.step()
    return (moved * unit).detach()[0]


def test_the_vector_is_trained_in_both_directions(loaded_text: Callable[[str], LoadedModel]) -> None:
    settings = {"beta": 1.0, "learning_rate": 0.2, "weight_decay": 0.0, "epochs": 4, "batch_size": 3, "warmup": 0.0}
    given = context(loaded_text("llama"), "bipo", **settings)
    assert len(given.examples) == 6
    found = run_method(given).vectors.directions[1]
    both, one_way = trained_by_hand(given, True), trained_by_hand(given, False)
    assert float((found - both).norm()) < 0.02 * float((both - one_way).norm())
    assert float((both - one_way).norm()) > 1e-2 * float(both.norm())
