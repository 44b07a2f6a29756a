"""What an artifact says of its origin."""

from __future__ import annotations

import torch

from grains_eval.examples import Examples
from grains_eval.recipes import parse_recipe
from grains_eval.study.development_set import DevelopmentSet
from grains_eval.study.provenance import (
    data_provenance,
    kind_of,
    model_identity,
    recipe_provenance,
    weights_fingerprint,
)
from grains_eval.study.tune import Choice
from grains_eval.types import PreferenceExample, SteeringConfig


def recipe(**sections):
    return parse_recipe({"name": "honest", "data": {"path": "x.jsonl"}, **sections})


def test_only_arguments_that_change_numbers_tell_models_apart():
    one = model_identity({"pretrained": "a", "device": "cpu", "batch_size": 4}, None)
    assert one == model_identity({"batch_size": 1, "pretrained": "a"}, None)
    assert one != model_identity({"pretrained": "a", "dtype": "bfloat16"}, None)


def test_other_weights_have_another_fingerprint(loaded_text):
    model = loaded_text("llama").model
    before = weights_fingerprint(model)
    parameter = list(model.parameters())[-1]
    with torch.no_grad():
        first = parameter.flatten()[0].clone()
        parameter.view(-1)[0] += 1
        assert weights_fingerprint(model) != before
        parameter.view(-1)[0] = first
    assert weights_fingerprint(model) == before


def test_what_is_drawn_by_chance_is_a_control():
    assert kind_of(recipe()) == "method"
    assert kind_of(recipe(attribution={"method": "random"})) == "control"
    assert kind_of(recipe(vectors={"method": "vocabulary"})) == "control"
    # CAA reads no attributions, so how they would be made says nothing of it
    assert kind_of(recipe(vectors={"method": "caa"}, attribution={"method": "random"})) == "method"


def test_a_recipe_is_known_by_its_hash_and_its_data():
    told = recipe_provenance(recipe(seed=3), {"pretrained": "org/name", "revision": "v2"}, None)
    assert (told["base_model"], told["revision"], told["source"], told["seed"]) == ("org/name", "v2", "x.jsonl", 3)
    assert told["recipe_hash"] == recipe(seed=3).fingerprint() != recipe(seed=4).fingerprint()
    assert told["architecture"] is None and told["weights"] is None


def test_documents_of_both_sets_are_kept_apart():
    build, held = (PreferenceExample(name, f"hash of {name}", name, " a", " b") for name in ("one", "two"))
    choice = Choice(SteeringConfig(strength=2.0), "because")
    told = data_provenance(Examples([build], [held]), DevelopmentSet([held], [], ()), choice)
    assert told["examples"] == 1 and told["modality"] == "text" and told["chosen_by"] == "because"
    assert told["doc_hashes"]["build"] == ["hash of one"] and told["doc_hashes"]["development"] == ["hash of two"]
