"""Requests in the form of either lm_eval."""

from __future__ import annotations

from types import SimpleNamespace

from lm_eval.api.instance import Instance

from grains_eval.lm_eval_versions import (
    cached_without_images,
    loglikelihood_request,
    multimodal_arguments,
    varies_prompt,
)

SHOWN = {"visual": ["an image"]}


def test_images_are_found_where_either_version_keeps_them():
    arguments = loglikelihood_request(("context", " answer", SHOWN), 0, "task", 3)
    assert multimodal_arguments(arguments) == SHOWN and not cached_without_images(arguments)
    assert (arguments.task_name, arguments.doc_id) == ("task", 3)
    beside = loglikelihood_request(("context", " answer"), 0, "task", 3)
    assert multimodal_arguments(beside) == {} and not cached_without_images(beside)
    beside.additional_args = SHOWN  # as 0.5 has it, whose cache then takes one image for another
    assert multimodal_arguments(beside) == SHOWN and cached_without_images(beside)


def test_generation_settings_are_no_images():
    request = Instance(
        request_type="generate_until", doc={}, arguments=("context", {"until": ["x"]}), idx=0, metadata=("t", 0, 1)
    )
    assert multimodal_arguments(request) == {}


def test_tasks_that_vary_the_prompt_are_known_in_either_version():
    old = SimpleNamespace(multiple_input=2, config=SimpleNamespace())
    new = SimpleNamespace(config=SimpleNamespace(multiple_inputs=True))
    usual = SimpleNamespace(multiple_input=0, config=SimpleNamespace(multiple_inputs=False))
    assert varies_prompt(old) and varies_prompt(new) and not varies_prompt(usual)
