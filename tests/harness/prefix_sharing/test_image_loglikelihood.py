"""Shared contexts with pictures against one hooked pass per request, on every vision-language family."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch
from lm_eval.models.hf_vlms import HFMultimodalLM
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.harness.images import ImageLoglikelihoodMixin
from grains_eval.harness.prefix_sharing.image_loglikelihood import SharedImagesMixin
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, SharedContextMixin, score
from grains_eval.harness.prefix_sharing.proof import standing
from grains_eval.models import image_inputs
from grains_eval.steering import applied
from tests.harness.prefix_sharing.test_loglikelihood import configurations, furthest
from tests.harness.prefix_sharing.test_loglikelihood import plainly as plainly_text
from tests.harness.test_images import PICTURES, request
from tests.tiny import VISION

ANSWERS = [" red square", " no", " paris is the capital", " yes"]


class ImageModel(SharedContextMixin, SharedImagesMixin, ImageLoglikelihoodMixin, HFMultimodalLM):
    """The class under test, steered by a configuration in memory."""

    configuration = ()

    @property
    def steering_configuration(self):
        return self.configuration

    @contextmanager
    def steering(self):
        with ExitStack() as stack:
            for each in self.configuration:
                stack.enter_context(applied(self.model, each))
            yield


@pytest.fixture(scope="module")
def model(tiny_vision):
    made = {}

    def get(family):
        if family not in made:
            made[family] = ImageModel(pretrained=str(tiny_vision(family)), dtype="float32", device="cpu", batch_size=2)
        return made[family]

    return get


def asked():
    """One picture, two pictures, a picture at the end; four answers each, one of a single token."""
    contexts = [
        ("<image>\nWhat is the picture?", PICTURES[:1]),
        ("What is <image> and <image>, the same?", PICTURES[1:3]),
        ("What is <image>", PICTURES[2:3]),
    ]
    return [
        request((text, answer, {"visual": shown}), number)
        for number, (text, shown) in enumerate(contexts)
        for answer in ANSWERS
    ]


def plainly(lm, requests, configuration):
    """One request at a time through the whole model; position rules are told where the prompt ends."""
    found = []
    for each in requests:
        prepared = lm.prepare_image_request(each)
        length = lm.continuation_length(prepared)
        inputs = image_inputs.process(lm, [prepared.context + prepared.continuation], [prepared.images], prepared.where)
        ids = inputs["input_ids"][0]
        pictures_free = len(ids) - length
        lm.model.model.rope_deltas = None
        with torch.no_grad(), ExitStack() as stack:
            for one in configuration:
                stack.enter_context(applied(lm.model, one, torch.tensor([pictures_free])))
            logprobs = lm.model(**inputs, use_cache=False).logits[0, -length - 1 : -1].log_softmax(-1)
        target = ids[-length:]
        total = logprobs.gather(-1, target[:, None]).sum()
        found.append((float(total), bool((logprobs.argmax(-1) == target).all())))
    return found


@pytest.mark.parametrize("family", list(VISION))
def test_agrees_with_plain_hooks(family, model):
    lm = model(family)
    requests, wanted = asked(), configurations(lm.model)
    lm.memo = Memo(wanted)
    try:
        for index, configuration in enumerate(wanted):
            lm.memo.active = index
            found, expected = (
                lm.loglikelihood(requests, disable_tqdm=True),
                plainly(lm, requests, configuration),
            )
            assert max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True)) < 1e-5, index
            assert [a[1] for a in found] == [b[1] for b in expected]
    finally:
        lm.memo = None


@pytest.mark.parametrize("family", list(VISION))
def test_text_after_pictures(family, model):
    lm = model(family)
    # ids of ordinary words: a stray image token would ask for a picture
    texts = [(list(range(100, 112)), [120, 121, 122]), (list(range(100, 112)), [130, 131]), ([140], [141, 142])]
    wanted = configurations(lm.model)[:4]
    lm.loglikelihood(asked()[:2], disable_tqdm=True)
    found = score(lm.model, texts, wanted, max_length=64)
    lm.model.model.rope_deltas = None
    expected = [plainly_text(lm.model, texts, each, 64) for each in wanted]
    assert furthest(found, expected) < 1e-5


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_the_vision_tower_runs_once_a_context(family, model):
    lm = model(family)
    calls = []
    handle = lm.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    lm.memo = Memo(configurations(lm.model))
    proved = standing(lm.model).proved
    try:
        lm.loglikelihood(asked(), disable_tqdm=True)
    finally:
        handle.remove()
        lm.memo = None
    assert len(calls) == 3 + standing(lm.model).proved - proved


def test_a_single_configuration_agrees_with_the_plain_path(model, monkeypatch):
    lm = model("gemma3")
    requests = asked()
    lm.configuration = configurations(lm.model)[1]
    try:
        shared = lm.loglikelihood(requests, disable_tqdm=True)
        monkeypatch.setattr(lm, "share_context", False)
        plain = lm.loglikelihood(requests, disable_tqdm=True)
    finally:
        lm.configuration = ()
    assert max(abs(a[0] - b[0]) for a, b in zip(shared, plain, strict=True)) < 1e-5
    assert shared != lm.loglikelihood(requests, disable_tqdm=True)


def test_a_prompt_past_the_context_is_refused(model, monkeypatch):
    lm = model("llava")
    monkeypatch.setattr(lm, "_max_length", 20)
    with pytest.raises(GrainsError, match="images are never cut"):
        lm.loglikelihood(asked(), disable_tqdm=True)


@pytest.mark.parametrize("sweep", [False, True])
def test_one_text_with_two_pictures_is_two_contexts(sweep, model):
    lm = model("llava")
    shown = [request(("<image>What is it?", " red square", {"visual": [picture]}), 0) for picture in PICTURES[:2]]
    lm.memo = Memo([()]) if sweep else None
    try:
        together = lm.loglikelihood(shown, disable_tqdm=True)
        after = lm.loglikelihood(shown[1:], disable_tqdm=True)
    finally:
        lm.memo = None
    expected = plainly(lm, shown, ())
    assert abs(expected[0][0] - expected[1][0]) > 0.01
    assert [each[0] for each in [*together, *after]] == pytest.approx(
        [each[0] for each in [*expected, expected[1]]], abs=1e-5
    )


def test_two_palettes_are_two_pictures(model):
    indexed = [Image.new("P", PICTURES[0].size), Image.new("P", PICTURES[0].size)]
    for each, colour in zip(indexed, ([255, 0, 0], [0, 0, 255]), strict=True):
        each.putpalette(colour * 256)
    assert indexed[0].tobytes() == indexed[1].tobytes()
    lm = model("llava")
    shown = [request(("<image>What is it?", " red square", {"visual": [each]}), 0) for each in indexed]
    found, expected = lm.loglikelihood(shown, disable_tqdm=True), plainly(lm, shown, ())
    assert abs(expected[0][0] - expected[1][0]) > 0.01
    assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=1e-5)


def test_position_rules_hold_on_the_plain_path_too(model, monkeypatch):
    lm, requests = model("gemma3"), asked()
    monkeypatch.setattr(lm, "share_context", False)
    try:
        for configuration in (configurations(lm.model)[index] for index in (5, 6, 7)):
            lm.configuration = configuration
            found, expected = lm.loglikelihood(requests, disable_tqdm=True), plainly(lm, requests, configuration)
            assert max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True)) < 1e-5
    finally:
        lm.configuration = ()
