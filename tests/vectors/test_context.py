"""What a vector method is given."""

from __future__ import annotations

import pytest

from tests.vectors.contexts import EXAMPLES, context


def test_other_attribution_settings_leave_the_first_alone(loaded_text):
    build = context(loaded_text("llama"), "grains")
    blind = build.with_attribution(method="random", top_k=2)
    assert (blind.recipe.attribution.method, blind.recipe.attribution.top_k) == ("random", 2)
    assert build.recipe.attribution.method == "integrated_gradients" and blind.examples is build.examples
    with pytest.raises(ValueError, match="top_k"):
        build.with_attribution(top_k=0)


def test_scores_follow_the_settings_they_are_asked_with(loaded_text):
    build = context(loaded_text("llama"), "grains")
    assert [one.example.id for one in build.examples] == [one.id for one in EXAMPLES]
    blind = build.with_attribution(method="random").recipe.attribution
    scores = build.attribute(build.examples[0], blind).scores
    assert (scores == build.attribute(build.examples[0], blind).scores).all()
    other = build.attribute(build.examples[1], blind).scores
    assert (scores[:4] != other[:4]).any()
