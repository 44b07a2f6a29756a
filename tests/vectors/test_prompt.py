"""The prompting baseline's instruction."""

from __future__ import annotations

import pytest

from grains_eval.errors import NotApplicable
from grains_eval.recipes import parse_recipe
from grains_eval.vectors.prompt import instruction


def test_the_instruction_is_the_recipes():
    given = {"name": "honest", "data": {"path": "x.jsonl"}}
    with pytest.raises(NotApplicable, match=r"recipe 'honest' has no prompting\.instruction"):
        instruction(parse_recipe(given))
    told = parse_recipe({**given, "prompting": {"instruction": " Be honest.\n"}})
    assert instruction(told) == "Be honest."
