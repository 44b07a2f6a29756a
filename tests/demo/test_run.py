"""The demo's worlds, methods and recipes belong together."""

from __future__ import annotations

import pytest

from grains_eval.demo import model_path
from grains_eval.demo.run import WORLDS, run_demo
from grains_eval.errors import GrainsError
from grains_eval.files import write_file
from grains_eval.recipes import load_recipe
from grains_eval.study.methods import method_recipe
from grains_eval.study.session import OutputFolder
from grains_eval.tasks_path import task_directory


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_every_world_has_weights_and_every_method_a_recipe(world):
    assert (model_path(world) / "model.safetensors").is_file()
    recipe = load_recipe(task_directory() / "demo" / world / "recipe.yaml")
    for method in WORLDS[world]:
        assert method_recipe(recipe, method).vectors.method == "grains"


def test_an_unknown_world_is_refused(tmp_path):
    with pytest.raises(GrainsError, match="unknown demo world 'text_splt': did you mean 'text_split'"):
        run_demo(OutputFolder(tmp_path / "out"), worlds=["text_splt"])


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}])
def test_what_may_happen_to_folders_that_are_there_is_passed_on(flags, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("grains_eval.demo.run.compare_methods", lambda recipe, session, place, **_: seen.append(place))
    run_demo(OutputFolder(tmp_path, **flags), worlds=["image"])
    assert seen == [OutputFolder(tmp_path / "image", **flags)]


def test_an_interrupted_demo_goes_on_and_a_finished_one_is_not_begun_again(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("grains_eval.demo.run.compare_methods", lambda recipe, session, place, **_: seen.append(place))
    for name in ("report.html", "report.md", "report.json", "comparisons.csv"):
        write_file(tmp_path / "image" / name, "1")
    run_demo(OutputFolder(tmp_path), worlds=["image", "text_split"])
    assert [place.resume for place in seen] == [True, True]
    run_demo(OutputFolder(tmp_path), worlds=["image"])
    assert not seen[-1].resume
