"""Vision-language models in vLLM against Hugging Face: what they answer to images, under many settings."""

from __future__ import annotations

from itertools import product

import lm_eval
import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.models import image_inputs
from grains_eval.vllm.attach import find_layers
from tests import pictures
from tests.instances import instance
from tests.tiny import picture
from tests.vllm import checks
from tests.vllm.families import SEEING, build_vision
from tests.vllm.test_matrix import check

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

EAGER = {"enforce_eager": True, "max_settings": 20, "max_vectors": 2, **checks.ALONE}


@pytest.fixture(scope="module", params=SEEING)
def sides(request, tmp_path_factory):
    """One engine and the same model under Hugging Face."""
    folder = build_vision(request.param, tmp_path_factory.mktemp(request.param))
    theirs = checks.reference(folder)
    with pytest.MonkeyPatch.context() as patch:
        checks.in_one_process(patch.setenv)
        with checks.engine(folder, **EAGER) as ours:
            yield ours, theirs


def test_engines_differ_no_more_under_steering(sides):
    ours, _ = sides
    found = [checks.measure(lm, checks.settings(), checks.image_requests) for lm in sides]
    check(*found)
    # the images were seen: others change the scores
    asked = checks.image_requests("loglikelihood")
    before = ours.loglikelihood(asked, disable_tqdm=True)
    for each in asked:
        if len(each.args) > 2:
            each.args[2]["visual"][0] = picture(99, (64, 64))
    after = ours.loglikelihood(asked, disable_tqdm=True)
    for each, one, other in zip(asked, before, after, strict=True):
        assert (abs(one[0] - other[0]) > 1e-3) == (len(each.args) > 2)


def long_requests(kind, count):
    """Longer than a block of the prefix cache, two images each before the same text."""
    del count
    start = "<image> " + " ".join(checks.WORDS[number % len(checks.WORDS)] for number in range(150))
    made = []
    for number, (seed, word) in enumerate(product((1, 2), (" cat yes", " dog red"))):
        asked = (start, word) if kind == "loglikelihood" else (start + word, checks.GENERATION)
        made.append(instance(kind, {}, (*asked, {"visual": [picture(seed)]}), number=number))
    return made


def test_a_prefix_cache_knows_images_and_settings(sides, monkeypatch):
    ours, theirs = sides
    wanted = checks.measure(theirs, checks.settings(), long_requests)
    for _ in range(2):  # the second time prompts come from the cache
        check(checks.measure(ours, checks.settings(), long_requests), wanted)
    ours.model.reset_prefix_cache()
    monkeypatch.setattr("grains_eval.vllm.engine.salt", lambda *_: "one for all")
    found = checks.compare(checks.measure(ours, checks.settings(), long_requests), wanted)
    assert not all(each.agrees(found["unsteered"]) for each in found.values())
    ours.model.reset_prefix_cache()


def test_lm_eval_runs_tasks_with_images(sides, tmp_path):
    found, steered = [], (checks.applied(1, (1, 3), strength=0.8),)
    manager = pictures.task(tmp_path)
    for lm in sides:
        lm.steer(steered)
        try:
            results = lm_eval.simple_evaluate(
                model=lm, tasks=["pictures"], task_manager=manager, log_samples=True, bootstrap_iters=0
            )
            assert lm.get_model_info()["steering"][0]["strength"] == 0.8
        finally:
            lm.steer(())
        samples = results["samples"]["pictures"]
        found.append([float(answer[0]) for sample in samples for answer in sample["filtered_resps"]])
    assert found[0] == pytest.approx(found[1], abs=2e-4) and len(found[0]) == 8
    assert sides[0].get_model_info()["steered_ranks"][0]["place"].startswith("language_model.")


def runner(lm):
    return lm.model.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def test_only_the_language_model_is_steered(sides):
    ours, _ = sides
    model = runner(ours).get_model()
    (layers,) = find_layers(model, 4)
    (report,) = ours.engine.reports
    assert model.get_submodule(report["place"]) is layers and report["layers"] == [0, 1, 2, 3]
    steered = {name for name, module in model.named_modules() if hasattr(module, "grains_table")}
    assert steered == {f"{report['place']}.{index}" for index in range(4)}
    assert report["place"].startswith("language_model.")
    tower = getattr(model, "vision_tower", None) or model.visual
    seen = []
    handle = tower.register_forward_hook(lambda *given: seen.append(given[-1]))
    try:
        for setting in ((), (checks.applied(1, (0, 1, 2, 3), strength=2.0),)):
            ours.steer(setting)
            ours.model.llm_engine.engine_core.reset_encoder_cache()
            ours.generate_until(checks.image_requests("generate_until", 1), disable_tqdm=True)
    finally:
        handle.remove()
        ours.steer(())
    plain, steered = seen
    assert torch.equal(plain, steered)


def expanded(lm, text, images):
    """Tokens of a prompt as Hugging Face's processor writes it."""
    written = text.replace("<image>", lm.image_token)
    return image_inputs.encode(lm, [written], [images], "it")["input_ids"].shape[1]


def test_tokens_are_counted_as_the_engine_expands_them(sides):
    ours, _ = sides
    asked = checks.image_requests("generate_until", 2)
    counts = {}
    for rule in ("prompt", "last", "generated"):
        ours.steer((checks.applied(1, (1,), strength=0.3, positions=rule),))
        ours.generate_until(asked, disable_tqdm=True)
        counts[rule] = ours.steered_tokens()[1]
    ours.steer(())
    tokens = sum(expanded(ours, each.args[0], each.args[2]["visual"]) for each in asked)
    assert counts["prompt"] == tokens and counts["last"] == len(asked)
    assert 0 < counts["generated"] <= len(asked) * checks.GENERATION["max_gen_toks"]


def test_images_are_never_cut(sides):
    ours, _ = sides
    room = checks.ENGINE["max_model_len"] - expanded(ours, "<image>", [picture(1)])
    long = instance(
        "generate_until", {}, ("<image>" + " cat" * (room - 3), checks.GENERATION, {"visual": [picture(1)]})
    )
    with pytest.raises(GrainsError, match=r"are left beside the answer, and images are never cut"):
        ours.generate_until([long], disable_tqdm=True)
    longer = instance("loglikelihood", {}, ("<image>" + " cat" * 400, " dog", {"visual": [picture(1)]}))
    with pytest.raises(GrainsError, match=r"vLLM refuses a prompt with images: .*; images are never cut"):
        ours.loglikelihood([longer], disable_tqdm=True)
    missing = instance("loglikelihood", {}, ("<image><image> what", " dog", {"visual": [picture(1)]}))
    with pytest.raises(GrainsError, match=r"2 image placeholder\(s\) .* for 1 image"):
        ours.loglikelihood([missing], disable_tqdm=True)


def test_images_that_see_themselves_both_ways(tmp_path, monkeypatch):
    checks.in_one_process(monkeypatch.setenv)
    folder = build_vision("gemma3", tmp_path)
    asked = checks.image_requests("loglikelihood", 4)
    with checks.engine(folder, **EAGER) as ours:
        with pytest.raises(
            GrainsError, match=r"the tokens of an image see each other in .* but not where vLLM runs on a C"
        ):
            ours.loglikelihood(asked, disable_tqdm=True)
        # all but that is the same: Hugging Face reads images from left to right where token types are left out
        monkeypatch.setattr("grains_eval.vllm.vision.reads_images_causally", lambda _: False)
        theirs = checks.reference(folder)
        kind = type(theirs.processor)
        process = kind.__call__

        def causal(*arguments, **options):
            features = process(*arguments, **options)
            features.pop("token_type_ids", None)
            return features

        monkeypatch.setattr(kind, "__call__", causal)
        check(*(checks.measure(lm, checks.settings(), checks.image_requests) for lm in (ours, theirs)))
