"""Known answers: on a linear model scores, deltas, directions and steered states follow from the definitions alone."""

from __future__ import annotations

import pytest
import torch

from grains_eval.attribution import attribute
from grains_eval.attribution.baselines import text_baseline
from grains_eval.recipes import AttributionConfig, parse_recipe
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors import BuildContext, run_method
from tests.reference.linear import encoded, linear_model, maps


def expected_scores(loaded, example, baseline):
    unembedding = loaded.model.get_output_embeddings().weight.detach()
    sensitivity = maps(loaded)[-1].T @ (unembedding[example.chosen[0]] - unembedding[example.rejected[0]])
    return (example.embeddings - baseline) @ sensitivity


@pytest.mark.parametrize("baseline", ["pad", "mean", "zero"])
def test_integrated_gradients_equal_the_closed_form(baseline):
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3, 4], chosen=5, rejected=6)
    weight = loaded.model.get_input_embeddings().weight.detach()
    reference = {"pad": weight[0], "mean": weight.mean(0), "zero": torch.zeros(3)}[baseline]
    assert torch.allclose(text_baseline(loaded.model, baseline), reference)
    found = attribute(loaded, example, AttributionConfig(baseline=baseline, steps=3))
    torch.testing.assert_close(found.scores, expected_scores(loaded, example, reference), rtol=1e-5, atol=1e-6)
    assert found.completeness_error < 1e-5
    assert found.value - found.baseline_value == pytest.approx(float(found.scores.sum()), rel=1e-5)


def test_gradient_times_input_is_integrated_gradients_from_zero_here():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3, 4], chosen=5, rejected=6)
    found = attribute(loaded, example, AttributionConfig(method="gradient"))
    torch.testing.assert_close(found.scores, expected_scores(loaded, example, torch.zeros(3)), rtol=1e-5, atol=1e-6)


def test_smoothgrad_averages_to_gradient_times_input_and_is_seeded():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3, 4], chosen=5, rejected=6)
    config = AttributionConfig(method="smoothgrad", samples=4000, noise=0.05, internal_batch_size=4000)
    first, again = attribute(loaded, example, config), attribute(loaded, example, config)
    assert torch.equal(first.scores, again.scores)
    torch.testing.assert_close(first.scores, expected_scores(loaded, example, torch.zeros(3)), rtol=0, atol=5e-3)


def test_length_normalisation_and_likelihood_objective():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3], chosen=5, rejected=6)
    preference = attribute(loaded, example, AttributionConfig())
    likelihood = attribute(loaded, example, AttributionConfig(objective="likelihood"))
    hidden = maps(loaded)[-1] @ example.embeddings.sum(0)
    logprobs = (loaded.model.get_output_embeddings().weight @ hidden).log_softmax(0)
    assert preference.value == pytest.approx((logprobs[5] - logprobs[6]).item(), abs=1e-5)
    assert likelihood.value == pytest.approx(logprobs[5].item(), abs=1e-5)


def test_directions_equal_the_masked_contrast_worked_out_by_hand():
    loaded = linear_model()
    examples = [encoded(loaded, ids, 5, 6, str(ids)) for ids in ([1, 2, 3, 4], [1, 4, 2, 3], [1, 3, 7, 2])]
    recipe = parse_recipe({"name": "t", "data": {"path": "x.jsonl"}, "attribution": {"top_k": 1}})
    context = BuildContext(loaded, examples, recipe, lambda one, config: attribute(loaded, one, config))
    vectors = run_method(context).vectors
    pad = loaded.model.get_input_embeddings().weight.detach()[0]
    for layer, matrix in enumerate(maps(loaded)):
        sides = []
        for sign in (1, -1):
            deltas = []
            for example in examples:
                scores = sign * expected_scores(loaded, example, pad)
                scores[0] = -torch.inf  # the special token is no candidate
                best = int(scores.argmax())
                if scores[best] > 0:
                    deltas.append(matrix @ (example.embeddings[best] - pad))
            mean = torch.stack(deltas).mean(0)
            sides.append(mean / mean.norm())
        torch.testing.assert_close(vectors.directions[layer], sides[0] - sides[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", ["relative", "absolute"])
@pytest.mark.parametrize("operator", ["add", "add_renormalised"])
def test_steered_states_equal_the_definition(unit, operator):
    loaded = linear_model()
    direction, scale = torch.tensor([1.0, -2.0, 0.5]), 1.7
    vectors = SteeringVectors({1: direction}, {1: scale})
    embeddings = encoded(loaded, [1, 2, 3], 5, 6).embeddings[None]
    plain = loaded.model.get_decoder()(embeddings)
    with steered(loaded.model, vectors, SteeringConfig(strength=0.7, unit=unit, operator=operator)):
        moved = loaded.model.get_decoder()(embeddings)
    delta = 0.7 * (scale * direction / direction.norm() if unit == "relative" else direction)
    expected = plain + delta
    if operator == "add_renormalised":
        expected = expected * plain.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(moved, expected)
