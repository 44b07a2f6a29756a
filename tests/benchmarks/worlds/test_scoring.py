"""Choices are scored by all their tokens, alone or in copies, as token by token by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks.worlds import scoring
from benchmarks.worlds.scoring import right
from benchmarks.worlds.text_world import fact_items, make_world, skill_items
from benchmarks.worlds.tokenizers import encode_answers, encode_prompts, make_tokenizer
from benchmarks.worlds.train_text import Training, make_model


@pytest.mark.parametrize("kind", ["chat", "shared"])
def test_the_likeliest_choice_is_that_of_the_summed_log_probabilities(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(kind, 1)
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, Training(layers=2, hidden=32, feed_forward=48, heads=2), 0).eval()
    items = fact_items(world, "development", "preferred") + skill_items(world, 3)
    expected: list[float] = []
    with torch.no_grad():
        for item in items:
            prompt = encode_prompts(tokenizer, [item["prompt"]])[0]
            sums: list[float] = []
            for ids in encode_answers(tokenizer, item["choices"]):
                logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
                sums.append(sum(logits[len(prompt) + i - 1, token].item() for i, token in enumerate(ids)))
            expected.append(float(max(range(4), key=sums.__getitem__) == item["gold"]))
    assert 0 < sum(expected) < len(items)
    assert right(model, tokenizer, items).tolist() == [expected]
    monkeypatch.setattr(scoring, "_ROWS", 7)
    assert right(model, tokenizer, items, 3).tolist() == [expected] * 3
