"""Recipes: validated, overridden and identified."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.recipes import load_recipe, parse_recipe
from grains_eval.tasks_path import task_directory

MINIMAL = {"name": "x", "data": {"task": "t"}}


def test_defaults_are_those_of_the_method():
    recipe = parse_recipe(MINIMAL)
    assert (recipe.attribution.method, recipe.attribution.steps, recipe.attribution.baseline) == (
        "integrated_gradients",
        20,
        "pad",
    )
    assert (recipe.vectors.direction, recipe.vectors.at, recipe.data.examples) == ("mean", "prompt", 50)
    assert (recipe.steering.unit, recipe.steering.operator, recipe.steering.layers) == (
        "relative",
        "add_renormalised",
        "auto",
    )


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["attribution.topk=3"], r"unknown key in recipe 'attribution.topk': did you mean 'attribution.top_k'"),
        (["nam=3"], "did you mean 'name'"),
        (["attribution.top_k=0"], "attribution.top_k: Input should be greater than or equal to 1"),
        (["attribution.top_k=some"], "attribution.top_k"),
        (["steering.strength=strong"], "steering.strength"),
        (["steering.strength=.nan"], "steering.strength: .*finite number"),
        (["steering.strengths=[1, .inf]"], "steering.strengths.*finite number"),
        (["steering.unit=meters"], "steering.unit"),
        (["steering.layers=first"], r"steering.layers: Input should be 'auto'; or .*'all'; or .*a valid list$"),
        (["evaluation.groups=random"], "evaluation.groups: Input should be 'fixed' or 'sampled'"),
        (["data.path=file.jsonl"], "exactly one of 'task' and 'path'"),
        (["nonsense"], "has no '='"),
        (["name.inner=3"], "'name' is a value, not a section"),
    ],
)
def test_mistakes_are_one_line_that_helps(overrides, says):
    with pytest.raises(GrainsError, match=says) as caught:
        parse_recipe(MINIMAL, overrides)
    assert "\n" not in str(caught.value)


def test_overrides_go_through_yaml_and_leave_the_original_alone():
    raw = {"name": "x", "data": {"task": "t"}, "attribution": {"top_k": 5}}
    recipe = parse_recipe(raw, ["attribution.top_k=7", "steering.layers=[3, 4]", "evaluation.tasks=[a, b]"])
    assert (recipe.attribution.top_k, recipe.steering.layers, recipe.evaluation.tasks) == (7, [3, 4], ["a", "b"])
    assert raw["attribution"] == {"top_k": 5}


def test_the_fingerprint_sees_every_key():
    one = parse_recipe(MINIMAL)
    assert one.fingerprint() == parse_recipe(MINIMAL, ["attribution.steps=20"]).fingerprint()
    assert one.fingerprint() != parse_recipe(MINIMAL, ["attribution.steps=21"]).fingerprint()
    assert one.fingerprint() != parse_recipe(MINIMAL, ["attribution.fidelity_examples=0"]).fingerprint()


def test_the_recipe_as_run_reads_back(tmp_path):
    recipe = parse_recipe(MINIMAL, ["steering.strengths=[0.1, 0.2]"])
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "r.yaml").to_yaml() == recipe.to_yaml()


def test_a_variant_changes_only_what_it_names():
    recipe = parse_recipe({**MINIMAL, "attribution": {"steps": 30}, "methods": {"a": {"attribution": {"top_k": 2}}}})
    variant = recipe.variant("a", recipe.methods["a"])
    assert (variant.attribution.top_k, variant.attribution.steps, variant.methods) == (2, 30, {})
    with pytest.raises(GrainsError, match=r"variant 'b' of x.*did you mean 'attribution.top_k'"):
        recipe.variant("b", {"attribution": {"topk": 2}})


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(GrainsError, match="is not a file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(GrainsError, match="is not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(GrainsError, match="is not a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_a_data_file_is_looked_for_beside_the_recipe(tmp_path):
    (tmp_path / "d.jsonl").write_text("{}\n")
    (tmp_path / "r.yaml").write_text("name: x\ndata: {path: d.jsonl}\n")
    assert load_recipe(tmp_path / "r.yaml").data.path == str(tmp_path / "d.jsonl")


@pytest.mark.parametrize("file", sorted(task_directory().glob("**/recipe*.yaml")), ids=lambda f: f.parent.name)
def test_every_bundled_recipe_is_valid(file):
    assert load_recipe(file).evaluation.tasks


def test_one_block_needs_no_list():
    assert parse_recipe(MINIMAL, ["steering.layers=14"]).steering.layers == [14]
    with pytest.raises(GrainsError, match=r"steering\.layers"):
        parse_recipe(MINIMAL, ["steering.layers=true"])
