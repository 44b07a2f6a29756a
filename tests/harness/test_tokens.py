"""Found tokens through `grains_hf`: every kind of request, every form, alone and with vectors."""

from __future__ import annotations

from math import log

import pytest
import torch

from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import parse_steering
from grains_eval.harness.sweep import evaluate_settings, score_configurations
from grains_eval.virtual_tokens import shown
from grains_eval.virtual_tokens.merging import resolve_tokens
from tests.harness.test_model import requests, vectors_for
from tests.virtual_tokens.models import some_found

FAMILIES = ["llama", "gemma3_text", "gpt2"]


def scores(lm, kind="loglikelihood"):
    return getattr(lm, kind)(requests(kind), disable_tqdm=True)


@torch.no_grad()
def by_hand(lm, tokens, context, answer):
    """Log-probability of an answer from one pass over the whole row under `shown`."""
    ids = torch.tensor([[*context, *answer[:-1]]])
    with shown(lm.model, [[tokens]]):
        logprobs = lm.model(ids).logits[0, -len(answer) :].log_softmax(-1)
    return float(logprobs.gather(-1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_loglikelihoods_with_and_without_shared_contexts(family, token_folder, open_lm):
    lm = open_lm(family, vectors=token_folder(family), strength=log(3))
    found = scores(lm)
    assert lm.get_model_info()["scoring_path"] == "shared_context"
    plain = scores(open_lm(family, vectors=token_folder(family, "again"), strength=log(3), share_context=False))
    tokens = lm.applied[0].resolved
    for request, (value, _), (other, _) in zip(requests(), found, plain, strict=True):
        context, answer = lm._encode_pair(*request.args)
        expected = by_hand(lm, tokens, context, answer)
        assert value == pytest.approx(expected, abs=1e-3) and other == pytest.approx(expected, abs=1e-3)
    assert [each[0] for each in found] != pytest.approx([each[0] for each in scores(open_lm(family))], abs=0.05)


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_minus_infinity_is_the_plain_model_to_the_bit(kind, token_folder, open_lm):
    off = open_lm(vectors=token_folder(), strength="-inf", share_context=False)
    assert off.steering_configuration == ()
    assert scores(off, kind) == scores(open_lm(share_context=False), kind)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["kv", "embedding", "text"])
def test_generation_is_the_same_alone_and_in_a_padded_batch(family, form, token_folder, open_lm):
    together = scores(open_lm(family, vectors=token_folder(family), form=form, batch_size=4), "generate_until")
    alone = scores(open_lm(family, vectors=token_folder(family, "again"), form=form, batch_size=1), "generate_until")
    assert together == alone
    assert together != scores(open_lm(family), "generate_until")


@pytest.mark.parametrize("form", ["kv", "embedding", "text"])
def test_rolling_texts_see_them_too(form, token_folder, open_lm):
    def sums(lm):  # lm_eval 0.5 has pairs here too
        found = scores(lm, "loglikelihood_rolling")
        return [each[0] if isinstance(each, tuple) else each for each in found]

    plain = sums(open_lm())
    assert sums(open_lm(vectors=token_folder(), form=form)) != pytest.approx(plain, abs=1e-2)


def test_they_compose_with_vectors_and_each_takes_its_own_settings(tmp_path, loaded_text, token_folder, open_lm):
    model = loaded_text("llama").model
    own = str(save_vectors(vectors_for(model), tmp_path / "v"))
    lm = open_lm(vectors=f"{own}+{token_folder()}", operator="add", tokens=2, strength="2.0+0.5")
    assert [type(each).__name__ for each in lm.steering_configuration] == ["ResolvedSteering", "ResolvedTokens"]
    assert lm.applied[1].resolved.bias == (0.5, 0.5)
    found = scores(lm)
    plainly = scores(
        open_lm(
            vectors=f"{own}+{token_folder(name='b')}", operator="add", tokens=2, strength="2.0+0.5", share_context=False
        )
    )
    assert [each[0] for each in found] == pytest.approx([each[0] for each in plainly], abs=1e-3)
    described = lm.get_model_info()["steering"][1]
    assert described["form"] == "kv" and described["tokens"] == 2 and described["layers"] == [0, 1, 2]


def test_several_settings_in_one_pass(token_folder, open_lm):
    lm, found = open_lm(), some_found(open_lm().model)
    own = token_folder()
    settings = [parse_steering(own, strength=value, tokens=count) for value, count in ((0, 1), (1.0, 2), (-1, 3))]
    configurations = [(), *(tuple(item.resolved for item in setting) for setting in settings)]
    together = score_configurations(lm, requests(), configurations, disable_tqdm=True)
    assert together[0] == scores(open_lm())
    assert len({round(each[0][0], 3) for each in together}) == 4
    context, answer = lm._encode_pair(*requests()[0].args)
    assert together[1][0][0] == pytest.approx(
        by_hand(lm, resolve_tokens(found, found.recommended), context, answer), abs=1e-3
    )
    with pytest.raises(GrainsError, match="stands in the prompt, which a sweep cannot switch"):
        evaluate_settings(lm, [parse_steering(token_folder(name="t"), form="text")], ["arc_easy"])


def test_a_run_says_form_number_and_distance(token_folder, open_lm):
    said = open_lm(vectors=token_folder()).describe_steering()[0]
    assert said["distances"] == [4] and said["every_layer"]
    said = open_lm(vectors=token_folder(name="b"), tokens=2, distance=9, layers=1).describe_steering()[0]
    assert said["distances"] == [9, 9] and not said["every_layer"]
