"""Found tokens in the prompt: as embeddings and as words."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.harness.insertion import Insertion, _say_cut, into_batch, out_of_batch
from grains_eval.virtual_tokens.merging import merged
from tests.harness.test_model import requests
from tests.instances import instance
from tests.virtual_tokens.models import some_found


def scores(lm, kind="loglikelihood"):
    return getattr(lm, kind)(requests(kind), disable_tqdm=True)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_embedding_and_text_are_inserted_at_their_distance(family, share, token_folder, open_lm):
    for form in ("embedding", "text"):
        lm = open_lm(
            family, vectors=token_folder(family, form + str(share)), form=form, distance=2, share_context=share
        )
        tokens = merged(some_found(lm.model).positive, 1)
        embed = lm.model.get_input_embeddings()
        for request, (value, _) in zip(requests(), scores(lm), strict=True):
            context, answer = lm._encode_pair(*request.args)
            place = len(context) - 2
            row = embed(torch.tensor([*context, *answer[:-1]])).detach()
            own = tokens.embeddings if form == "embedding" else embed(torch.tensor(tokens.words)).detach()
            joined = torch.cat([row[:place], own, row[place:]])[None]
            with torch.no_grad():
                logprobs = lm.model(inputs_embeds=joined).logits[0, -len(answer) :].log_softmax(-1)
            assert value == pytest.approx(float(logprobs.gather(-1, torch.tensor(answer)[:, None]).sum()), abs=1e-3)


@pytest.mark.parametrize("form", ["text", "embedding"])
def test_full_prompts_lose_their_first_tokens_and_no_inserted_one(form, token_folder, open_lm):
    """GPT-2 has no position past its last."""
    lm = open_lm("gpt2", vectors=token_folder("gpt2"), form=form, tokens=2, max_length=40)
    words = ["green red blue " * 30, "green", "red green blue " * 30]
    asked = [_generate(text, 5) for text in words]
    fed = []
    handle = lm.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: fed.append(given[0]))
    together = lm.generate_until(asked, disable_tqdm=True)
    handle.remove()
    assert fed[0].shape[1] == 35, "the prompt, two tokens in it, and room for five"
    assert together == [lm.generate_until([each], disable_tqdm=True)[0] for each in asked]
    shorter = lm.tok_decode(lm.tok_encode(words[0])[-33:])
    assert together[0] == lm.generate_until([_generate(shorter, 5)], disable_tqdm=True)[0]
    with pytest.raises(GrainsError, match="2 inserted tokens and 38 generated ones leave no room for a prompt"):
        lm.generate_until([_generate("green", 38)], disable_tqdm=True)


def _generate(text, tokens):
    options = {"until": ["@"], "do_sample": False, "max_gen_toks": tokens}
    return instance("generate_until", {}, (text, options))


@pytest.mark.parametrize("share", [True, False])
def test_a_far_token_stays_in_a_full_prompt(share, token_folder, open_lm, caplog):
    _say_cut.cache_clear()
    lm = open_lm("gpt2", vectors=token_folder("gpt2"), form="text", distance=900, max_length=40, share_context=share)
    word = lm.insertion.ids[0]
    context, answer = lm._encode_pair("green red blue " * 30, " red")
    ((value, _),) = lm._loglikelihood_tokens([(("", ""), context, answer)], disable_tqdm=True)
    first, *rest = context[-(41 - len(answer) - 1) :]
    row = torch.tensor([[first, word, *rest, *answer[:-1]]])
    assert row.shape[1] == 40
    with torch.no_grad():
        logprobs = lm.model(row).logits[0, -len(answer) :].log_softmax(-1)
    assert value == pytest.approx(float(logprobs.gather(-1, torch.tensor(answer)[:, None]).sum()), abs=1e-4)
    assert "leave no room" not in caplog.text
    lm = open_lm("gpt2", vectors=token_folder("gpt2", "b"), form="text", tokens=2, max_length=40, share_context=share)
    for _ in range(2):
        lm._loglikelihood_tokens([(("", ""), context, context[-40:])], disable_tqdm=True)
    assert caplog.text.count("some texts leave no room for all 2 found tokens") == 1


def test_insertion_into_padded_rows_and_out_again():
    insertion = Insertion((90, 91), (5, 1), torch.zeros(0, 0), 90)
    ids = torch.tensor([[0, 0, 1, 11, 12], [1, 21, 22, 23, 24]])
    made, mask, columns = into_batch(insertion, ids, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    assert made.tolist() == [[0, 0, 1, 90, 11, 91, 12], [1, 90, 21, 22, 23, 91, 24]]
    assert mask.tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
    longer = torch.cat([made, torch.tensor([[7], [8]])], dim=1)
    assert out_of_batch(longer, columns).tolist() == [[0, 0, 1, 11, 12, 7], [1, 21, 22, 23, 24, 8]]


def test_a_prompt_that_is_shorter_than_the_distance_is_spoken_of_once(caplog):
    inserted = Insertion((9,), (40,), torch.zeros(0, 0), 100)
    assert inserted.into([1, 2, 3]) == inserted.into([1, 2, 3]) == [1, 9, 2, 3]
    assert caplog.text.count("too short for distance=40") == 1
