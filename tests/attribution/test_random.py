"""Random scores repeat for the same example and seed alone."""

from __future__ import annotations

import torch

from grains_eval.attribution import attribute
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample

EXAMPLE = PreferenceExample("e", "h", "Question what is the capital of france Answer", " paris paris", " rome")


def test_random_scores_differ_between_examples_and_seeds_and_repeat(loaded_text):
    loaded = loaded_text("llama")
    config = AttributionConfig(method="random")
    other = PreferenceExample("other", "h2", EXAMPLE.prompt, EXAMPLE.chosen, EXAMPLE.rejected)
    first = attribute(loaded, EXAMPLE, config).scores
    assert torch.equal(first, attribute(loaded, EXAMPLE, config).scores)
    assert not torch.equal(first, attribute(loaded, other, config).scores)
    assert not torch.equal(first, attribute(loaded, EXAMPLE, config, seed=1).scores)
