"""What is attributed, on a linear model."""

from __future__ import annotations

import pytest

from grains_eval.attribution import attribute
from grains_eval.recipes import AttributionConfig
from tests.reference.linear import encoded, linear_model, maps


def test_length_normalisation_and_likelihood_objective():
    loaded = linear_model()
    example = encoded(loaded, [1, 2, 3], chosen=5, rejected=6)
    preference = attribute(loaded, example, AttributionConfig())
    likelihood = attribute(loaded, example, AttributionConfig(objective="likelihood"))
    hidden = maps(loaded)[-1] @ example.embeddings.sum(0)
    logprobs = (loaded.model.get_output_embeddings().weight @ hidden).log_softmax(0)
    assert preference.value == pytest.approx((logprobs[5] - logprobs[6]).item(), abs=1e-5)
    assert likelihood.value == pytest.approx(logprobs[5].item(), abs=1e-5)
