"""Found tokens from recipe to report, on a bundled demo model."""

from __future__ import annotations

import json

import pytest

from benchmarks.worlds.text_words import CUES
from grains_eval.artifacts.load import open_artifact
from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.recipes import load_recipe
from grains_eval.report.show import show_folder
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.sweep import SweepGrid, sweep
from grains_eval.tasks_path import task_directory
from tests.study.studies import build, compare

SMALL = ["data.examples=24", "data.development=8", "evaluation.control_draws=1", "evaluation.limit=48"]
QUICK = ["attribution.steps=20", "attribution.max_steps=20", "vectors.method=found_tokens"]


def recipe(*overrides):
    return load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml", [*SMALL, *QUICK, *overrides])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "found"
    return build(recipe(), demo_model_args("text_split"), folder)


def test_the_found_words_are_the_cues_of_their_side(built):
    tokens = open_artifact(built).tokens
    for side, cues in zip(("positive", "negative"), CUES["split"], strict=True):
        origins = getattr(tokens, side).origins
        assert len(origins) <= 12 and len({one.example for one in origins}) == len(origins)
        assert sum(one.word in cues for one in origins) > 0.8 * len(origins)
        assert all(one.statistic > 0 for one in origins)
    evidence = open_artifact(built).provenance["transfer"]["positive"]
    assert evidence["adjusted_p"] < 0.05 and evidence["candidates"] >= len(tokens.positive.origins)


def test_show_prints_the_words(built, capsys):
    from rich.console import Console

    show_folder(built, Console(width=140), examples=1)
    printed = capsys.readouterr().out
    assert "Tokens that favour the preferred response" in printed and "positions" in printed


def test_nothing_to_find_is_said_in_one_line_and_nothing_is_written(tmp_path):
    with pytest.raises(
        GrainsError, match=r"^nothing to find: of .* candidates none moved .* no token is written$"
    ) as caught:
        build(recipe("vectors.options={alpha: 1.0e-30}"), demo_model_args("text_split"), tmp_path / "none")
    assert "\n" not in str(caught.value) and not (tmp_path / "none").exists()


def test_vectors_may_be_selected_by_transfer_too(tmp_path):
    chosen = recipe("vectors.method=grains", "attribution.selection=transfer", "attribution.top_k=1")
    folder = build(chosen, demo_model_args("text_split"), tmp_path / "v")
    assert open_artifact(folder).vectors.statistics[3]["positive.examples"] <= 12


def test_a_sweep_measures_strengths_numbers_and_distances(tmp_path):
    session = Session(demo_model_args("text_split"))
    tried = SweepGrid(strengths=[0.0, 1.1], tokens=[1, 2], distances=[8])
    found = sweep(recipe("data.development=16"), session, OutputFolder(tmp_path), tried)
    assert set(found.choices) == {f"tokens={n}, distance=8, examples=24" for n in (1, 2)}
    rows = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [row["strength"] for row in rows] == [None, 0.0, 1.1] * 2
    assert max(row["accuracy"] for row in rows) > rows[0]["accuracy"]
    with pytest.raises(GrainsError, match="--top_k does not apply to method found_tokens"):
        sweep(recipe(), session, OutputFolder(tmp_path / "b"), SweepGrid(top_k=[1]))
    with pytest.raises(GrainsError, match="--tokens does not apply to method grains"):
        sweep(recipe("vectors.method=grains"), session, OutputFolder(tmp_path / "c"), SweepGrid(tokens=[1]))


@pytest.mark.slow
def test_controls_of_its_own_stand_in_the_table(tmp_path):
    report = compare(recipe(), demo_model_args("text_split"), tmp_path, methods=["found_tokens"])
    rows = {row.comparison.method: row.comparison for row in report.rows if row.comparison.task == "demo_text_split"}
    controls = {"other_side_tokens", "vocabulary_kv", "every_token_control", "blind_tokens_1", "random_kv_1"}
    assert controls | {"own_key_random_value_1", "random_pool_1"} <= set(rows)
    assert controls <= set(report.controls) and "found_tokens" in report.methods
    assert rows["found_tokens"].difference > 0.4 > rows["random_kv_1"].difference
    assert rows["other_side_tokens"].difference < 0
    assert any("CPU seconds" in note for note in report.notes)
