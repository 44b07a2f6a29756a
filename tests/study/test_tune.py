"""Choosing layer and strength: on development items, under the preservation constraint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grains_eval.recipes import parse_recipe
from grains_eval.study.tune import CurvePoint, choose, grid
from grains_eval.types import SteeringConfig, SteeringVectors


def point(strength, lower, preserved=0.9, margin=1.0, layer=1):
    return CurvePoint(SteeringConfig((layer,), strength), lower + 0.1, lower, lower + 0.2, margin, 50, preserved)


BASE = point(0.0, 0.2)


def test_the_largest_lower_bound_wins_and_ties_go_to_the_smaller_strength():
    assert choose([BASE, point(1, 0.5), point(2, 0.6)], 0.01).config.strength == 2
    assert choose([BASE, point(2, 0.6), point(1, 0.6)], 0.01).config.strength == 1
    best = choose([BASE, point(1, 0.6, margin=1.0, layer=1), point(1, 0.6, margin=2.0, layer=2)], 0.01)
    assert best.config.layers == (2,)


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
