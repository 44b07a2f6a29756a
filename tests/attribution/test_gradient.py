"""Gradient times input on a linear model."""

from __future__ import annotations

import torch

from grains_eval.attribution import attribute
from grains_eval.recipes import AttributionConfig
from tests.reference.linear import encoded, expected_scores, linear_model


def test_gradient_times_input_is_integrated_gradients_from_zero_here():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3, 4], chosen=5, rejected=6)
    found = attribute(loaded, example, AttributionConfig(method="gradient"))
    torch.testing.assert_close(found.scores, expected_scores(loaded, example, torch.zeros(3)), rtol=1e-5, atol=1e-6)
