"""The tokenizers of the text worlds: in `chat` nothing that matters is one token, and lm-eval's template renders it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks.demo_seeds import open_trial
from benchmarks.found_token_rows import WORLDS, open_world
from benchmarks.worlds import train_text
from benchmarks.worlds.text_words import CUES, RELATIONS
from benchmarks.worlds.text_world import KINDS, document, fact_items, make_world
from benchmarks.worlds.tokenizers import (
    encode_answers,
    encode_documents,
    encode_prompts,
    is_chat,
    make_tokenizer,
)
from benchmarks.worlds.train_text import Training, batch, train_to_folder
from grains_eval.examples import load_examples
from grains_eval.models import encode

SHORT = Training(layers=1, steps=2, hidden=32, feed_forward=48, heads=2, batch=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "chat_1"
    train_to_folder("chat", 1, folder, SHORT, attempts=1)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 402])
def test_every_town_cue_and_answer_of_a_chat_is_several_tokens(seed: int) -> None:
    world = make_world("chat", seed)
    tokenizer = make_tokenizer(world)
    answers = [word for words in RELATIONS.values() for word in words]
    within = [f" {word}" for words in (*world.towns.values(), *CUES["chat"]) for word in words]
    assert min(len(ids) for ids in encode_answers(tokenizer, [*answers, *within])) >= 2
    assert tokenizer.decode(encode_answers(tokenizer, ["sandstone"])[0]) == "sandstone"


def test_a_chat_is_cut_where_its_template_says() -> None:
    world = make_world("chat", 2)
    tokenizer = make_tokenizer(world)
    rng = Random(0)
    documents = [document(world, rng) for _ in range(50)]
    for (prompt, answer), (ids, place) in zip(documents, encode_documents(tokenizer, documents), strict=True):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        assert tokenizer.decode(ids) == f"<s><|user|>{prompt}<|end|><|assistant|>{answer}<|end|>"
        assert ids == tokenizer(tokenizer.apply_chat_template(turns, tokenize=False))["input_ids"]
        assert tokenizer.decode([ids[i] for i in place]) == answer
    asked = tokenizer.apply_chat_template([{"role": "system", "content": "be brief"}, *turns[:1]], tokenize=False)
    assert asked == f"<s><|system|>be brief<|end|><|user|>{prompt}<|end|>"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"chat"}))
def test_other_documents_are_a_text_that_ends_with_the_answer(kind: str) -> None:
    world = make_world(kind, 2)
    tokenizer = make_tokenizer(world)
    assert not is_chat(tokenizer)
    prompt, answer = document(world, Random(1))
    ((ids, place),) = encode_documents(tokenizer, [(prompt, answer)])
    assert tokenizer.decode(ids) == f"<s> {prompt} {answer} . </s>"
    assert tokenizer.decode([ids[i] for i in place]) == answer


@pytest.mark.parametrize("kind", ["chat", "paired"])
def test_the_answer_alone_weighs_one(kind: str) -> None:
    world = make_world(kind, 1)
    tokenizer = make_tokenizer(world)
    rows, answers = batch(world, tokenizer, Random(0), 16)
    assert (answers.sum(1) >= (2 if kind == "chat" else 1)).any() and not answers[:, 0].any()
    model = train_text.make_model(tokenizer, SHORT, 0)
    losses = [train_text.document_loss(model, rows, answers, weight)[0].item() for weight in (0.0, 1.0)]
    logits = model(input_ids=rows).logits[:, :-1].log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]
    said, real = answers[:, 1:], rows[:, 1:] != tokenizer.pad_token_id
    assert losses == pytest.approx([-logits[said].sum().item(), -logits[real].sum().item()], rel=1e-4)


def test_the_build_reads_what_the_chat_template_renders(trained: Path, tmp_path: Path) -> None:
    one = open_trial("chat", 1, trained, trained / "tasks")
    assert one.recipe.data.chat_template
    examples = load_examples(one.recipe.data, one.loaded).build
    items = {item["prompt"]: item for item in fact_items(make_world("chat", 1), "build", "mixed")}
    for example in examples[:5]:
        encoded = encode(one.loaded, example)
        (message,) = example.prompt
        item = items[message.content]
        assert encoded.input_ids.tolist() == encode_prompts(one.loaded.tokenizer, [message.content])[0]
        for ids, index in ((encoded.chosen, item["gold"]), (encoded.rejected, item["rejected"])):
            assert ids.tolist() == encode_answers(one.loaded.tokenizer, [item["choices"][index]])[0]
        allowed = [token for token, fine in zip(encoded.tokens, encoded.is_candidate, strict=True) if fine]
        assert one.loaded.tokenizer.convert_tokens_to_string(allowed) == message.content
    measured = open_world("chat", 1, trained, trained / "tasks", tmp_path)
    assert WORLDS["chat"].build_cues == "mixed" and measured.one.recipe.data.chat_template
    assert len(measured.right(measured.one.test)) == 48


def test_the_saved_tokenizer_is_the_one_trained_with(trained: Path) -> None:
    from transformers import AutoTokenizer

    own, saved = make_tokenizer(make_world("chat", 1)), AutoTokenizer.from_pretrained(trained)
    prompts = [item["prompt"] for item in fact_items(make_world("chat", 1), "test", "preferred")]
    assert encode_prompts(saved, prompts) == encode_prompts(own, prompts)
    assert torch.equal(
        batch(make_world("chat", 1), saved, Random(3), 4)[0],
        batch(make_world("chat", 1), own, Random(3), 4)[0],
    )
