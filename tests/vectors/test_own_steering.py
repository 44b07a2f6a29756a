"""How baselines are applied: as in their source, whatever the recipe fixes for GrAInS."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grains_eval.models import LoadedModel
from grains_eval.study.tune import fixed_setting, grid
from grains_eval.vectors import METHODS, run_method
from tests.vectors.contexts import context, recipe


def test_it_is_applied_by_plain_addition_whatever_the_recipe_fixes_for_grains(
    loaded_text: Callable[[str], LoadedModel],
) -> None:
    built = run_method(context(loaded_text("llama"), "caa")).vectors
    fixed = recipe("caa").model_copy(
        update={"steering": recipe("caa").steering.model_copy(update={"layers": [2], "strength": 4.0})}
    )
    assert fixed_setting(fixed) is None
    settings = grid(built, fixed)
    assert {(one.operator, one.unit) for one in settings} == {("add", "relative")}
    assert {one.layers for one in settings} == {(0,), (1,), (2,)} and len(settings) == 3 * 4
    assert fixed_setting(fixed.model_copy(update={"vectors": fixed.vectors.model_copy(update={"method": "grains"})}))


def test_options_override_how_it_is_applied(loaded_text: Callable[[str], LoadedModel]) -> None:
    one = recipe("caa", steering={"layers": [1], "strength": 2.0, "unit": "absolute"})
    setting = fixed_setting(one)
    assert setting is not None
    assert (setting.layers, setting.strength, setting.unit, setting.operator) == (
        (1,),
        2.0,
        "absolute",
        "add",
    )
    untuned = METHODS["caa"].steering.untuned(run_method(context(loaded_text("llama"), "caa")).vectors)
    assert (untuned.layers, untuned.strength, untuned.unit, untuned.operator) == (
        (1,),
        1.0,
        "absolute",
        "add",
    )


def test_it_steers_every_layer_at_once_with_as_many_settings_as_the_others(
    loaded_text: Callable[[str], LoadedModel],
) -> None:
    vectors = run_method(context(loaded_text("llama"), "icv")).vectors
    settings = grid(vectors, recipe("icv"))
    assert {(one.layers, one.operator) for one in settings} == {(None, "add_renormalised")}
    assert len(settings) == len(grid(vectors, recipe("caa")))
    strengths = [one.strength for one in settings]
    assert strengths[0] == pytest.approx(0.05) and strengths[-1] == pytest.approx(0.4)
    assert METHODS["icv"].steering.untuned(vectors).strength == 0.1
