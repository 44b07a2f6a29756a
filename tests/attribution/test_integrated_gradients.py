"""Integrated Gradients: the closed form on a linear model, and nodes that double until the gap is closed."""

from __future__ import annotations

import pytest
import torch

from grains_eval.attribution import attribute
from grains_eval.attribution.baselines import text_baseline
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample
from tests.reference.linear import encoded, expected_scores, linear_model

EXAMPLE = PreferenceExample("e", "h", "Question what is the capital of france Answer", " paris paris", " rome")


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


def test_nodes_double_until_the_gap_is_closed(loaded_text):
    loaded = loaded_text("llama")
    coarse = attribute(loaded, EXAMPLE, AttributionConfig(steps=1, max_steps=1))
    fine = attribute(loaded, EXAMPLE, AttributionConfig(steps=1, max_steps=256, tolerance=0.01))
    assert coarse.completeness_error > 0.01
    assert fine.completeness_error <= 0.01
    assert fine.steps > 1


def test_a_gap_that_stays_is_a_warning(loaded_text, caplog):
    attribute(loaded_text("llama"), EXAMPLE, AttributionConfig(steps=1, max_steps=1, tolerance=1e-6))
    assert "completeness error" in caplog.text
