"""Shared-context scoring against one plain hooked forward pass per request, on every family."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from grains_eval.errors import GrainsError
from grains_eval.harness import scorer
from grains_eval.harness.shared_context import score
from grains_eval.models.blocks import find_attention_outputs, find_blocks
from grains_eval.steering import OPERATORS, ResolvedSteering, applied
from tests.tiny import VOCABULARY

FAMILIES = [
    "llama",
    "qwen2",
    "qwen3_moe",
    "mistral",
    "mixtral",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "opt",
]
LIMIT = 40  # tokens; longer requests are truncated


def requests(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Several choices a context, single tokens, a lone continuation, one-token and truncated contexts, repeats."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    shared = tokens(20)
    contexts = [
        tokens(9),
        tokens(13),
        shared + tokens(3),
        shared + tokens(7),
        shared + tokens(4),
        tokens(1),
        tokens(60),
    ]
    made = [(context, tokens(draw.randrange(1, 6))) for context in contexts for _ in range(4)]
    made += [(tokens(12), tokens(5)), (tokens(11), tokens(1)), (tokens(2), tokens(LIMIT))]
    made.append(made[0])
    draw.shuffle(made)
    return made


def steering(model, layers, strength, *, positions="all", operator="add_renormalised", site="block_output"):
    modules = find_attention_outputs(model) if site == "attention_heads" else None
    width = modules[0].weight.shape[0] if modules else model.config.get_text_config(decoder=True).hidden_size
    deltas = {}
    for layer in layers:
        direction = torch.randn(width, generator=torch.Generator().manual_seed(layer))
        deltas[layer] = strength * direction / direction.norm()
    return ResolvedSteering(deltas, site, OPERATORS[operator], positions)


def configurations(model):
    """Baseline, first, middle and last block, several blocks, every position rule, heads, two operators, two at once."""
    last = len(find_blocks(model)) - 1
    return [
        (),
        (steering(model, [0], 4.0),),
        (steering(model, [last], 3.0),),
        (steering(model, [last], -3.0),),
        (steering(model, [1, last], 3.0),),
        (steering(model, [1], 3.0, positions="prompt"),),
        (steering(model, [1], 3.0, positions="last"),),
        (steering(model, [1], 3.0, positions="generated"),),
        (steering(model, [1], 2.0, operator="add"),),
        (steering(model, [0, last], 1.0, site="attention_heads"),),
        (steering(model, [last], 1.0, site="attention_heads"), steering(model, [1], 2.0, operator="add")),
        (steering(model, [1], 2.0, operator="add"), steering(model, [1], 2.0)),
    ]


def plainly(model, asked, configuration, limit=LIMIT, dtype=None):
    """What `hf` with hooks gives: one request after another, nothing shared."""
    found = []
    for context, continuation in asked:
        row = (context + continuation)[-(limit + 1) :][:-1]
        ids = torch.tensor([row], device=model.device)
        end = torch.tensor([len(row) - len(continuation) + 1])
        with torch.no_grad(), ExitStack() as stack:
            for each in configuration:
                stack.enter_context(applied(model, each, end))
            logits = model(ids).logits[0, -len(continuation) :]
        logprobs = logits.log_softmax(-1, dtype=dtype)
        tokens = torch.tensor(continuation, device=logits.device)
        total = logprobs.gather(-1, tokens[:, None]).double().sum()  # the sum of 40 float32 terms is coarser
        found.append((float(total), bool((logprobs.argmax(-1) == tokens).all())))
    return found


def greedy_choice(model, asked):
    """The same requests with some continuations replaced by what the model would say, so that hits occur."""
    changed = []
    for index, (context, continuation) in enumerate(asked):
        if index % 4 == 0 and len(context) + len(continuation) < LIMIT:
            row = list(context)
            with torch.no_grad():
                for _ in continuation:
                    row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
            continuation = row[len(context) :]
        changed.append((context, continuation))
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_plain_hooks(family, loaded_text):
    model = loaded_text(family).model
    asked = greedy_choice(model, requests())
    wanted = configurations(model)
    found = score(model, asked, wanted, max_length=LIMIT)
    moved = 0.0
    for configuration, scores in zip(wanted, found, strict=True):
        expected = plainly(model, asked, configuration)
        assert max(abs(a[0] - b[0]) for a, b in zip(scores, expected, strict=True)) < 1e-5
        assert [a[1] for a in scores] == [b[1] for b in expected]
        moved = max(moved, max(abs(a[0] - b[0]) for a, b in zip(scores, found[0], strict=True)))
    assert moved > 0.1 and any(hit for _, hit in found[0])
