"""Known answers: on a linear model scores, deltas, directions and steered states follow from the definitions alone."""

from __future__ import annotations

import pytest
import torch

from grains_eval.steering import steered
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.reference.linear import encoded, linear_model


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
