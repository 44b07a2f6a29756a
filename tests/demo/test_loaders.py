"""Rows of the demo worlds as lm-eval reads them."""

from __future__ import annotations

import json

import pytest

from grains_eval.demo.loaders import load, read_items
from grains_eval.errors import GrainsError


def test_a_world_has_its_splits_and_a_part_is_the_test_split():
    world = load("text_split")
    assert set(world) == {"train", "validation", "test"} and all(len(split) for split in world.values())
    skills = load("text_split", part="skills")
    assert set(skills) == {"test"} and skills["test"][0] != world["test"][0]


def test_items_of_a_fresh_world_take_the_place_of_the_bundled_ones(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"question": split}) + "\n")
    assert load("text_split", items=str(tmp_path))["test"][0] == {"question": "test"}
    with pytest.raises(GrainsError, match=r"no items '.*skills\.jsonl'"):
        load("text_split", part="skills", items=str(tmp_path))
    assert read_items(tmp_path / "train.jsonl") == [{"question": "train"}]
