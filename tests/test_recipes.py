"""Recipes: validated, overridden and identified."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grains_eval.errors import GrainsError, told
from grains_eval.plain_values import not_json, read_yaml
from grains_eval.recipes import Recipe, load_recipe, parse_recipe
from grains_eval.tasks_path import task_directory
from tests.properties import TEXTS, cases, json_values

MINIMAL = {"name": "x", "data": {"task": "t"}}
# parts of YAML that its reader, or what it makes of them, could stumble over
PIECES = (
    "seed: ", "attribution: ", "{", "}", "[", "]", "&a ", "*a", "!!bool ", "!!int ", "!!timestamp ", "!!binary ",
    "!!set ", "!!omap ", "!!python/object:os.system ", "? ", ": ", "- ", "\n", "  ", "2020-13-45", ".nan", "0x", "1_0",
    "~", "x", "'", '"', "|", "%YAML 9", "---", "\x00", "\ud800", "<<: ",
)  # fmt: skip


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


SECTIONS = ("data", "attribution", "vectors", "steering", "evaluation", "prompting")


def _known_keys():
    """Every key of a recipe, as a path."""
    found = [(name,) for name in Recipe.model_fields]
    for section in SECTIONS:
        kind = Recipe.model_fields[section].annotation
        kind = next(one for one in (*getattr(kind, "__args__", ()), kind) if hasattr(one, "model_fields"))
        found += [(section, name) for name in kind.model_fields]
    return found


PATHS = st.sampled_from(_known_keys()) | st.tuples(st.sampled_from(SECTIONS), TEXTS) | st.tuples(TEXTS)
# what YAML has besides
ODD = st.sampled_from([date(2020, 1, 1), b"\xff", {1, 2}, {(1, 2): 3}, {1: 2, "a": 3}, {None: 1}])


@cases(300)
@given(st.lists(st.tuples(PATHS, json_values() | ODD), min_size=1, max_size=3))
def test_any_keys_and_values_are_a_recipe_or_refused_in_a_line_that_names_the_key(changes):
    raw = {"name": "x", "data": {"task": "t"}}
    for path, value in changes:
        inner = raw
        for key in path[:-1]:
            inner = inner[key] if isinstance(inner.get(key), dict) else inner.setdefault(key, {}) or {}
        if isinstance(inner, dict):
            inner[path[-1]] = value
    try:
        recipe = parse_recipe(raw)
    except GrainsError as error:
        said = str(error)
        assert said.isprintable() and len(said) < 2000
        assert any(told(path[0]) in said for path, _ in changes), said
        return
    assert not_json(recipe.model_dump()) == ""
    again = parse_recipe(read_yaml(recipe.to_yaml()))
    assert again == recipe and again.fingerprint() == recipe.fingerprint()


@cases(300)
@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_any_text_is_a_recipe_or_refused_in_one_line(text):
    with TemporaryDirectory() as home:
        file = Path(home) / "recipe.yaml"
        file.write_bytes(f"name: x\ndata: {{task: t}}\n{text}".encode("utf-8", "surrogatepass"))
        try:
            recipe = load_recipe(file)
        except GrainsError as error:
            assert str(error).isprintable() and str(error).count(str(file)) == 1
            return
        assert parse_recipe(read_yaml(recipe.to_yaml())).model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 2020-13-45", "is not valid YAML: month must be in"),
        ("seed: !!bool x", "is not of the kind that its tag"),
        ("seed: !!int ''", "is not of the kind that its tag"),
        ("seed: !!timestamp x", "is not of the kind that its tag"),
        ("seed: " + "9" * 5000, "is not valid YAML: Exceeds the limit"),
        ("seed: " + "[" * 5000, "is not valid YAML: maximum recursion depth"),
        ("vectors: {options: {from: 2020-01-01}}", r"vectors\.options\.from: Object of type date .*in quotes is text"),
        ("vectors: {options: {rate: .nan}}", r"vectors\.options\.rate: Out of range float"),
        ("vectors: {options: {set: !!set {a}}}", r"vectors\.options\.set: Object of type set"),
        ("vectors: {options: &all {all: *all}}", r"vectors\.options\.all.*: Circular reference"),
        ('vectors: {options: {text: "\\ud800"}}', r"vectors\.options\.text: 'utf-8' codec can't encode"),
        ("data: {metadata: {b: !!binary //4=}}", r"data\.metadata\.b: Object of type bytes"),
    ],
)
def test_values_that_no_artifact_could_hold_are_refused(text, says, tmp_path):
    source = "name: x\n" + ("" if text.startswith("data") else "data: {task: t}\n") + text
    (tmp_path / "r.yaml").write_text(source.replace("data: {metadata", "data: {task: t, metadata"))
    with pytest.raises(GrainsError, match=says) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_numbers_as_keys_stay_numbers():
    recipe = parse_recipe({**MINIMAL, "model_args": {"max_memory": {0: "10GiB"}}})
    assert read_yaml(recipe.to_yaml())["model_args"] == {"max_memory": {0: "10GiB"}}
    assert recipe.variant("a", {"attribution": {"top_k": 2}}).model_args == {"max_memory": {0: "10GiB"}}
