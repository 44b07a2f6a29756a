"""Choosing layer and strength: on development items, under the preservation constraint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from grains_eval.models import LoadedModel
from grains_eval.recipes import Evaluation, Recipe, parse_recipe
from grains_eval.study import tune
from grains_eval.study.tune import CurvePoint, grid, spread
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.vectors.contexts import recipe


def point(strength, lower, preserved=0.9, margin=1.0, layer=1, likely=-1.0):
    return CurvePoint(
        config=SteeringConfig((layer,), strength),
        accuracy=lower + 0.1,
        lower=lower,
        upper=lower + 0.2,
        margin=margin,
        log_p_chosen=3 * likely,
        log_p_rejected=3 * likely - margin,
        log_p_chosen_per_token=likely,
        n=50,
        preserved=preserved,
    )


def choose(points, margin, **changes):
    return tune.choose(points, Evaluation(margin=margin, **changes))


BASE = point(0.0, 0.2)


def test_the_largest_lower_bound_wins_then_the_margin_then_less_strength():
    assert choose([BASE, point(1, 0.5), point(2, 0.6)], 0.01).config.strength == 2
    assert choose([BASE, point(2, 0.6), point(1, 0.6)], 0.01).config.strength == 1
    saturated = [point(epoch, 0.6, margin=epoch / 4) for epoch in (2, 8, 16)]
    assert choose([BASE, *saturated], 0.01).config.strength == 16
    best = choose([BASE, point(1, 0.6, margin=1.0, layer=1), point(1, 0.6, margin=2.0, layer=2)], 0.01)
    assert best.config.layers == (2,)


def test_a_setting_that_makes_the_preferred_answer_less_likely_is_not_chosen():
    gentle, damaging = point(1, 0.5, likely=-1.05), point(2, 0.9, margin=5.0, likely=-3.0)
    chosen = choose([BASE, gentle, damaging], 0.01)
    assert chosen.config.strength == 1
    assert "log p(y+) at most 0.1 nats a token below" in chosen.reason
    assert "mean log p(y+) -3.00 to -3.15 nats, log p(y-) -4.00 to -4.15" in chosen.reason
    assert "1 setting was refused for log p(y+) alone" in chosen.reason
    assert choose([BASE, gentle, damaging], 0.01, likelihood_margin=2.0).config.strength == 2
    assert choose([BASE, gentle, damaging], 0.01, likelihood_margin=0).config.strength == 0
    # what was not a number is no answer that is as likely as before
    assert choose([BASE, point(1, 0.9, likely=float("nan"))], 0.01).config.strength == 0


def test_the_chosen_point_is_at_hand():
    chosen = choose([BASE, point(1, 0.5), point(2, 0.6)], 0.01)
    assert chosen.point is chosen.points[2]
    refused = choose([BASE, point(1, 0.1)], 0.01)
    assert refused.point is BASE
    assert refused.point.numbers()["log_p_chosen_per_token"] == -1.0


def test_a_setting_that_costs_too_much_is_not_chosen():
    chosen = choose([BASE, point(1, 0.5, 0.895), point(2, 0.9, 0.5)], 0.01)
    assert chosen.config.strength == 1
    assert "within 0.01 of 0.900" in chosen.reason


def test_one_item_may_be_lost_where_the_margin_is_finer_than_an_item():
    def counted(strength, lower, kept):
        return replace(point(strength, lower, kept / 24), preserved_n=24)

    points = [counted(0, 0.2, 24), counted(1, 0.5, 23), counted(2, 0.9, 22)]
    chosen = choose(points, 0.01)
    assert chosen.config.strength == 1
    assert "within 0.0417 of 1.000" in chosen.reason
    assert choose(points, 0.1).config.strength == 2


def test_where_nothing_is_kept_the_choice_is_the_unsteered_model_and_says_so(caplog):
    chosen = choose([BASE, point(1, 0.5, 0.5), point(2, 0.9, 0.5)], 0.01)
    assert chosen.config.strength == 0.0
    assert "strength 0, the unsteered model" in chosen.reason
    assert "strength 0" in caplog.text


def test_without_preserved_items_the_reason_says_so():
    nothing = float("nan")
    chosen = choose([point(0, 0.2, nothing), point(1, 0.5, nothing)], 0.01)
    assert chosen.config.strength == 1
    assert "no preserved items to watch" in chosen.reason


@pytest.mark.parametrize(("depth", "expected"), [(4, [0, 1, 2, 3]), (32, [0, 4, 9, 13, 18, 22, 27, 31])])
def test_auto_layers_are_at_most_eight_and_evenly_spaced(depth, expected):
    vectors = SteeringVectors({i: torch.ones(2) for i in range(depth)}, {i: 1.0 for i in range(depth)})
    recipe = parse_recipe({"name": "x", "data": {"task": "t"}, "steering": {"strengths": [0.5, 1.0]}})
    settings = grid(vectors, recipe)
    assert [s.layers for s in settings] == [(layer,) for layer in expected for _ in range(2)]
    assert {s.strength for s in settings} == {0.5, 1.0}
    given = grid(vectors, recipe, layers=[2], strengths=[3.0])
    assert given == [SteeringConfig((2,), 3.0)]


def test_a_setting_that_is_no_better_than_the_unsteered_model_is_not_chosen(caplog):
    chosen = choose([point(0, 0.8), point(1, 0.3), point(2, 0.8)], 0.01)
    assert chosen.config.strength == 0.0
    assert "prefers y+ more often than the unsteered model" in chosen.reason
    assert "strength 0" in caplog.text


def test_strengths_are_spread_at_equal_ratios() -> None:
    assert spread([0.5, 2.0], 3) == pytest.approx([0.5, 1.0, 2.0])
    assert spread([-1.0, 1.0], 5) == [-1.0, 1.0]
    assert spread([1.0], 4) == [1.0]


def test_all_layers_may_be_steered_by_a_recipe(loaded_text: Callable[[str], LoadedModel]) -> None:
    from grains_eval.study.tune import fixed_setting

    raw = recipe("grains").model_dump()
    raw["steering"] |= {"layers": "all", "strength": 0.2}
    setting = fixed_setting(Recipe.model_validate(raw))
    assert setting is not None and setting.layers is None and setting.strength == 0.2
