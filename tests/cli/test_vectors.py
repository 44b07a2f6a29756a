"""`grains-eval build` and `show`: what their flags become."""

from pathlib import Path

from grains_eval import cli


def test_show_hands_its_flags_on(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "grains_eval.report.show.show_folder", lambda folder, console, **choices: seen.update(choices, folder=folder)
    )
    assert cli.main(["show", "some/folder", "--examples", "5", "--html", "maps.html"]) == 0
    assert seen == {"folder": "some/folder", "examples": 5, "html": Path("maps.html")}


def test_build_starts_from_the_recipe_and_shows_what_it_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\ndata: {task: arc_easy}\nmodel_args: {dtype: float32}\n")
    built, shown = [], []
    monkeypatch.setattr("grains_eval.study.build.build_from_recipe", lambda *inputs: built.append(inputs))
    monkeypatch.setattr("grains_eval.report.show.show_folder", lambda folder, console: shown.append(folder))
    words = ["build", "--config", "recipe.yaml", "-a", "pretrained=m", "--set", "seed=3", "-o", "out", "--overwrite"]
    assert cli.main(words) == 0
    ((recipe, session, output),) = built
    assert recipe.seed == 3 and session.model_args == {"dtype": "float32", "pretrained": "m"}
    assert (output.path, output.overwrite) == (Path("out"), True) and shown == [Path("out")]
