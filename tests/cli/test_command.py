"""What flags are read as."""

from __future__ import annotations

import pytest

from grains_eval import cli
from grains_eval.cli.command import integers, model_arguments, numbers, recipe_file
from grains_eval.errors import GrainsError


def test_a_recipe_is_a_file_or_the_name_of_a_bundled_behaviour(tmp_path, monkeypatch):
    own = tmp_path / "recipe.yaml"
    own.write_text("")
    bundled = tmp_path / "tasks" / "honest" / "recipe.yaml"
    bundled.parent.mkdir(parents=True)
    bundled.write_text("")
    monkeypatch.setattr("grains_eval.cli.command.task_directory", lambda: tmp_path / "tasks")
    assert recipe_file(str(own)) == own
    assert recipe_file("honest") == recipe_file("tasks/honest/recipe.yaml") == bundled
    other = bundled.with_name("recipe_strict.yaml")
    other.write_text("")
    assert recipe_file("honest/recipe_strict") == recipe_file("tasks/honest/recipe_strict.yaml") == other
    with pytest.raises(GrainsError, match="did you mean 'honest'"):
        recipe_file("honets")


def test_flags_win_over_the_recipes_model_arguments():
    words = [
        "build",
        "--config",
        "c",
        "-o",
        "o",
        "-a",
        "pretrained=new,dtype=float32",
        "revision=v2",
        "--device",
        "cpu",
    ]
    merged = model_arguments(cli.parser().parse_args(words), {"pretrained": "old", "device": "cuda", "trust": True})
    assert merged == {
        "pretrained": "new",
        "dtype": "float32",
        "revision": "v2",
        "device": "cpu",
        "trust": True,
    }


def test_lists():
    assert integers("8, 16,") == [8, 16]
    assert numbers("0.5,1") == [0.5, 1.0]


def test_a_misspelt_flag_is_named_with_its_correction(capsys: pytest.CaptureFixture[str]) -> None:
    from grains_eval.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["build", "--confg", "recipe.yaml", "--output_path", "x"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --confg; did you mean --config?" in capsys.readouterr().err
