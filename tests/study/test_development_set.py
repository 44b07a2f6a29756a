"""Development items are scored as evaluations score them, images included, for any number of settings at once."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from grains_eval.demo.run import demo_model_args
from grains_eval.harness.prefix_sharing.image_loglikelihood import SharedImagesMixin
from grains_eval.models import LoadedModel
from grains_eval.recipes import load_recipe
from grains_eval.steering import ResolvedSteering, add, applied
from grains_eval.study.development_set import (
    ChoiceItem,
    chosen_lengths,
    development_set,
    preference_logprobs,
    preserved_accuracy,
)
from grains_eval.study.session import load_plain
from grains_eval.tasks_path import task_directory
from grains_eval.types import Message, PreferenceExample
from tests.harness.test_images import one_at_a_time
from tests.instances import instance
from tests.tiny import picture

# LLaVA hands its decoder embeddings alone; the others hand it keywords too
FAMILIES = ["llava", "gemma3", "qwen2_5_vl"]
EXAMPLES = (
    PreferenceExample("pictures:0", "h0", "<image>\nWhat is the picture?", " red square", " no", (picture(0),)),
    PreferenceExample("pictures:1", "h1", "What is <image>", " paris", " the capital", (picture(1, (50, 90)),)),
)
READ = PreferenceExample("words:0", "h2", "What is the capital of france", " paris is", " rome")


@pytest.fixture(scope="module")
def seeing(tiny_vision):
    made = {}

    def get(family):
        if family not in made:
            arguments = {"pretrained": str(tiny_vision(family)), "dtype": "float32", "device": "cpu", "batch_size": 2}
            made[family] = LoadedModel.of(load_plain(arguments))
        return made[family]

    return get


def configurations():
    generator = torch.Generator().manual_seed(3)
    push = ResolvedSteering({1: torch.randn(32, generator=generator)}, "block_output", add, "all")
    return [(), (push,), (push, push)]


def by_hand(loaded, example, response, configuration):
    with ExitStack() as stack:
        for each in configuration:
            stack.enter_context(applied(loaded.model, each))
        if hasattr(loaded.model.model, "rope_deltas"):
            loaded.model.model.rope_deltas = None
        if example.images:
            asked = instance("loglikelihood", {}, (example.prompt, response, {"visual": list(example.images)}))
            return one_at_a_time(loaded.lm, asked)[0]
        start, ids = (loaded.lm.tok_encode(text) for text in (example.prompt, example.prompt + response))
        logprobs = loaded.model(torch.tensor([ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
        return float(logprobs.gather(-1, torch.tensor(ids[len(start) :])[:, None]).sum())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [True, False])
def test_development_items_are_scored_with_their_images(family, shared, seeing, monkeypatch):
    loaded, examples, settings = seeing(family), (*EXAMPLES, READ), configurations()
    monkeypatch.setattr(loaded.lm, "share_context", shared)
    found = preference_logprobs(loaded, examples, settings)
    expected = torch.tensor(
        [[[by_hand(loaded, one, r, each) for r in (one.chosen, one.rejected)] for one in examples] for each in settings]
    )
    assert torch.allclose(found, expected, atol=2e-5)
    assert (found[1:] - found[0]).abs().min() > 1e-3, "every setting moves every answer"
    others = [replace(one, images=(picture(9, one.images[0].size),)) if one.images else one for one in examples]
    moved = (preference_logprobs(loaded, others, settings) - found).abs()
    assert moved[:, :2].min() > 1e-3, "another image, another score"
    assert moved[:, 2].max() < 1e-5


def test_all_settings_of_an_image_are_scored_in_one_pass(seeing, monkeypatch):
    loaded, passes = seeing("llava"), []
    remember = SharedImagesMixin._remember

    def counted(self, asked, memo, disable_tqdm):
        passes.append(sum(each.key not in memo.scores for each in asked))
        remember(self, asked, memo, disable_tqdm)

    monkeypatch.setattr(SharedImagesMixin, "_remember", counted)
    preference_logprobs(loaded, EXAMPLES, configurations())
    assert passes == [4, 0, 0]


def test_chat_messages_with_images_are_rendered_as_for_the_build(seeing):
    loaded = seeing("llava")
    chat = replace(EXAMPLES[0], prompt=(Message("user", "What is the picture?"),))
    written = "<|user|>\n<image>What is the picture?</s>\n<|assistant|>\n"
    found = preference_logprobs(loaded, [chat], [()])
    assert torch.equal(found, preference_logprobs(loaded, [replace(chat, prompt=written)], [()]))
    assert not loaded.lm.chat_applied


def test_tokens_of_the_preferred_answer_are_counted(seeing):
    assert chosen_lengths(seeing("llava"), (*EXAMPLES, READ)).tolist() == [2, 1, 2]


def item(shown, gold):
    asked = [
        instance("loglikelihood", {}, ("<image>\nWhat is the picture?", answer, {"visual": [shown]}), index)
        for index, answer in enumerate((" red square", " no", " paris is the capital"))
    ]
    return ChoiceItem("h", tuple(asked), frozenset(gold))


@pytest.mark.parametrize("family", ["llava"])
def test_preserved_items_with_images_are_watched(family, seeing):
    loaded = seeing(family)
    shown = [picture(seed) for seed in range(6)]
    best = []
    for one in shown:
        scores = [one_at_a_time(loaded.lm, request)[0] for request in item(one, ()).requests]
        best.append(scores.index(max(scores)))
    items = [
        item(one, {right if index else (right + 1) % 3})
        for index, (one, right) in enumerate(zip(shown, best, strict=True))
    ]
    plain, _, pushed = preserved_accuracy(loaded, items, configurations())
    assert plain == pytest.approx(5 / 6)
    assert 0 <= pushed <= 1


def test_image_tasks_of_a_group_are_drawn_and_what_cannot_be_watched_is_said(caplog):
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml", ["data.development=12"])
    seen = development_set(LoadedModel.of(load_plain(demo_model_args("image"))), (), recipe)
    tasks = {request.task_name: len(request.args) for one in seen.preserved for request in one.requests}
    assert tasks == {"demo_image_sight": 3, "demo_image_successor": 2, "demo_image_usual": 2}
    assert not seen.notes
    blind = LoadedModel.of(load_plain(demo_model_args("text_split")))
    read = development_set(blind, (), recipe)
    assert {request.task_name for one in read.preserved for request in one.requests} == set(tasks) - {
        "demo_image_sight"
    }
    (note,) = read.notes
    assert "'demo_image_sight' is not watched while choosing: it shows images" in note
    assert note in caplog.text


def test_a_group_whose_data_cannot_be_had_stops_no_build(tmp_path):
    task = {
        "task": "lost",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": ["a", "b"],
        "doc_to_target": 0,
    }
    (tmp_path / "lost.yaml").write_text(json.dumps(task))  # JSON is YAML
    (tmp_path / "group.yaml").write_text(json.dumps({"group": "lost_group", "task": ["lost"]}))
    overrides = ["data.development=2", "evaluation.preserve=[lost_group]"]
    recipe = load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml", overrides)
    found = development_set(LoadedModel.of(load_plain(demo_model_args("text_split"))), (), recipe, [str(tmp_path)])
    assert not found.preserved
    (note,) = found.notes
    assert note.startswith("'lost_group' is not watched while choosing: ")
