"""Several settings of virtual tokens and vectors in one pass over shared contexts, against one plain pass each."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from grains_eval.harness.prefix_sharing.loglikelihood import score, shared_scores
from grains_eval.harness.prefix_sharing.proof import shareable
from grains_eval.steering import applied
from tests.harness.prefix_sharing.test_loglikelihood import LIMIT, requests, steering
from tests.virtual_tokens.models import made, some_tokens


def settings(model):
    """Plain, tokens of all blocks and of one, several at once, with vectors, at another strength."""
    two = some_tokens(model)
    return [
        (),
        (two,),
        (some_tokens(model, 1, 0.7, seed=4),),
        (some_tokens(model, 1, 0.0, seed=5, layers=(1,)),),
        (steering(model, [1], 3.0), two),
        (two, some_tokens(model, 1, -1.0, seed=6)),
        (steering(model, [0], 2.0),),
    ]


@torch.no_grad()
def plainly(model, context, answer, setting):
    """One pass over the whole row."""
    row = [*context, *answer][-(LIMIT + 1) :]
    with ExitStack() as stack:
        for each in setting:
            stack.enter_context(applied(model, each))
        logprobs = model(torch.tensor([row[:-1]])).logits[0, -len(answer) :].log_softmax(-1)
    return float(logprobs.gather(-1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("path", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3", "gpt2", "opt"])
def test_shared_contexts_give_the_plain_scores(name, path):
    model, asked = made(name, path), requests()
    found = score(model, asked, settings(model), max_length=LIMIT)
    for scores, setting in zip(found, settings(model), strict=True):
        for (context, answer), (value, _) in zip(asked, scores, strict=True):
            assert value == pytest.approx(plainly(model, context, answer, setting), abs=2e-3)
    assert len({round(scores[0][0], 3) for scores in found}) == len(found)


def test_the_proof_of_a_pass_holds_with_virtual_tokens():
    model = made("llama", "sdpa")
    assert shared_scores(model, requests(), settings(model), max_length=LIMIT) is not None
    assert shareable(model)
