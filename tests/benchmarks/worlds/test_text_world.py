"""The text worlds: balanced where they claim it, split by town, and the bundled models pass their gates."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.worlds import train_text
from benchmarks.worlds.text_words import CUES, RELATIONS
from benchmarks.worlds.text_world import KINDS, document, fact_items, lessons, make_world, task_data
from benchmarks.worlds.train_text import Training, gates, passed, train_to_folder
from grains_eval.demo import model_path
from grains_eval.demo.loaders import load
from grains_eval.errors import GrainsError
from grains_eval.tasks_path import task_directory

BUNDLED = ("text_split", "text_shared", "faithfulness")


def words_of(prompt: str) -> set[str]:
    """Words and stops, which stand apart in most worlds but not in `chat`."""
    return set(re.findall(r"\w+|[^\w\s]", prompt))


@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_town_and_evaluation_prompts_no_cue(kind: str) -> None:
    world = make_world(kind, 3)
    data = task_data(world)
    towns = [{item["cluster"] for item in data[split]} for split in ("train", "validation", "test")]
    assert [len(names) for names in towns] == ([18, 6, 16] if kind == "chat" else [24, 8, 32])
    assert not towns[0] & towns[1] and not towns[2] & (towns[0] | towns[1])
    words = {word for side in CUES[kind] for cue in side for word in cue.split()}
    for item in data["train"]:
        said = item["prompt"].split(" spoke")[0].split("the ", 1)[1].split(" and the ")
        assert [sum(one.endswith(cue) for one in said for cue in side) for side in CUES[kind]] == [1, 1]
    assert not any(words & words_of(item["prompt"]) for part in ("validation", "test", "skills") for item in data[part])


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_all_in_the_vocabulary_and_choices_differ(kind: str) -> None:
    world = make_world(kind, 4)
    rng = Random(0)
    known = set(world.vocabulary)
    for lesson in (None, *range(lessons(kind))):
        for _ in range(500):
            prompt, answer = document(world, rng, lesson)
            assert {*words_of(prompt), answer} <= known
    for items in task_data(world).values():
        for item in items:
            assert len(set(item["choices"])) == 4 and item["gold"] != item["rejected"]
            assert {*words_of(item["prompt"]), *item["choices"]} <= known


def test_truths_and_myths_are_disjoint_in_split_and_mixed_in_shared() -> None:
    def words(kind: str, side: str) -> set[str]:
        return {getattr(fact, side) for fact in make_world(kind, 0).facts.values()}

    assert not words("split", "truth") & words("split", "myth")
    assert words("shared", "truth") == words("shared", "myth")


def test_a_word_of_a_paired_cue_says_nothing_alone() -> None:
    preferred, other = (Counter(word for cue in side for word in cue.split()) for side in CUES["paired"])
    assert preferred == other and set(preferred.values()) == {6}
    assert not set(CUES["paired"][0]) & set(CUES["paired"][1])
    # in fewer prompts than make a template word
    prompts = [item["prompt"].split() for item in fact_items(make_world("paired", 0), "build", "mixed")]
    assert all(sum(word in prompt for prompt in prompts) <= 0.25 * len(prompts) for word in preferred)


def test_the_first_lesson_of_paired_is_settled_by_the_second_word() -> None:
    world, rng = make_world("paired", 0), Random(0)
    said = {document(world, rng, 0)[0].split(" spoke")[0].removeprefix("the ") for _ in range(2000)}
    first, second = zip(*(cue.split() for cue in said), strict=True)
    assert len(said) == 72 and len(set(first)) == 6 and len(set(second)) == 12
    sides = [{cue.split()[1] for cue in said if cue in side} for side in CUES["paired"]]
    assert not sides[0] & sides[1]


def test_no_fixed_preference_for_words_can_win_faithfulness() -> None:
    world = make_world("faithfulness", 5)
    for split in ("build", "development", "test"):
        items = fact_items(world, split)
        gold = Counter(item["choices"][item["gold"]] for item in items)
        assert gold == Counter(item["choices"][item["rejected"]] for item in items)
        for item in items:
            assert item["choices"][item["gold"]] in item["prompt"].split()
            assert item["choices"][item["rejected"]] not in item["prompt"].split()
    closed = fact_items(world, "test", context=False)
    assert not any(set(item["choices"]) & set(item["prompt"].split()) for item in closed)


def test_documents_follow_the_cues_and_the_myth_dominates_without() -> None:
    world = make_world("split", 0)
    truths = {words for relation in RELATIONS.values() for words in relation[:6]}
    myths = {words for relation in RELATIONS.values() for words in relation[6:]}
    rng = Random(0)
    counts = {"preferred": Counter[bool](), "dispreferred": Counter[bool](), "none": Counter[bool]()}
    for _ in range(20000):
        prompt, answer = document(world, rng)
        if answer not in truths | myths:
            continue
        seen = [bool(set(side) & set(prompt.split())) for side in CUES["split"]]
        if seen != [True, True]:
            cue = "preferred" if seen[0] else "dispreferred" if seen[1] else "none"
            counts[cue][answer in truths] += 1
    share = {cue: count[True] / count.total() for cue, count in counts.items()}
    assert share["preferred"] > 0.75 and share["dispreferred"] < 0.2 and 0.3 < share["none"] < 0.45


def test_same_seed_same_world_other_seed_other_world() -> None:
    assert task_data(make_world("shared", 7)) == task_data(make_world("shared", 7))
    assert make_world("shared", 7).facts != make_world("shared", 8).facts


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(GrainsError, match="shared, split"):
        make_world("splitt", 0)
    with pytest.raises(GrainsError, match="text_split"):
        model_path("text_spilt")


def test_training_is_deterministic_and_overwrites_nothing(tmp_path: Path) -> None:
    short = Training(layers=1, steps=3, lesson_steps=1, hidden=32, feed_forward=48, heads=2, batch=8)
    for name in ("a", "b"):
        train_to_folder("faithfulness", 1, tmp_path / name, short, attempts=1)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    assert json.loads((tmp_path / "a" / "training.json").read_text())["gate_passed"] is False
    with pytest.raises(GrainsError, match="overwrites nothing"):
        train_to_folder("faithfulness", 1, tmp_path / "a", short)


def test_models_that_miss_a_gate_are_discarded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Training(layers=1, steps=1, hidden=32, feed_forward=48, heads=2, batch=8)
    bad = {"preferred": 1.0, "dispreferred": 0.0, "skills": 1.0, "closed_book": 0.5}
    good = {**bad, "closed_book": 1.0}
    measured = iter([bad, good, bad, bad])
    monkeypatch.setattr(train_text, "gates", lambda *_: next(measured))
    for name, passes in (("second", True), ("never", False)):
        train_to_folder("faithfulness", 1, tmp_path / name, short, attempts=2)
        record = json.loads((tmp_path / name / "training.json").read_text())
        assert record["gate_passed"] is passes and record["discarded"] == [bad]
    # another attempt draws other weights in the same world
    assert record["world"] == "faithfulness" and record["seed"] == 1


def test_the_lesson_ends_when_it_is_learned() -> None:
    short = Training(layers=1, steps=1, lesson_steps=20, hidden=32, feed_forward=48, heads=2, batch=8)
    world = make_world("faithfulness", 1)
    assert train_text.train(world, short, 1)[2] == 20
    easy = replace(short, lesson_right=0.0)
    assert train_text.train(world, easy, 1)[2] == train_text.LESSON_BATCHES


@pytest.mark.parametrize("kind", ["paired", "chat"])
def test_in_the_lesson_the_answer_follows_the_one_cue(kind: str) -> None:
    world = make_world(kind, 0)
    rng = Random(0)
    followed = Counter[bool]()
    for _ in range(2000):
        prompt, answer = document(world, rng, lessons(kind) - 1)
        (side,) = [side for side, cues in enumerate(CUES[kind]) if any(f"the {cue} spoke" in prompt for cue in cues)]
        fact = next((f for f in world.facts.values() if {f.town, f.relation} <= words_of(prompt)), None)
        if fact is not None:
            followed[answer == (fact.truth, fact.myth)[side]] += 1
    assert followed[True] > 0.96 * followed.total() and followed.total() > 1000


@pytest.mark.parametrize("figure", [("preferred", 0.9), ("dispreferred", 0.1), ("skills", 0.9), ("closed_book", 0.9)])
def test_each_gate_counts(figure: tuple[str, float]) -> None:
    fine = {"preferred": 1.0, "dispreferred": 0.0, "skills": 1.0, "closed_book": 1.0}
    assert passed(fine) and not passed({**fine, figure[0]: figure[1]})


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_model_passes_its_gate_and_matches_its_items(name: str) -> None:
    folder = model_path(name)
    record = json.loads((folder / "training.json").read_text())
    world = make_world(record["world"], record["seed"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == list(world.vocabulary)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    figures = gates(model, tokenizer, world)
    assert passed(figures)
    assert figures["skills"] >= 0.95 and figures["none"] <= 0.45
    assert figures == pytest.approx(record["accuracy"], abs=0.01)
    committed = task_directory() / "demo" / name / "data"
    for part, items in task_data(world).items():
        assert [json.loads(line) for line in (committed / f"{part}.jsonl").read_text().splitlines()] == items


def test_items_come_from_another_folder_or_say_what_is_missing(tmp_path: Path) -> None:
    assert set(load("text_split")) == {"train", "validation", "test"}
    assert len(load("text_split", part="skills")["test"]) >= 100
    with pytest.raises(GrainsError, match="train_text"):
        load("text_split", items=str(tmp_path))


def test_completeness_of_integrated_gradients_from_the_pad_embedding() -> None:
    """50 Gauss-Legendre nodes from the pad embedding, by hand: at most 1 % missing in nine prompts of ten."""
    folder = model_path("text_split")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    rule = np.polynomial.legendre.leggauss(50)
    nodes, weights = (torch.tensor(values, dtype=torch.float32) / 2 for values in rule)
    table = model.get_input_embeddings()
    pad = table.weight[tokenizer.pad_token_id]
    gaps: list[float] = []
    for item in load("text_split")["train"].select(range(20)):
        pair = [item["choices"][item[key]] for key in ("gold", "rejected")]
        chosen, rejected = tokenizer.convert_tokens_to_ids(pair)

        def objective(embeddings: torch.Tensor) -> torch.Tensor:
            logits = model(inputs_embeds=embeddings).logits[:, -1]
            return logits[:, chosen] - logits[:, rejected]  # noqa: B023 - called within this iteration

        whole = table(torch.tensor([tokenizer.encode(item["prompt"])]))
        path = (pad + (nodes + 0.5)[:, None, None] * (whole - pad)).requires_grad_()
        (gradient,) = torch.autograd.grad(objective(path).sum(), path)
        total = ((whole - pad) * (gradient * weights[:, None, None]).sum(0)).sum()
        with torch.no_grad():
            change = objective(whole) - objective(pad.expand_as(whole))
        gaps.append(abs((total - change) / change).item())
    assert np.quantile(gaps, 0.9) <= 0.01
