"""SmoothGrad on a linear model."""

from __future__ import annotations

import torch

from grains_eval.attribution import attribute
from grains_eval.recipes import AttributionConfig
from tests.reference.linear import encoded, expected_scores, linear_model


def test_smoothgrad_averages_to_gradient_times_input_and_is_seeded():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3, 4], chosen=5, rejected=6)
    config = AttributionConfig(method="smoothgrad", samples=4000, noise=0.05, internal_batch_size=4000)
    first, again = attribute(loaded, example, config), attribute(loaded, example, config)
    assert torch.equal(first.scores, again.scores)
    torch.testing.assert_close(first.scores, expected_scores(loaded, example, torch.zeros(3)), rtol=0, atol=5e-3)
