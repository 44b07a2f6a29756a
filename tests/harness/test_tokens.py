"""Found tokens through `grains_hf`: every kind of request, every form, alone and with vectors."""

from __future__ import annotations

from math import log

import pytest
import torch

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.save import save_artifact, save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import parse_steering
from grains_eval.harness.insertion import Insertion, into_batch, out_of_batch
from grains_eval.harness.model import GrainsHF
from grains_eval.harness.sweep import evaluate_settings, score_configurations
from grains_eval.virtual_tokens import shown
from grains_eval.virtual_tokens.merging import merged, resolve_tokens
from tests.harness.test_model import requests, vectors_for
from tests.virtual_tokens.models import some_found

FAMILIES = ["llama", "gemma3_text", "gpt2"]


@pytest.fixture
def folder(tmp_path, loaded_text):
    def make(family="llama", name="tokens"):
        contents = ArtifactContents(tokens=some_found(loaded_text(family).model))
        return str(save_artifact(contents, tmp_path / f"{family}-{name}"))

    return make


@pytest.fixture
def open_lm(tiny_text):
    def make(family="llama", **arguments):
        given = {"pretrained": str(tiny_text(family)), "dtype": "float32", "device": "cpu", "batch_size": 3}
        return GrainsHF(**{**given, **arguments})

    return make


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
def test_loglikelihoods_with_and_without_shared_contexts(family, folder, open_lm):
    lm = open_lm(family, vectors=folder(family), strength=log(3))
    found = scores(lm)
    assert lm.get_model_info()["scoring_path"] == "shared_context"
    plain = scores(open_lm(family, vectors=folder(family, "again"), strength=log(3), share_context=False))
    tokens = lm.applied[0].resolved
    for request, (value, _), (other, _) in zip(requests(), found, plain, strict=True):
        context, answer = lm._encode_pair(*request.args)
        expected = by_hand(lm, tokens, context, answer)
        assert value == pytest.approx(expected, abs=1e-3) and other == pytest.approx(expected, abs=1e-3)
    assert [each[0] for each in found] != pytest.approx([each[0] for each in scores(open_lm(family))], abs=0.05)


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_minus_infinity_is_the_plain_model_to_the_bit(kind, folder, open_lm):
    off = open_lm(vectors=folder(), strength="-inf", share_context=False)
    assert off.steering_configuration == ()
    assert scores(off, kind) == scores(open_lm(share_context=False), kind)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["kv", "embedding", "text"])
def test_generation_is_the_same_alone_and_in_a_padded_batch(family, form, folder, open_lm):
    together = scores(open_lm(family, vectors=folder(family), form=form, batch_size=4), "generate_until")
    alone = scores(open_lm(family, vectors=folder(family, "again"), form=form, batch_size=1), "generate_until")
    assert together == alone
    assert together != scores(open_lm(family), "generate_until")


@pytest.mark.parametrize("form", ["kv", "embedding", "text"])
def test_rolling_texts_see_them_too(form, folder, open_lm):
    def sums(lm):  # lm_eval 0.5 has pairs here too
        found = scores(lm, "loglikelihood_rolling")
        return [each[0] if isinstance(each, tuple) else each for each in found]

    plain = sums(open_lm())
    assert sums(open_lm(vectors=folder(), form=form)) != pytest.approx(plain, abs=1e-2)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_embedding_and_text_are_inserted_at_their_distance(family, share, folder, open_lm):
    for form in ("embedding", "text"):
        lm = open_lm(family, vectors=folder(family, form + str(share)), form=form, distance=2, share_context=share)
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


def test_they_compose_with_vectors_and_each_takes_its_own_settings(tmp_path, loaded_text, folder, open_lm):
    model = loaded_text("llama").model
    own = str(save_vectors(vectors_for(model), tmp_path / "v"))
    lm = open_lm(vectors=f"{own}+{folder()}", operator="add", tokens=2, strength="2.0+0.5")
    assert [type(each).__name__ for each in lm.steering_configuration] == ["ResolvedSteering", "ResolvedTokens"]
    assert lm.applied[1].resolved.bias == (0.5, 0.5)
    found = scores(lm)
    plainly = scores(
        open_lm(vectors=f"{own}+{folder(name='b')}", operator="add", tokens=2, strength="2.0+0.5", share_context=False)
    )
    assert [each[0] for each in found] == pytest.approx([each[0] for each in plainly], abs=1e-3)
    described = lm.get_model_info()["steering"][1]
    assert described["form"] == "kv" and described["tokens"] == 2 and described["layers"] == [0, 1, 2]


def test_several_settings_in_one_pass(folder, open_lm):
    lm, found = open_lm(), some_found(open_lm().model)
    own = folder()
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
        evaluate_settings(lm, [parse_steering(folder(name="t"), form="text")], ["arc_easy"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"unit": "absolute"}, "holds found tokens; 'unit' does not apply"),
        ({"strength": "strong"}, "strength=strong is not a number"),
        ({"tokens": 1.5}, "tokens=1.5 is not a whole number"),
        ({"tokens": "two"}, "tokens=two is not a whole number"),
        ({"tokens": 9}, "tokens=9, but 4 tokens were found"),
        ({"form": "words"}, "unknown form 'words'"),
        ({"form": "text", "strength": 1.0}, "where strength has no meaning"),
        ({"layers": "0/7"}, "block 7 is not among those of the found tokens"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(given, why, folder):
    with pytest.raises(GrainsError, match=why) as caught:
        parse_steering(folder(), **given)
    assert "\n" not in str(caught.value)


def test_vectors_have_no_form(tmp_path, loaded_text):
    own = str(save_vectors(vectors_for(loaded_text("llama").model), tmp_path / "v"))
    with pytest.raises(GrainsError, match="holds steering vectors; 'form' does not apply"):
        parse_steering(own, form="text")


def test_models_that_do_not_fit_are_refused(folder, open_lm):
    with pytest.raises(GrainsError, match="they were read from another model"):
        open_lm("gpt2", vectors=folder("llama"))
    with pytest.raises(GrainsError, match="shows no virtual tokens"):
        open_lm("mamba", vectors=folder("llama", "b"))
    with pytest.raises(GrainsError, match="learned positions"):
        open_lm("gpt2", vectors=folder("gpt2"), distance=3)


def test_insertion_into_padded_rows_and_out_again():
    insertion = Insertion((90, 91), (5, 1), torch.zeros(0, 0), 90)
    ids = torch.tensor([[0, 0, 1, 11, 12], [1, 21, 22, 23, 24]])
    made, mask, columns = into_batch(insertion, ids, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    assert made.tolist() == [[0, 0, 1, 90, 11, 91, 12], [1, 90, 21, 22, 23, 91, 24]]
    assert mask.tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
    longer = torch.cat([made, torch.tensor([[7], [8]])], dim=1)
    assert out_of_batch(longer, columns).tolist() == [[0, 0, 1, 11, 12, 7], [1, 21, 22, 23, 24, 8]]
