"""Batches, prefixes and stacks change no score, and no prompt runs more often than it must."""

from __future__ import annotations

import pytest
import torch

from grains_eval.harness.prefix_sharing import loglikelihood as shared_context
from grains_eval.harness.prefix_sharing import plan
from grains_eval.harness.prefix_sharing.loglikelihood import ScoringOptions, score
from grains_eval.harness.prefix_sharing.plan import Limits
from grains_eval.models.layers import find_layers
from tests.harness.prefix_sharing.test_loglikelihood import (
    LIMIT,
    configurations,
    furthest,
    plainly,
    requests,
    steering,
)
from tests.tiny import VOCABULARY

LIMITS = {"wide": Limits(4000, 2**20, 2**26), "narrow": Limits(60, 200, 20 * VOCABULARY), "one": Limits(1, 1, 1)}
# a request a pass takes seconds where layers of two kinds mask twice
SLOW = {("gemma3_text", "one"), ("mistral", "one")}


@pytest.fixture(scope="module")
def unlimited():
    """Scores by family, as they are without any of the limits."""
    found = {}

    def get(family, model):
        if family not in found:
            found[family] = score(model, requests(), configurations(model), max_length=LIMIT)
        return found[family]

    return get


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        pytest.param(family, limits, marks=[pytest.mark.slow] if (family, limits) in SLOW else [])
        for family in ("llama", "mistral", "gemma3_text", "opt")
        for limits in LIMITS
    ],
)
@pytest.mark.parametrize("prefixes", [True, False])
def test_batching_prefixes_and_stacks_change_nothing(family, limits, prefixes, unlimited, loaded_text, monkeypatch):
    model = loaded_text(family).model
    expected = unlimited(family, model)
    monkeypatch.setattr(shared_context, "limits_for", lambda *_: LIMITS[limits])
    monkeypatch.setattr(plan, "_PASS_COST", 0 if prefixes else 10**6)
    found = score(model, requests(), configurations(model), max_length=LIMIT)
    assert furthest(found, expected) < 1e-5
    assert [[a[1] for a in x] for x in found] == [[a[1] for a in x] for x in expected]


def test_prefixes_that_do_not_fit_together_take_turns(loaded_text, monkeypatch):
    model = loaded_text("llama").model
    asked, wanted = requests(), configurations(model)
    monkeypatch.setattr(plan, "_PASS_COST", 0)
    expected = score(model, asked, wanted, max_length=LIMIT)
    monkeypatch.setattr("grains_eval.harness.prefix_sharing.scorer._MOST_PREFIX_BYTES", 1)
    assert score(model, asked, wanted, max_length=LIMIT) == expected


def test_a_prefix_is_read_for_as_many_settings_as_a_pass_may_hold(loaded_text, monkeypatch):
    model = loaded_text("llama").model
    beginning = list(range(3, 23))
    asked = [([*beginning, last], [8 + i, 9]) for last in (24, 25) for i in range(2)]
    wanted = [(steering(model, [0], strength),) for strength in range(1, 8)]
    expected = score(model, asked, wanted, max_length=LIMIT)
    monkeypatch.setattr(plan, "_PASS_COST", 0)
    monkeypatch.setattr(shared_context, "limits_for", lambda *_: Limits(65, 2**20, 2**26))
    tokens = []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda _, arguments: tokens.append(arguments[0].shape[:2].numel())
    )
    found = score(model, asked, wanted, max_length=LIMIT)
    handle.remove()
    assert furthest(found, expected) < 1e-5
    assert max(tokens) == 3 * len(beginning)


@pytest.mark.parametrize("baseline", [True, False])
def test_prompts_that_no_setting_moves_run_once(baseline, loaded_text, monkeypatch):
    model = loaded_text("llama").model
    widths = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, arguments: widths.append(arguments[0].shape[:2]))
    steered = [(steering(model, [0], strength, positions="generated"),) for strength in (1.0, 2.0, 3.0)]
    beginning = list(range(3, 14))
    asked = [([*beginning, last], [8 + i, 9]) for last in (20, 21) for i in range(2)]
    for cost, opening in ((10**6, []), (0, [(1, 11)])):
        monkeypatch.setattr(plan, "_PASS_COST", cost)
        widths.clear()
        wanted = [(), *steered] if baseline else steered
        found = score(model, asked, wanted, max_length=LIMIT)
        contexts = [(2, 1)] if opening else [(2, 12)]
        # every strength resumes from what the plain branches gave at the first layer
        assert widths == [*opening, *contexts, *([(4, 1)] if baseline else []), (12, 1)]
        assert furthest(found, [plainly(model, asked, each) for each in wanted]) < 1e-5
        # a lone answer does not spoil it for the others
        widths.clear()
        score(model, [*asked, ([*beginning, 22], [8, 9])], wanted, max_length=LIMIT)
        assert [(rows + 1, width) for rows, width in contexts] == widths[len(opening) : len(opening) + 1]
        assert sum(rows * width > 15 for rows, width in widths) <= 1
    handle.remove()


def test_running_out_of_memory_halves_the_batch(loaded_text, monkeypatch):
    model = loaded_text("llama").model
    asked, wanted = requests(), configurations(model)
    expected = score(model, asked, wanted, max_length=LIMIT)

    def refuse(module, arguments, keywords):
        if keywords["input_ids"].numel() > 70:
            raise torch.OutOfMemoryError

    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        found = score(model, asked, wanted, max_length=LIMIT, options=ScoringOptions("auto"))
    finally:
        handle.remove()
    assert furthest(found, expected) < 1e-5
    assert all("forward" not in layer.__dict__ for layer in find_layers(model))
