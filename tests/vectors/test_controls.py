"""Vectors that should not work as well."""

from __future__ import annotations

import pytest
import torch

from grains_eval.types import SteeringVectors
from grains_eval.vectors import run_method
from grains_eval.vectors.controls import negate, project_out, random_like
from tests.vectors.contexts import EXAMPLES, context

VECTORS = SteeringVectors({1: torch.tensor([3.0, 4.0, 0.0]), 2: torch.tensor([0.0, 2.0, 0.0])}, {1: 1.0, 2: 1.0})


def test_random_directions_have_each_layers_norm_and_their_seed():
    drawn = random_like(VECTORS, seed=1)
    for layer in VECTORS.layers:
        assert float(drawn.directions[layer].norm()) == pytest.approx(float(VECTORS.directions[layer].norm()), rel=1e-5)
    assert torch.equal(drawn.directions[1], random_like(VECTORS, seed=1).directions[1])
    assert not torch.equal(drawn.directions[1], random_like(VECTORS, seed=2).directions[1])


def test_what_is_projected_out_is_gone_and_the_rest_stays():
    other = SteeringVectors({1: torch.tensor([0.0, 7.0, 0.0]), 2: torch.tensor([0.0, 0.0, 1.0])}, {1: 1.0, 2: 1.0})
    left = project_out(VECTORS, other)
    torch.testing.assert_close(left.directions[1], torch.tensor([3.0, 0.0, 0.0]))
    torch.testing.assert_close(left.directions[2], VECTORS.directions[2])
    assert torch.equal(negate(VECTORS).directions[1], -VECTORS.directions[1])


def test_the_vocabulary_direction_is_that_of_the_answers_words(loaded_text):
    loaded = loaded_text("llama")
    vectors = run_method(context(loaded, "vocabulary")).vectors
    rows = loaded.model.get_output_embeddings().weight.detach()

    def mean(answers):
        ids = [loaded.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        return rows[torch.tensor([token for each in ids for token in each])].mean(dim=0)

    expected = mean([one.chosen for one in EXAMPLES]) - mean([one.rejected for one in EXAMPLES])
    for layer in vectors.layers:
        torch.testing.assert_close(vectors.directions[layer], expected, atol=1e-5, rtol=1e-4)


def test_draws_of_random_vectors_differ(loaded_text):
    loaded = loaded_text("llama")
    one, other = (run_method(context(loaded, "random", draw=draw)).vectors for draw in (0, 1))
    assert not torch.equal(one.directions[0], other.directions[0]) and one.scales == other.scales
