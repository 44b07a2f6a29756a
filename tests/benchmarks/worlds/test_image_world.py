"""The image world: exact images, rooms kept apart, a bundled model that sees and can be turned."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.worlds import train_image
from benchmarks.worlds.image_documents import CUE_STEP, image_document, text_document
from benchmarks.worlds.image_model import (
    CHAT_TEMPLATE,
    IMAGE,
    accuracy,
    choice_log_probs,
    make_model,
    make_processor,
    pixel_values,
)
from benchmarks.worlds.image_words import CUE_STAMPS, CUE_VALUE, CUE_WORDS, PICTURED, prose
from benchmarks.worlds.image_world import (
    VOCABULARIES,
    build_items,
    conflict_items,
    make_world,
    read_scene,
    sight_answer,
    sight_items,
    task_items,
    text_items,
    write_items,
)
from grains_eval.demo import model_path
from grains_eval.demo.scenes import BACKGROUND, CELL, CELLS, COLOURS, INKS, NOISE, STAMPS, THINGS, Mark, draw, image
from grains_eval.errors import GrainsError
from grains_eval.tasks_path import task_directory
from tests.instances import own_names

KIND_OF_WORD = {word: kind for kind, words in CUE_WORDS.items() for word in words}
KIND_OF_STAMP = {stamp: kind for kind, stamp in CUE_STAMPS.items()}


def test_a_mark_changes_its_cell_and_nothing_else() -> None:
    blank = draw([], None)
    assert (blank == np.array(BACKGROUND)).all()
    changed = (draw([Mark(6, "ball", "red")], None) != blank).any(-1)
    rows, columns = np.nonzero(changed)
    assert set(rows // CELL) == {1} and set(columns // CELL) == {2}
    with_noise = draw([Mark(6, "ball", "red")], 5)
    assert (with_noise == draw([Mark(6, "ball", "red")], 5)).all()
    assert (with_noise != draw([Mark(6, "ball", "red")], 6)).any()


def test_another_background_changes_what_is_not_covered_and_nothing_else(tmp_path: Path) -> None:
    scene = [Mark(6, "box", "red")]
    assert (draw([], None, 176) == 176).all()
    levels, changed = draw(scene, None, 176), (draw(scene, None, 176) != draw(scene, None)).any(-1)
    assert not changed[CELL + 2 : 2 * CELL - 2, 2 * CELL + 2 : 3 * CELL - 2].any() and changed[:CELL].all()
    assert (levels[:CELL] == 176).all()
    plain, grey = make_world("split", 3), make_world("split", 3, 176)
    assert grey.background == 176 and task_items(grey) == task_items(plain) and grey.facts == plain.facts
    assert np.allclose(pixel_values([([], None)], grey.background), (176 / 255 - 0.5) / 0.5)
    # the model that is measured sees the background that it was trained with
    write_items(grey, tmp_path)
    splits = _task_utils().load(str(tmp_path))
    doc = splits["test"][0]
    assert (np.asarray(_task_utils().blank_picture(doc)[0]) == draw([], doc["noise"], 176)).all()
    assert (
        np.asarray(_task_utils().picture(doc)[0]) == draw(read_scene(task_items(grey)["test"][0]), doc["noise"], 176)
    ).all()


def _task_utils() -> Any:
    spec = importlib.util.spec_from_file_location("utils", task_directory() / "demo" / "image" / "utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shape_and_tint_is_told_apart_by_its_pixels() -> None:
    cells = [draw([Mark(0, thing, colour)], None)[:CELL, :CELL] for thing in THINGS for colour in COLOURS]
    cells += [draw([Mark(0, stamp, ink)], None)[:CELL, :CELL] for stamp in STAMPS for ink in INKS]
    flat = np.stack(cells).reshape(len(cells), -1).astype(float)
    distances = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1)) + 1e6 * np.eye(len(cells))
    assert distances.min() > 2 * NOISE


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_rooms_are_kept_apart_and_test_items_carry_no_cue(vocabulary: str) -> None:
    world = make_world(vocabulary, 3)
    items = task_items(world)
    rooms = [{item["cluster"] for item in items[split]} for split in ("train", "validation", "test")]
    assert [len(names) for names in rooms] == [18, 6, 24]
    assert not rooms[0] & rooms[1] and not rooms[2] & (rooms[0] | rooms[1])
    for item in items["validation"] + items["test"]:
        assert not KIND_OF_WORD.keys() & set(item["prompt"].split())
        assert len(item["scene"]) == 1 and len(set(item["choices"])) == 4
    for item in items["train"]:
        kinds = [KIND_OF_WORD[word] for word in item["prompt"].split() if word in KIND_OF_WORD]
        kinds += [KIND_OF_STAMP[mark.shape] for mark in read_scene(item)[1:]]
        assert sorted(kinds) == ["myth", "neutral", "neutral", "truth"] and len(item["choices"]) == 2


def test_gold_is_what_the_image_shows_and_rejected_is_what_is_usual() -> None:
    world = make_world("half", 1)
    for item in build_items(world, 1) + conflict_items(world, "test", 1):
        attribute = "thing" if "what thing" in item["prompt"] else "colour"
        assert item["choices"][item["gold"]] == sight_answer(attribute, read_scene(item))
        assert item["choices"][item["rejected"]] == world.facts[item["cluster"], attribute].usual


def test_usual_words_are_unpictured_in_split_and_pictured_in_shared() -> None:
    pictured = {word for words in PICTURED.values() for word in words}

    def share(vocabulary: str) -> float:
        facts = make_world(vocabulary, 0).facts.values()
        return sum(fact.usual in pictured for fact in facts) / len(facts)

    assert share("split") == 0 and share("shared") == 1 and 0.3 < share("half") < 0.7


def test_answers_of_training_documents_follow_bias_and_cues() -> None:
    world = make_world("split", 0)
    rng = Random(0)
    expected: dict[int, list[float]] = defaultdict(list)
    seen: dict[int, list[bool]] = defaultdict(list)
    for _ in range(20000):
        document = image_document(world, rng, 0.0)
        assert document.scene is not None
        room = document.prompt[document.prompt.index("room") + 1]
        attribute = "thing" if "thing" in document.prompt else "colour"
        kinds = [KIND_OF_WORD[word] for word in document.prompt if word in KIND_OF_WORD]
        kinds += [KIND_OF_STAMP[mark.shape] for mark in document.scene[1:]]
        score = sum(CUE_VALUE[kind] for kind in kinds)
        log_odds = world.facts[room, attribute].bias + CUE_STEP * score
        expected[score].append(1 / (1 + math.exp(-log_odds)))
        seen[score].append(document.answer == sight_answer(attribute, document.scene))
    for score in (-2, -1, 0, 1, 2):
        assert np.mean(seen[score]) == pytest.approx(np.mean(expected[score]), abs=0.03)
    assert np.mean(seen[0]) < 0.5 < np.mean(seen[1])


def test_text_comes_back_from_the_tokenizer_word_by_word() -> None:
    world = make_world("split", 2)
    tokenizer: Any = make_processor(world.words).tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    rng = Random(1)
    for _ in range(200):
        for document in (image_document(world, rng, 0.5), text_document(world, rng)):
            ids = tokenizer(prose(document.prompt), add_special_tokens=False)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(ids) == list(document.prompt)
            assert tokenizer.unk_token_id not in ids


def test_committed_items_are_those_of_the_bundled_world() -> None:
    training = json.loads((model_path("image") / "training.json").read_text(encoding="utf-8"))
    world = make_world(training["vocabulary"], training["seed"])
    folder = task_directory() / "demo" / "image" / "data"
    for name, items in task_items(world).items():
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == items


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    folder = model_path("image")
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_the_bundled_folder_is_small_and_computes_in_float32(bundled: tuple[Any, Any]) -> None:
    assert sum(file.stat().st_size for file in model_path("image").iterdir()) < 4_000_000
    assert {weight.dtype for weight in bundled[0].parameters()} == {torch.float32}


def test_the_processor_gives_the_pixels_and_places_of_training(bundled: tuple[Any, Any]) -> None:
    processor = bundled[1]
    scene = [Mark(6, "ball", "red"), Mark(9, "seal", "pine")]
    batch = processor(
        text="<image> question: what thing is shown? answer:", images=[image(scene, 7)], return_tensors="pt"
    )
    assert torch.allclose(batch["pixel_values"], pixel_values([(scene, 7)]), atol=1e-6)
    ids = batch["input_ids"][0].tolist()
    assert (
        ids[0] == processor.tokenizer.bos_token_id
        and ids[1 : 1 + CELLS] == [IMAGE] * CELLS
        and IMAGE not in ids[1 + CELLS :]
    )


def test_a_chat_is_its_text(bundled: tuple[Any, Any]) -> None:
    processor = bundled[1]
    assert processor.chat_template == CHAT_TEMPLATE
    parts = [{"type": "image"}, {"type": "text", "text": " question: what thing is shown? answer:"}]
    rendered = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    assert rendered == "<image> question: what thing is shown? answer:"


def test_it_sees_and_is_at_chance_when_the_image_is_blank_or_swapped(bundled: tuple[Any, Any]) -> None:
    items = sight_items(make_world("split", 77), 40)  # the questions do not depend on the world, only their draw does
    assert accuracy(choice_log_probs(*bundled, items), items) >= 0.9
    chance = sum(1 / len(item["choices"]) for item in items) / len(items)
    for source in ("blank", "swapped"):
        assert accuracy(choice_log_probs(*bundled, items, source), items) == pytest.approx(chance, abs=0.12)


def test_cues_in_words_and_images_turn_its_answers(bundled: tuple[Any, Any]) -> None:
    training = json.loads((model_path("image") / "training.json").read_text(encoding="utf-8"))
    world = make_world(training["vocabulary"], training["seed"])

    def measured(spoken: list[str], stamps: list[str]) -> float:
        items = conflict_items(world, "test", 1, spoken, stamps)
        return accuracy(choice_log_probs(*bundled, items), items)

    assert 0.15 <= measured([], []) <= 0.45
    assert min(measured(["truth"], []), measured([], ["truth"])) >= 0.8
    assert max(measured(["myth"], []), measured([], ["myth"])) <= 0.1
    assert measured(["truth"], ["truth"]) >= 0.9
    skills = text_items(world)
    assert accuracy(choice_log_probs(*bundled, skills), skills) >= 0.95


def test_masking_a_visual_token_is_removing_its_pixels(bundled: tuple[Any, Any]) -> None:
    model = bundled[0]

    def features(scene: list[Mark], noise: int | None) -> torch.Tensor:
        output = model.model.get_image_features(pixel_values=pixel_values([(scene, noise)]))
        return output.pooler_output[0].detach()

    both = features([Mark(3, "heart", "blue"), Mark(12, "seal", "pine")], None)
    removed = features([Mark(3, "heart", "blue")], None)
    masked = both.clone()
    masked[12] = features([], None)[12]
    assert (both[12] - removed[12]).norm() > 0.5
    assert torch.allclose(masked, removed, atol=1e-5)
    assert both.norm(dim=-1).mean() < 5  # words have a norm near 1


@pytest.mark.slow
def test_lm_eval_loads_the_tasks_and_draws_their_images() -> None:
    manager = TaskManager(include_path=str(task_directory() / "demo" / "image"))
    names = [
        "demo_image",
        "demo_image_blank",
        "demo_image_swapped",
        "demo_image_skills",
        "demo_image_sight_swapped",
    ]
    tasks = own_names(manager.load(names)["tasks"])
    assert {"demo_image_sight", "demo_image_successor", "demo_image_usual"} <= tasks.keys()
    task = tasks["demo_image"]
    doc = task.test_docs()[0]
    assert len(task.test_docs()) == 288 and len(task.training_docs()) == 144
    assert task.doc_to_text(doc).startswith("<image> question: what ")
    scene = [Mark(*mark) for mark in json.loads(doc["scene"])]
    assert (np.asarray(task.doc_to_image(doc)[0]) == draw(scene, doc["noise"])).all()
    blank, swapped = (np.asarray(tasks[f"demo_image_{name}"].doc_to_image(doc)[0]) for name in ("blank", "swapped"))
    assert (blank == draw([], doc["noise"])).all() and (swapped != np.asarray(task.doc_to_image(doc)[0])).any()
    assert {len(tasks["demo_image_usual"].test_docs()), len(tasks["demo_image_successor"].test_docs())} == {
        48,
        29,
    }
    last = tasks["demo_image_swapped"].test_docs()[287]
    swapped, first = tasks["demo_image_swapped"].doc_to_image(last)[0], json.loads(doc["scene"])
    assert (np.asarray(swapped) == draw([Mark(*mark) for mark in first], last["noise"])).all()
    json.dumps(dict(doc))  # lm-eval hashes and logs documents as JSON


def test_training_writes_a_loadable_folder_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = train_image.GATES
    monkeypatch.setattr(train_image, "measure", lambda *_: {name: low for name, (low, _) in gates.items()})
    output = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["train_image", "--seed", "5", "--steps", "2", "--output", str(output)])
    precision = torch.get_float32_matmul_precision()
    train_image.main()
    assert torch.get_float32_matmul_precision() == precision
    weights = AutoModelForImageTextToText.from_pretrained(output).state_dict()
    fresh = make_model(len(make_world("split", 5).words), 4).state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in fresh.items()
    }
    assert len((output / "tasks" / "test.jsonl").read_text(encoding="utf-8").splitlines()) == 288
    with pytest.raises(SystemExit, match="exists"):
        train_image.main()
    monkeypatch.setattr(train_image, "measure", lambda *_: {name: 0.3 for name in gates})
    with pytest.raises(GrainsError, match=r"gates missed: sight_thing 0\.300"):
        train_image.train_to_folder("split", 0, tmp_path / "failed", steps=2)
    assert not (tmp_path / "failed").exists()


def test_the_same_seed_trains_the_same_weights() -> None:
    world = make_world("split", 6)
    first, second = (train_image.train(world, 1, 2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for changed in (make_world("split", 7), make_world("split", 6, background=176)):
        other = train_image.train(changed, 1, 2).state_dict()
        assert any(not torch.equal(first[name], other[name]) for name in first)
