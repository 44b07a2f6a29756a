"""The verdicts over worlds: a goal is reached where every part of it is, and never on one world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.found_image_rows import ABLATIONS, IMAGES, MeasuredImages, cued, image_items, open_images
from benchmarks.found_token_rows import FOUND, UNSTEERED, Measured, open_world
from benchmarks.found_tokens import CUE, SEEDS, builds, goal, known_seeds, table
from benchmarks.image_seeds import build_questions
from benchmarks.worlds.image_words import CUE_WORDS
from benchmarks.worlds.image_world import read_scene
from benchmarks.worlds.text_world import fact_items, make_world
from grains_eval.demo import model_path
from grains_eval.examples import load_examples
from grains_eval.tasks_path import task_directory
from grains_eval.types import TokenConfig, TokenOrigin, TokenPool
from grains_eval.vectors.context import build_context
from grains_eval.vectors.found_tokens import found_tokens
from grains_eval.virtual_tokens.merging import resolve_tokens

ITEMS = len(fact_items(make_world("shared", 1), "test"))


def world(seed: int, skills: float = 1.0, **right: int) -> dict[str, Any]:
    """Answers of one world: how many items are right, by row."""
    rows = {
        name.replace("_", " "): {"draws": ["1" * number + "0" * (ITEMS - number)], "skills": 1.0, "closed_book": None}
        for name, number in {"unsteered": 20, "found_token": 90, "cue_in_the_prompt": 92, "blind_tokens": 20}.items()
    }
    for name, number in right.items():
        rows[name.replace("_", " ")] = {**rows[UNSTEERED], "draws": ["1" * number + "0" * (ITEMS - number)]}
    rows[FOUND] = {**rows[FOUND], "skills": skills, "notes": ["almanac 3"]}
    training = {"gate_passed": True, "accuracy": {"preferred": 0.97}, "discarded": [{}]}
    return {"world": "shared", "seed": seed, "training": training, "rows": rows}


def reached(*worlds: dict[str, Any]) -> dict[str, str]:
    return {row["goal"]: row["reached"] for row in goal("shared", worlds)}


def test_the_goal_is_reached_where_every_part_is() -> None:
    found = reached(world(1), world(2, blind_tokens=25), world(3))
    assert set(found.values()) == {"yes"} and "all of it" in found


@pytest.mark.parametrize(
    ("worlds", "part"),
    [
        ((world(1, blind_tokens=75), world(2, blind_tokens=76)), "≥ 0.2 beyond: blind tokens"),
        # a margin of a half that one world of two does not show
        ((world(1, blind_tokens=90), world(2, blind_tokens=0)), "≥ 0.2 beyond: blind tokens"),
        ((world(1, skills=0.97), world(2)), "skills within 0.01"),
        ((world(1, cue_in_the_prompt=96), world(2, cue_in_the_prompt=96)), "within 0.05 of the cue in the prompt"),
    ],
)
def test_one_part_that_fails_fails_the_goal(worlds: tuple[dict[str, Any], ...], part: str) -> None:
    found = reached(*worlds)
    assert [name for name, said in found.items() if said == "NO"] == [part, "all of it"]


def test_one_world_speaks_for_no_others() -> None:
    found = reached(world(1, every_token=89))
    assert found["≥ 0.2 beyond: blind tokens"] == "one world" and found["all of it"] == "NO"
    assert found["≥ 0.2 beyond: every token"] == "NO"


def test_the_table_pools_draws_and_says_how_far_ahead() -> None:
    first, second = world(1), world(2)
    first["rows"]["blind tokens"]["draws"] = ["1" * ITEMS, "0" * ITEMS]
    rows = {row["method"]: row for row in table("shared", [first, second])}
    blind = rows["blind tokens"]
    assert blind["accuracy"] == pytest.approx((0.5 + 20 / ITEMS) / 2, abs=1e-3) and blind["draws"] == "0.00 to 1.00"
    assert float(blind["found token beyond it"]) == pytest.approx(90 / ITEMS - blind["accuracy"], abs=2e-3)
    assert rows[CUE]["per seed"] == "0.96 0.96"


def test_a_world_without_a_model_is_counted_and_left_out() -> None:
    missed = {"world": "shared", "seed": 4, "training": {**world(4)["training"], "gate_passed": False}}
    rows = builds([world(3), missed])
    assert [row["models discarded"] for row in rows] == [1, 2]
    assert rows[1]["found"] == "no model passed its gates"


def test_worlds_that_were_measured_are_pooled(tmp_path: Path) -> None:
    for name in ("shared_402", "shared_0", "shared_without_cues_7"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert known_seeds("shared", tmp_path) == [0, 402] and known_seeds("shared_without_cues", tmp_path) == [7]
    assert known_seeds("split", tmp_path) == list(SEEDS)


def test_a_row_is_pooled_over_the_worlds_that_have_it() -> None:
    first, second = world(1), world(2, some_pool=30)
    row = next(row for row in table("shared", [first, second]) if row["method"] == "some pool")
    assert row["per seed"] == f"– {30 / ITEMS:.2f}" and row["accuracy"] == pytest.approx(30 / ITEMS, abs=1e-3)
    assert reached(first, second)["≥ 0.2 beyond: some pool"] == "one world"


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    items = task_directory() / "demo" / "text_split" / "data"
    return open_world("split", 0, Path(model_path("text_split")), items, tmp_path_factory.mktemp("split"))


def test_a_token_that_wrecks_what_must_stay_is_harmful(split: Measured) -> None:
    one = split.one
    recipe = one.recipe.model_copy(update={"data": one.recipe.data.model_copy(update={"examples": 8})})
    context = build_context(one.loaded, load_examples(recipe.data, one.loaded).build, recipe)
    found = found_tokens(context, split.harmless, "random", tested=False).tokens
    fine, loud = (resolve_tokens(found, TokenConfig(strength=strength)) for strength in (-30.0, 30.0))
    assert fine is not None and loud is not None
    assert split.harmless([fine, loud, fine]) == [True, False, True]


@pytest.fixture(scope="module")
def images() -> MeasuredImages:
    return open_images(0, model_path("image"), examples=4)


def test_cues_are_added_to_the_same_questions_and_images(images: MeasuredImages) -> None:
    asked = images.one.test[:12]
    for item, spoken, stamped in zip(asked, *(cued(images.world, asked, each) for each in (False, True)), strict=True):
        assert {**spoken, "prompt": item["prompt"]} == item
        (word,) = set(spoken["prompt"].split()) & set(CUE_WORDS["truth"])
        assert spoken["prompt"].replace(f"the {word} spoke. ", "") == item["prompt"]
        *scene, stamp = stamped["scene"]
        assert {**stamped, "scene": scene} == item
        assert stamp[1] == "seal" and stamp[0] not in [mark[0] for mark in scene]


def test_found_image_tokens_are_named_by_what_is_in_their_cells(images: MeasuredImages) -> None:
    item = build_questions(images.world, 4)[0]
    mark = read_scene(item)[0]
    empty = next(cell for cell in range(16) if cell not in {one.cell for one in read_scene(item)})
    origins = [TokenOrigin("<image>", -1, 1 + cell, 30 - cell, item["id"]) for cell in (mark.cell, empty)]
    word = TokenOrigin("auditor", 77, 27, 4, item["id"])
    pool = TokenPool({}, {}, torch.zeros(3, 1), (*origins, word))
    assert f"[{mark.shape}] 1, [empty cell] 1, auditor 1" in images.said(pool)
    # the cell's visual token is where the name was looked up
    example = images.context.examples[0]
    assert example.example.id == item["id"] and example.is_image.nonzero()[:, 0].tolist() == list(range(1, 17))


def test_a_token_that_blinds_is_harmful(images: MeasuredImages) -> None:
    section = images.context.recipe.vectors.model_copy(update={"method": "found_tokens"})
    recipe = images.context.recipe.model_copy(update={"vectors": section})
    found = found_tokens(replace(images.context, recipe=recipe), images.harmless, "random", tested=False).tokens
    fine, loud = (resolve_tokens(found, TokenConfig(strength=strength)) for strength in (-30.0, 30.0))
    assert fine is not None and loud is not None
    assert images.harmless([fine, loud, fine]) == [True, False, True]


def test_tables_of_the_image_world_have_a_cluster_per_room() -> None:
    items = image_items(7)
    one = world(7)
    for row in one["rows"].values():
        row["draws"] = [row["draws"][0].ljust(len(items), "0")]
    (row,) = [row for row in table(IMAGES, [{**one, "world": IMAGES}]) if row["method"] == UNSTEERED]
    assert row["accuracy"] == pytest.approx(20 / len(items), abs=1e-3)
    assert len({item["cluster"] for item in items}) == 24


def test_modalities_and_the_stamp_are_no_controls_to_be_ahead_of() -> None:
    one = world(7, every_token=89)
    one["rows"] |= {label: one["rows"][FOUND] for label in ABLATIONS}
    assert {each for each in reached(one) if each.startswith("≥")} == {
        "≥ 0.2 beyond: blind tokens",
        "≥ 0.2 beyond: every token",
    }
