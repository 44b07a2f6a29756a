"""From recipe to folder: resume, refusals, nothing half written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.recipes import load_recipe, parse_recipe
from grains_eval.report.show import show_folder
from grains_eval.study import cache as cache_module
from grains_eval.tasks_path import task_directory
from grains_eval.vectors import METHODS
from tests.study.studies import build

WORDS = ["paris", "rome", "london", "red", "blue", "green", "cat", "dog", "good", "bad", "square", "circle"]


@pytest.fixture
def recipe(tmp_path):
    rows = [
        {"prompt": f"Question what is {word} hello {other} Answer", "chosen": "yes", "rejected": "no"}
        for word in WORDS
        for other in WORDS[:2]
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes):
        raw = {
            "name": "t",
            "data": {"path": str(tmp_path / "d.jsonl"), "examples": 10, "development": 6},
            "attribution": {"top_k": 1, "steps": 4, "max_steps": 4},
            "steering": {"layers": [1], "strength": 0.5},
        }
        return parse_recipe(raw, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])

    return make


def replace_method(monkeypatch, name, function):
    entries = {**METHODS, name: replace(METHODS[name], function=function)}
    monkeypatch.setattr(METHODS, "_entries", entries)


@pytest.fixture
def arguments(tiny_text):
    return {"pretrained": str(tiny_text("llama")), "dtype": "float32", "device": "cpu"}


def test_a_build_writes_everything_and_is_reproducible(recipe, arguments, tmp_path):
    folders = [build(recipe(), arguments, tmp_path / name) for name in ("a", "b")]
    first, second = (load_vectors(folder) for folder in folders)
    assert fingerprint(first) == fingerprint(second)
    assert {file.name for file in folders[0].iterdir()} >= {
        "steering_config.json", "steering_vectors.safetensors", "attributions.parquet", "recipe.yaml", "README.md",
    }  # fmt: skip
    origin = first.provenance
    assert (origin["method"], origin["examples"], origin["recipe_hash"]) == ("grains", 10, recipe().fingerprint())
    assert len(origin["doc_hashes"]["build"]) == 10
    assert len(origin["doc_hashes"]["development"]) == 6
    assert first.recommended.layers == (1,)
    assert first.recommended.strength == 0.5
    assert origin["fidelity"]["text"]["comprehensiveness"]["examples"] == 10
    assert not list(tmp_path.glob("*.partial"))


def test_an_interrupted_build_goes_on_where_it_stopped(recipe, arguments, tmp_path, monkeypatch):
    calls = []
    plain = cache_module.attribute

    def counting(loaded, example, config, seed):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(example.example.id)
        return plain(loaded, example, config, seed)

    monkeypatch.setattr(cache_module, "attribute", counting)
    with pytest.raises(KeyboardInterrupt):
        build(recipe(), arguments, tmp_path / "v")
    assert not (tmp_path / "v").exists()
    monkeypatch.setattr(cache_module, "attribute", lambda *a: (calls.append(a[1].example.id), plain(*a))[1])
    resumed = load_vectors(build(recipe(), arguments, tmp_path / "v"))
    assert len(calls) == len(set(calls)) == 10, "no example is attributed twice"
    monkeypatch.undo()
    whole = load_vectors(build(recipe(), arguments, tmp_path / "w"))
    assert fingerprint(resumed) == fingerprint(whole)


def test_an_unfinished_build_of_another_recipe_is_not_used(recipe, arguments, tmp_path, monkeypatch):
    replace_method(monkeypatch, "grains", lambda context: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(recipe(), arguments, tmp_path / "v")
    stray = tmp_path / "v.partial" / "stray.safetensors"
    stray.write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt):
        build(recipe(), arguments, tmp_path / "v")
    assert stray.exists(), "the same build keeps what it has"
    other = recipe(attribution__steps=5, attribution__max_steps=5)
    with pytest.raises(GrainsError, match="holds an unfinished build of another recipe or model"):
        build(other, arguments, tmp_path / "v")
    assert stray.exists(), "hours of work are not thrown away unasked"
    with pytest.raises(KeyboardInterrupt):
        build(other, arguments, tmp_path / "v", overwrite=True)
    assert not stray.exists()


def test_a_broken_score_file_is_computed_again(recipe, arguments, tmp_path, monkeypatch):
    def attribute_only(context):
        for example in context.examples:
            context.attribute(example, context.recipe.attribution)
        raise KeyboardInterrupt

    replace_method(monkeypatch, "grains", attribute_only)
    with pytest.raises(KeyboardInterrupt):
        build(recipe(), arguments, tmp_path / "v")
    monkeypatch.undo()
    next((tmp_path / "v.partial").glob("*.safetensors")).write_bytes(b"cut off")
    found = load_vectors(build(recipe(), arguments, tmp_path / "v"))
    whole = load_vectors(build(recipe(), arguments, tmp_path / "w"))
    assert fingerprint(found) == fingerprint(whole)


def test_an_existing_folder_is_refused_before_anything_is_loaded(recipe, tmp_path):
    (tmp_path / "v").mkdir()
    with pytest.raises(GrainsError, match="exists; choose another --output_path or pass --overwrite"):
        build(recipe(), {"pretrained": "/nowhere"}, tmp_path / "v")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attribution__method": "integrated"}, "unknown attribution method"),
        ({"attribution__selection": "topk"}, "unknown selection 'topk': did you mean 'top_k'"),
        ({"vectors__method": "grain"}, "unknown method 'grain': did you mean 'grains'"),
        ({"steering__operator": "ad"}, "unknown steering operator"),
        ({"steering__layers": "[99]"}, "layer 99"),
        ({"steering__layers": "auto", "data__development": 0}, "auto but data.development is 0"),
        ({"data__examples": 500}, "asks for 500"),
        (
            {"data__delimiter": "''", "data__prompt": "'{{prompt}} par'", "data__chosen": "'{{''is''}}'"},
            "does not extend the prompt under this tokenizer",
        ),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(recipe, arguments, tmp_path, changes, says):
    with pytest.raises(GrainsError, match=says) as caught:
        build(recipe(**changes), arguments, tmp_path / "out" / "v")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "v").exists()


def test_a_prompt_longer_than_the_context_is_refused(recipe, arguments, tmp_path):
    with pytest.raises(GrainsError, match="tokens but the model takes 8"):
        build(recipe(), {**arguments, "max_length": 8}, tmp_path / "v")


@pytest.mark.parametrize("direction", ["mean", "uncentred_pca", "pca"])
@pytest.mark.parametrize("at", ["prompt", "response"])
def test_every_option_gives_unit_differences_of_finite_directions(recipe, arguments, tmp_path, direction, at):
    built = load_vectors(build(recipe(vectors__direction=direction, vectors__at=at), arguments, tmp_path / "v"))
    for layer, vector in built.directions.items():
        assert torch.isfinite(vector).all()
        assert 0 < float(vector.norm()) <= 2 + 1e-5
        statistics = built.statistics[layer]
        assert 0 <= statistics["positive.explained_variance"] <= 1 + 1e-6
        assert -1 <= statistics["positive.agreement"] <= 1
        if direction == "mean":
            assert statistics["positive.mean_delta_cosine"] == pytest.approx(1.0, abs=1e-5)
        assert statistics["positive.mean_delta_cosine"] >= 0, "the sign is the mean delta's"


@pytest.mark.parametrize(
    ("arguments_changed", "says"),
    [
        ({"dtype": "floaty"}, "dtype=floaty is not a torch dtype"),
        ({"device": "cdua"}, "device=cdua is not a device"),
        pytest.param(
            {"device": "cuda"},
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        ({"pretrained": "/nowhere/model"}, "'/nowhere/model' is not a folder"),
        ({"pretraind": "x"}, "unknown model argument 'pretraind': did you mean 'pretrained'"),
        ({"vectors": "x"}, "unknown model argument 'vectors'"),
    ],
)
def test_mistakes_in_the_model_arguments_are_one_line(recipe, arguments, tmp_path, arguments_changed, says):
    with pytest.raises(GrainsError, match=says):
        build(recipe(), {**arguments, **arguments_changed}, tmp_path / "v")
    assert not list(tmp_path.glob("v*"))


def test_options_that_a_method_does_not_have_are_refused_and_leave_nothing(recipe, arguments, tmp_path):
    for method in ("grains", "random", "vocabulary"):
        with pytest.raises(GrainsError, match=r"unknown key in vectors\.options of"):
            build(recipe(vectors__method=method, vectors__options="{directoin: pca}"), arguments, tmp_path / "v")
    assert not list(tmp_path.glob("v*"))


def test_a_build_from_pictures_keeps_some_and_show_draws_over_them(tmp_path):
    small = ["data.examples=24", "data.development=0", "attribution.steps=2", "attribution.max_steps=2"]
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml", small)
    folder = build(recipe, demo_model_args("image"), tmp_path / "image")
    assert sorted(file.name for file in (folder / "pictures").iterdir()) == [f"{n}-0.png" for n in range(5)]
    show_folder(folder, Console(quiet=True), html=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/png;base64,") == 3
