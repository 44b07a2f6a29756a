"""CAA against a mean difference worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from grains_eval.models import LoadedModel
from grains_eval.steering import check_width
from grains_eval.types import PreferenceExample
from grains_eval.vectors import build, run_method
from tests import tiny
from tests.vectors.contexts import EXAMPLES, context, differences_by_hand, recipe


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
def test_directions_are_mean_differences_at_the_last_response_token(
    loaded_text: Callable[[str], LoadedModel], family: str
) -> None:
    loaded = loaded_text(family)
    vectors = run_method(context(loaded, "caa")).vectors
    expected = differences_by_hand(loaded).mean(dim=0)
    assert vectors.site == "block_output" and vectors.layers == tuple(range(len(expected)))
    for layer in vectors.layers:
        torch.testing.assert_close(vectors.directions[layer], expected[layer], atol=1e-4, rtol=1e-4)
        assert vectors.statistics[layer]["examples"] == len(EXAMPLES)
        assert vectors.scales[layer] > 0


def test_swapped_answers_turn_the_vector_round(loaded_text: Callable[[str], LoadedModel]) -> None:
    loaded = loaded_text("llama")
    swapped = [replace(one, chosen=one.rejected, rejected=one.chosen) for one in EXAMPLES]
    one, other = build(loaded, EXAMPLES, recipe("caa")), build(loaded, swapped, recipe("caa"))
    for layer in one.layers:
        torch.testing.assert_close(one.directions[layer], -other.directions[layer])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("method", ["caa", "icv", "iti", "nl_iti", "bipo"])
def test_pictures_in_the_prompt_are_seen(loaded_vision: Callable[[str], LoadedModel], family: str, method: str) -> None:
    loaded = loaded_vision(family)

    def directions(first: int) -> dict[int, torch.Tensor]:
        examples = [
            PreferenceExample(f"v{i}", f"v{i}", "<image> What is this", " a cat", " a dog", (tiny.picture(first + i),))
            for i in range(3)
        ]
        heads = 24 if family == "gemma3" else 12  # all of them
        options = {"folds": 3, "heads": heads} if "iti" in method else {"epochs": 1} if method == "bipo" else {}
        vectors = build(loaded, examples, recipe(method, **options))
        check_width(loaded.model, vectors)
        return dict(vectors.directions)

    one, other = directions(0), directions(10)
    assert set(one) == set(other) and all(v.isfinite().all() for v in one.values())
    assert any(not torch.allclose(one[layer], other[layer], atol=1e-4) for layer in one)
