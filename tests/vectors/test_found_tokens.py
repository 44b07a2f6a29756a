"""Where the candidates of found tokens come from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grains_eval.models import LoadedModel
from grains_eval.recipes import parse_recipe
from grains_eval.types import PreferenceExample
from grains_eval.vectors import build_context
from grains_eval.vectors.found_tokens import Options, _candidates
from tests import tiny


@pytest.mark.parametrize("pool", ["random", "every"])
@pytest.mark.parametrize("modality", ["text", "image", "joint"])
def test_drawn_candidates_are_of_the_modality_that_attribution_is_asked_for(
    loaded_vision: Callable[[str], LoadedModel], pool: str, modality: str
) -> None:
    example = PreferenceExample("v", "v", "<image> What is this", " a cat", " a dog", (tiny.picture(),))
    recipe = parse_recipe(
        {
            "name": "t",
            "data": {"path": "x.jsonl"},
            "vectors": {"method": "found_tokens"},
            "attribution": {"modality": modality},
        }
    )
    context = build_context(loaded_vision("llava"), [example], recipe)
    (encoded,) = context.examples
    found = [position for _, position in _candidates(context, Options(candidates=50), pool, (), 1.0, tested=True)]  # type: ignore[arg-type]
    of_images = encoded.is_image.nonzero().flatten().tolist()
    wanted = {"text": False, "image": True}
    allowed = [p for p in encoded.is_candidate.nonzero().flatten().tolist()]
    expected = [p for p in allowed if modality == "joint" or (p in of_images) == wanted[modality]]
    assert sorted(found) == sorted(expected) or (len(found) == 50 and set(found) <= set(expected))


@pytest.mark.parametrize("pool", ["random", "every"])
def test_a_random_pool_draws_no_template_words(loaded_text: Callable[[str], LoadedModel], pool: str) -> None:
    """Attribution's candidates hold none, so drawn ones that did would be a control that is easy to beat."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    examples = [PreferenceExample(word, word, f"what is {word}", " a cat", " a dog") for word in words]
    recipe = parse_recipe({"name": "t", "data": {"path": "x.jsonl"}, "vectors": {"method": "found_tokens"}})
    context = build_context(loaded_text("llama"), examples, recipe)
    found = _candidates(context, Options(candidates=50), pool, (), 1.0, tested=False)  # type: ignore[arg-type]
    drawn = {int(context.examples[index].input_ids[position]) for index, position in found}
    template = set.intersection(*(set(each.input_ids[each.is_candidate].tolist()) for each in context.examples))
    assert template and drawn - template
    assert (drawn & template == set()) == (pool == "random")
