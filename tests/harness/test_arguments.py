"""Steering arguments: how they are spelled, and what is refused."""

from __future__ import annotations

import pytest

from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import parse_layers, parse_steering
from tests.harness.test_model import vectors_for


def test_layers_are_spelled_in_several_ways():
    assert parse_layers(14) == (14,)
    assert parse_layers("8-10") == (8, 9, 10)
    assert parse_layers("8/14/8") == (8, 14)
    assert parse_layers([1, 2]) == (1, 2)
    assert parse_layers("all") is None
    assert parse_steering(None) == ()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"unit": "absolute"}, "holds found tokens; 'unit' does not apply"),
        ({"strength": "strong"}, "strength=strong is not a number"),
        ({"tokens": 1.5}, "tokens=1.5 is not a whole number"),
        ({"tokens": "two"}, "tokens=two is not a whole number"),
        ({"tokens": 9}, "tokens=9, but 4 tokens were found"),
        ({"form": "words"}, "unknown form 'words'"),
        ({"form": "text", "strength": 1.0}, "where strength has no meaning"),
        ({"layers": "0/7"}, "layer 7 is not among those of the found tokens"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(given, why, token_folder):
    with pytest.raises(GrainsError, match=why) as caught:
        parse_steering(token_folder(), **given)
    assert "\n" not in str(caught.value)


def test_vectors_have_no_form(tmp_path, loaded_text):
    own = str(save_vectors(vectors_for(loaded_text("llama").model), tmp_path / "v"))
    with pytest.raises(GrainsError, match="holds steering vectors; 'form' does not apply"):
        parse_steering(own, form="text")


def test_models_that_do_not_fit_are_refused(token_folder, open_lm):
    with pytest.raises(GrainsError, match="they were read from another model"):
        open_lm("gpt2", vectors=token_folder("llama"))
    with pytest.raises(GrainsError, match="shows no virtual tokens"):
        open_lm("mamba", vectors=token_folder("llama", "b"))
    with pytest.raises(GrainsError, match="learned positions"):
        open_lm("gpt2", vectors=token_folder("gpt2"), distance=3)
