"""Fidelity of real attributions of tiny models, as builds measure it."""

from __future__ import annotations

import torch

from grains_eval.attribution.objective import objective
from grains_eval.models import LoadedModel
from grains_eval.recipes import parse_recipe
from grains_eval.study import fidelity as measured
from grains_eval.study.fidelity import fidelity, preference_without
from grains_eval.types import PreferenceExample
from grains_eval.vectors import build_context
from tests.tiny import picture


def context(loaded: LoadedModel, shown=(), seed=0, **attribution):
    asked = [
        PreferenceExample(
            f"e{index}", f"h{index}", f"{'<image> ' * len(shown)}what is {word} hello", "yes", "no", shown
        )
        for index, word in enumerate(("paris", "rome", "london"))
    ]
    section = {"steps": 4, "max_steps": 4, "max_document_frequency": 1.0, **attribution}
    recipe = parse_recipe({"name": "t", "seed": seed, "data": {"path": "d.jsonl"}, "attribution": section})
    return build_context(loaded, asked, recipe)


def scored(made):
    return [made.attribute(each, made.recipe.attribution) for each in made.examples]


def test_preferences_are_those_of_masked_prompts(loaded_text):
    made = context(loaded_text("llama"))
    example = made.examples[0]
    found = preference_without(made, example, [(), (1,), (1, 2)])
    rows = example.embeddings.float()[None].repeat(3, 1, 1)
    baseline = made.loaded.model.get_input_embeddings().weight[made.loaded.tokenizer.pad_token_id].float()
    rows[1, 1] = rows[2, 1] = rows[2, 2] = baseline
    with torch.no_grad():
        expected = objective(made.loaded.model, example, made.recipe.attribution)(rows)
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_as_many_examples_as_asked_for(loaded_text):
    made = context(loaded_text("llama"), fidelity_examples=2)
    found = fidelity(made, scored(made))
    assert set(found) == {"text"}
    assert found["text"]["comprehensiveness"]["examples"] == 2
    assert found == fidelity(made, scored(made))
    none = context(loaded_text("llama"), fidelity_examples=0)
    assert fidelity(none, scored(none)) == {}


def test_preferences_without_image_tokens_are_those_of_the_visual_baseline(loaded_vision):
    made = context(loaded_vision("llava"), (picture(1),))
    example = made.examples[0]
    patches = example.is_image.nonzero()[:, 0].tolist()
    word = int((~example.is_image).nonzero()[-1])
    found = preference_without(made, example, [(), patches[:2], (patches[0], word)])
    rows = example.embeddings.float()[None].repeat(3, 1, 1)
    rows[1, patches[:2]] = example.visual_baseline[patches[:2]].float()
    rows[2, patches[0]] = example.visual_baseline[patches[0]].float()
    rows[2, word] = made.loaded.model.get_input_embeddings().weight[made.loaded.tokenizer.pad_token_id].float()
    with torch.no_grad():
        expected = objective(made.loaded.model, example, made.recipe.attribution)(rows)
    assert torch.allclose(found.float(), expected, atol=1e-5)
    assert len(set(found.tolist())) == 3


def test_image_and_text_tokens_are_ranked_among_themselves(loaded_vision, monkeypatch):
    asked = []
    real = measured.example_fidelity

    def noted(attribution, remove, seed):
        def noting(sets):
            asked.append({int(position) for each in sets for position in each})
            return remove(sets)

        return real(attribution, noting, seed)

    monkeypatch.setattr(measured, "example_fidelity", noted)
    made = context(loaded_vision("llava"), (picture(1),), fidelity_examples=1)
    found = fidelity(made, scored(made))
    assert set(found) == {"text", "image"}
    assert found["image"] != found["text"]
    text, image = asked
    visual = set(made.examples[0].is_image.nonzero()[:, 0].tolist())
    assert image <= visual and len(image) > 1
    assert text and not text & visual


def test_attributions_beat_random_rankings(loaded_text):
    made = context(loaded_text("llama"), steps=64, max_steps=64)
    found = fidelity(made, scored(made))["text"]
    assert found["comprehensiveness"]["difference"] > 0
    assert found["sufficiency"]["difference"] < 0


def test_random_rankings_are_drawn_anew_for_every_example_and_seed(loaded_text, monkeypatch):
    drawn = []
    real = measured.example_fidelity

    def noted(attribution, remove, seed):
        drawn.append(seed)
        return real(attribution, remove, seed)

    monkeypatch.setattr(measured, "example_fidelity", noted)
    found = []
    for seed in (0, 0, 1):
        made = context(loaded_text("llama"), seed=seed)
        found.append(fidelity(made, scored(made))["text"])
    assert drawn[:3] == drawn[3:6] and len(set(drawn)) == 6
    assert found[0] == found[1] != found[2]
