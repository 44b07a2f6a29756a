"""Pictures beside the text, and prompts that are read in both directions: scored honestly or not shared."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, PreparedContext, score_prepared
from grains_eval.harness.prefix_sharing.proof import Deviation, Proof, describe
from grains_eval.models import image_inputs
from grains_eval.steering import applied
from tests import tiny, unusual
from tests.harness.prefix_sharing.test_image_loglikelihood import ImageModel
from tests.harness.prefix_sharing.test_loglikelihood import steering
from tests.harness.test_images import PICTURES, request

ANSWERS = [" red square", " no", " paris is the capital"]
CONTEXTS = ["<image>\nWhat is the picture?", "<image> Hello world, what is it?", "<image>"]


@pytest.fixture
def model(tmp_path):
    def get(family):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            folder = str(tiny.save(*getattr(unusual, family)(), tmp_path / family))
        return ImageModel(pretrained=folder, dtype="float32", device="cpu", batch_size=2)

    return get


def asked(contexts=CONTEXTS):
    return [
        request((text, answer, {"visual": [PICTURES[number]]}), number)
        for number, text in enumerate(contexts)
        for answer in ANSWERS
    ]


def configurations(model):
    return [
        (),
        (steering(model, [1], 3.0),),
        (steering(model, [2], -3.0),),
        (steering(model, [1], 3.0, positions="last"),),
        (steering(model, [1], 3.0, positions="generated"),),
    ]


def by_hand(lm, asked_one, configuration, last=None):
    """The prompt as the processor writes it and the answer's ids after it, through the model alone."""
    text, answer, extra = asked_one.args
    context = text.replace("<image>", lm.image_token)
    inputs = lm.processor(text=[context], images=[extra["visual"]], return_tensors="pt")
    inputs.pop("labels", None)
    start = inputs["input_ids"].shape[1]
    words = lm.tokenizer
    ids = words(context + answer)["input_ids"][len(words(context)["input_ids"]) :]
    fed = torch.tensor([ids if last is None else [*ids[:-1], last]])
    count = len(ids)
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], fed], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    if "token_type_ids" in whole:  # PaliGemma: 0 in the prompt, 1 in the answer
        whole["token_type_ids"] = torch.tensor([[0] * start + [1] * count])
    if "cross_attention_mask" in whole:
        mask = whole["cross_attention_mask"]
        whole["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, count, -1, -1)], 1)
    with torch.no_grad(), applied(lm.model, configuration[0] if configuration else None, torch.tensor([start])):
        logits = lm.model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
    return [float(logits[i, token]) for i, token in enumerate(ids)]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("family", "contexts"), [("mllama", CONTEXTS[:2]), ("paligemma", CONTEXTS)])
def test_every_setting_equals_the_model_by_hand(family, contexts, share, model):
    lm, requests = model(family), asked(contexts)
    lm.share_context = share
    wanted = configurations(lm.model)
    if share:
        lm.memo = Memo(wanted)
    for index, configuration in enumerate(wanted):
        lm.configuration = configuration
        if share:
            lm.memo.active = index
        found = lm.loglikelihood(requests, disable_tqdm=True)
        expected = [sum(by_hand(lm, each, configuration)) for each in requests]
        assert [each[0] for each in found] == pytest.approx(expected, abs=2e-5), configuration


def test_mllama_is_scored_plainly_with_pictures(model, caplog):
    lm = model("mllama")
    lm.loglikelihood(asked(CONTEXTS[:2]), disable_tqdm=True)
    path, reason = describe(lm.model, True)
    assert path == "plain" and "answer tokens was off by" in reason
    assert caplog.text.count("scoring takes the plain path") == 1
    # one pass of several settings fails where a single one is only wrong
    several = model("mllama")
    several.memo = Memo(configurations(several.model))
    several.loglikelihood(asked(CONTEXTS[:2]), disable_tqdm=True)
    assert describe(several.model, True)[0] == "plain"


def test_paligemma_shares_its_prompts_and_no_answer_sees_itself(model):
    lm = model("paligemma")
    lm.loglikelihood(asked(), disable_tqdm=True)
    assert describe(lm.model, True)[0] == "shared_context"
    one = next(each for each in asked() if each.args[1] == ANSWERS[2])
    assert by_hand(lm, one, (), last=5)[:-1] == pytest.approx(by_hand(lm, one, ())[:-1], abs=1e-6)
    prepared = lm.prepare_image_request(one)
    assert lm.score_image(prepared, 5)[0] == pytest.approx(lm.score_image(prepared)[0], abs=1e-6)


@pytest.mark.parametrize("share", [True, False])
def test_an_answer_that_its_prompt_would_see_is_refused(share, model, monkeypatch):
    lm = model("paligemma")
    lm.share_context = share
    real = image_inputs.lengthened

    def as_prompt(*arguments):  # what one gets by processing prompt and answer together
        found = real(*arguments)
        return {**found, "token_type_ids": torch.zeros_like(found["token_type_ids"])}

    monkeypatch.setattr(image_inputs, "lengthened", as_prompt)
    with pytest.raises(GrainsError, match="PaliGemmaForConditionalGeneration lets tokens see later ones"):
        lm.loglikelihood(asked(), disable_tqdm=True)


LONG = "<image>\n" + "What is the picture? " * 4 + "Yes or no?"


@pytest.mark.parametrize("images", [1, 2])
def test_a_long_prompt_of_one_token_answers_hides_no_longer_answers(images, model):
    """A single token is read off its prompt; only one of several runs after the prompt."""
    several = "<image>" * (images - 1) + LONG
    documents = [(several, [" no", " red"], images), ("<image>\nWhat is it?", [" red square", ANSWERS[2]], 1)]
    requests = [
        request((text, answer, {"visual": PICTURES[:count]}), number)
        for number, (text, answers, count) in enumerate(documents)
        for answer in answers
    ]
    lm, plain = model("mllama"), model("mllama")
    plain.share_context = False
    found, expected = (each.loglikelihood(requests, disable_tqdm=True) for each in (lm, plain))
    assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=2e-5)
    assert describe(lm.model, True)[0] == "plain"


def test_another_number_of_pictures_is_proved_anew(model):
    lm = model("mllama")
    seen = []
    prepared = [
        PreparedContext({"input_ids": torch.tensor([[5, 6, 7]])}, [(8, 9)], lambda *_, n=n: seen.append(n) or 0.0, n)
        for n in (2, 1, 1)
    ]
    proof = Proof(lm.model, [()])
    with pytest.raises(Deviation):  # the first is compared at once
        score_prepared(lm.model, prepared[:1], [()], proof=proof)
    seen.clear()
    proof.check = lambda _: None
    proof.pending.clear()
    score_prepared(lm.model, prepared, [()], proof=proof)
    for each in proof.pending:
        each.plainly(None)
    assert seen == [2, 1]


@pytest.mark.parametrize("share", [True, False])
def test_an_answer_that_merges_into_a_closed_prompt_is_refused(share, model):
    lm = model("paligemma")
    lm.share_context = share
    merging = request(("<image>\nWhat is the picture? f", "rance red", {"visual": [PICTURES[1]]}), 1)
    ordinary = request(("<image>", " no", {"visual": [PICTURES[0]]}), 0)
    with pytest.raises(GrainsError, match=r"document 1 .* the prompt's last token and PaliGemmaProcessor writes more"):
        lm.loglikelihood([ordinary, merging], disable_tqdm=True)


def test_every_merging_answer_is_looked_at(model, monkeypatch):
    lm = model("paligemma")
    lm.share_context = False
    monkeypatch.setattr(image_inputs, "closes_prompts", lambda *_: False)
    merging = request(("<image>\nWhat is the picture? f", "rance red", {"visual": [PICTURES[1]]}), 1)
    ordinary = request(("<image>", " no", {"visual": [PICTURES[0]]}), 0)
    with pytest.raises(GrainsError, match="PaliGemmaForConditionalGeneration lets tokens see later ones"):
        lm.loglikelihood([ordinary, merging], disable_tqdm=True)


@pytest.mark.parametrize("share", [True, False])
def test_an_answer_that_merges_into_an_open_prompt_is_scored(share, model):
    lm = model("mllama")
    lm.share_context = share
    merging = request(("<image>\nWhat is the picture? f", "rance red", {"visual": [PICTURES[1]]}), 1)
    assert lm.loglikelihood([merging], disable_tqdm=True)[0][0] < 0
