"""Comparisons, ablations and sweeps on a bundled demo model, small enough for every run of the suite."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

from grains_eval.comparison.runs import read_run
from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from grains_eval.recipes import load_recipe
from grains_eval.study import ablate as ablate_room
from grains_eval.study import build as build_room
from grains_eval.study import compare as compare_room
from grains_eval.study import controls as controls_room
from grains_eval.study import runs as runs_room
from grains_eval.study.ablate import ablate, parse_grid
from grains_eval.study.compare import SCORES, compare_methods
from grains_eval.study.controls import moves
from grains_eval.study.methods import default_methods, method_recipe
from grains_eval.study.sweep import sweep
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.report.test_write import disk_full_at

SMALL = ["data.examples=24", "data.development=8", "evaluation.control_draws=2", "evaluation.limit=60"]


def recipe(*overrides):
    return load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    output = tmp_path_factory.mktemp("compare") / "out"
    broken = recipe("methods={lora_broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    report = compare_methods(broken, demo_model_args("text_split"), output, methods=["grains", "caa", "lora_broken"])
    return output, report


def test_methods_and_controls_stand_in_one_table(compared):
    output, report = compared
    methods = {row.comparison.method for row in report.rows}
    assert {"grains", "caa", "vocabulary", "grains_negated", "random_1", "random_tokens_raw_2"} <= methods
    assert set(report.bands[0].members) == {"random_1", "random_2"}
    assert set(report.methods) == {"grains", "caa"}, "the others were made as controls, and say so"
    assert {item.control for item in report.against_controls} <= report.controls - {"grains_without_vocabulary"}
    assert report.targets == (("demo_text_split", "acc"),)
    assert {verdict.task for verdict in report.verdicts} == {"demo_text_split_skills"}
    by_name = {row.comparison.method: row.comparison for row in report.rows if row.comparison.task == "demo_text_split"}
    assert by_name["grains"].difference > 0.3
    assert by_name["grains_negated"].difference < 0
    assert {file.name for file in output.iterdir()} >= {
        "report.html",
        "report.md",
        "report.json",
        "comparisons.csv",
        "vectors",
        "runs",
    }
    assert report.token_maps
    assert report.settings["grains"] == report.settings["random vectors beside grains, 2 draws"] == "3: 1"
    assert report.settings["caa"] == report.settings["random vectors beside caa, 2 draws"] != "3: 1"
    own = {item.method: item.control for item in report.against_controls}
    assert own["grains"] not in {name for name in report.controls if name.endswith("_beside_caa")} | {"caa_negated"}
    assert "| grains | 3: 1 |" in (output / "report.md").read_text()


def test_controls_stand_beside_a_method_that_moves_something(tmp_path):
    still, moving = ({"steering": {"layers": [2], "strength": strength}} for strength in (0.0, 2.0))
    small = recipe("evaluation.limit=6", "evaluation.control_draws=1", "data.examples=8")
    small = small.model_copy(update={"methods": {"still": still, "moving": moving}})
    arguments = demo_model_args("text_split")
    report = compare_methods(small, arguments, tmp_path / "out", methods=["still", "moving"])
    controls = {name: text for name, text in report.settings.items() if name in report.controls - {"vocabulary"}}
    assert {"moving_negated", "random_1", "random_tokens_1"} <= set(controls)
    assert {text.partition(":")[0] for text in controls.values()} == {"2"} and "2: 0" not in controls.values()
    assert report.settings["random vectors, 1 draw"] == "2: 2"
    (note,) = [note for note in report.notes if "stand beside" in note]
    assert "beside moving, at its setting; still moves nothing" in note
    alone = compare_methods(small, arguments, tmp_path / "alone", methods=["still"])
    assert "no controls: still moves nothing" in alone.notes
    assert alone.controls == {"vocabulary"} and not alone.bands


def test_every_setting_has_controls_of_its_own_made_once(tmp_path, monkeypatch):
    weak, strong = ({"steering": {"layers": [2], "strength": strength}} for strength in (1.0, 4.0))
    other = {**strong, "vectors": {"direction": "mean"}}
    small = recipe("evaluation.limit=12", "evaluation.control_draws=2", "data.examples=8")
    small = small.model_copy(update={"methods": {"weak": weak, "strong": strong, "other": other}})
    real, drawn = controls_room.random_tokens, []
    monkeypatch.setattr(controls_room, "random_tokens", lambda context: drawn.append(1) or real(context))

    def without(vectors, words):  # what is left of one of them is nothing
        left = controls_room.replace(vectors, directions={k: 0 * v for k, v in vectors.directions.items()})
        return left if vectors.recommended.strength == 4.0 else vectors

    monkeypatch.setattr(controls_room, "project_out", without)
    output = tmp_path / "out"
    report = compare_methods(small, demo_model_args("text_split"), output, methods=["weak", "strong", "other"])
    assert set(report.methods) == {"weak", "strong", "other"}
    drawn_names = ("random_1", "random_2", "random_tokens_1", "random_tokens_2")
    places = {name: report.settings[name] for name in report.controls - {"vocabulary"} if "raw" not in name}
    assert places == {
        **dict.fromkeys(("weak_negated", "weak_without_vocabulary", *drawn_names), "2: 1"),
        **dict.fromkeys(("strong_negated", *(f"{name}_beside_strong" for name in drawn_names)), "2: 4"),
    }
    assert report.settings["random vectors beside weak, 2 draws"] == "2: 1"
    assert report.settings["random vectors beside strong, 2 draws"] == "2: 4"
    assert "random tokens, raw scale beside strong, 2 draws" in report.settings
    assert len(drawn) == 2, "strengths differ, the tokens do not"
    assert (
        "random, negated and projected controls stand beside weak, at its setting; "
        "beside strong, at its setting, which other shares"
    ) in report.notes
    assert "strong_without_vocabulary: left out, since it moves nothing" in report.notes
    assert not (output / "runs" / "strong_without_vocabulary").exists()
    assert "| random_1_beside_strong | 2: 4 |" in (output / "report.md").read_text()


def test_a_control_beside_a_control_would_say_nothing(tmp_path):
    small = recipe("evaluation.limit=6", "evaluation.control_draws=1", "data.examples=8")
    report = compare_methods(small, demo_model_args("text_split"), tmp_path / "out", methods=["random", "grains"])
    assert {name for name in report.controls if "random" in name} >= {"random", "random_1"}
    assert "random_negated" not in report.controls
    assert "beside grains, at its setting" in " ".join(report.notes)


def test_a_setting_is_where_how_and_how_far():
    vectors = SteeringVectors({1: torch.ones(4), 2: torch.ones(4)}, {1: 1.0, 2: 1.0})

    def of(directions=1.0, **changes):
        scaled = {layer: directions * v for layer, v in vectors.directions.items()}
        config = replace(SteeringConfig((1,), 2.0), **changes)
        return controls_room.setting(replace(vectors, directions=scaled, recommended=config))

    same = of()
    assert of(directions=3.0) == same, "relative strengths do not multiply the directions' length"
    assert of(layers=None) == of(layers=(1, 2)) != same
    changed = [of(strength=1.0), of(positions="last"), of(operator="add"), of(unit="absolute")]
    assert len({same, *changed, of(unit="absolute", directions=3.0)}) == 6


def test_a_control_that_moves_nothing_is_left_out():
    vectors = SteeringVectors({1: torch.ones(4)}, {1: 1.0}, recommended=SteeringConfig((1,), 1.0))
    assert moves(vectors)
    assert not moves(replace(vectors, recommended=SteeringConfig((1,), 0.0)))
    assert not moves(replace(vectors, directions={1: torch.zeros(4)}))


def test_a_method_that_fails_is_a_row_that_says_so(compared):
    output, report = compared
    assert "epochz" in report.failures["lora_broken"]
    assert "lora_broken" in (output / "report.md").read_text()


def test_runs_are_ordinary_results_folders_that_say_what_steered_them(compared):
    output, _ = compared
    run = read_run(output / "runs" / "grains")
    (steering,) = run.results["config"]["steering"]
    assert (steering["method"], steering["layers"], steering["strength"]) == ("grains", [3], 1.0)
    assert len(run.samples("demo_text_split")["none"]) == 60
    assert run.results["config"]["model"] == "grains_hf"
    assert read_run(output / "runs" / "baseline").results["config"]["steering"] == []


def test_documents_that_built_a_vector_are_left_out(compared, tmp_path):
    same = recipe("data.split=test", "data.development_split=validation")
    report = compare_methods(same, demo_model_args("text_split"), tmp_path / "out", methods=["grains"])
    rows = [row.comparison for row in report.rows if row.comparison.task == "demo_text_split"]
    assert all(row.excluded > 0 for row in rows)
    assert all(row.n + row.excluded == 60 for row in rows)


def test_a_comparison_goes_on_where_it_stopped_and_does_not_overwrite(compared, monkeypatch):
    output, first = compared
    arguments = demo_model_args("text_split")
    broken = recipe("methods={lora_broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    with pytest.raises(GrainsError, match=r"report\.html' exists"):
        compare_methods(broken, arguments, output, methods=["grains", "caa", "lora_broken"])
    for name in ("report.html", "report.md", "report.json", "comparisons.csv"):
        (output / name).unlink()
    monkeypatch.setattr(runs_room, "evaluate_settings", lambda *a, **k: pytest.fail("nothing needs evaluating again"))
    again = compare_methods(broken, arguments, output, methods=["grains", "caa", "lora_broken"])
    assert [row.comparison for row in again.rows] == [row.comparison for row in first.rows]


def test_the_default_methods_and_unknown_ones():
    named = recipe("methods={fine: {attribution: {top_k: 1}}}", "prompting=null")
    assert default_methods(named) == ["grains", "fine", "caa", "icv", "iti", "nl_iti", "lora"]
    assert "prompt" in default_methods(recipe("prompting={instruction: be right}"))
    assert method_recipe(named, "fine").attribution.top_k == 1
    with pytest.raises(GrainsError, match="unknown method 'cca': did you mean 'caa'"):
        method_recipe(named, "cca")


def test_a_grid_is_a_product_of_variants():
    grid = parse_grid(["attribution.top_k=1,2", "steering.layers=[2],[3]"], recipe())
    assert list(grid) == ["top_k=1__layers=2", "top_k=1__layers=3", "top_k=2__layers=2", "top_k=2__layers=3"]
    assert grid["top_k=2__layers=3"].steering.layers == [3]
    for wrong, says in (
        ("top_k=1", "write section.key"),
        ("attribution.topk=1", "did you mean"),
        ("attribution.top_k=", "write section.key"),
    ):
        with pytest.raises(GrainsError, match=says):
            parse_grid([wrong], recipe())


def test_an_ablation_reports_every_point_with_its_faithfulness(tmp_path, monkeypatch):
    attributed, loads = Counter(), []

    def counted(loaded, encoded, config, seed, _attribute=build_room.attribute):
        attributed[encoded.example.id, config.method] += 1
        return _attribute(loaded, encoded, config, seed)

    def load(arguments, _load=runs_room.load_lm):
        loads.append(arguments)
        return _load(arguments)

    monkeypatch.setattr(build_room, "attribute", counted)
    for room in (ablate_room, compare_room):
        monkeypatch.setattr(room, "load_lm", load)
    report = ablate(
        recipe("evaluation.control_draws=1"),
        demo_model_args("text_split"),
        tmp_path / "out",
        grid=["attribution.method=integrated_gradients,random", "steering.strength=1.0", "attribution.top_k=1,2"],
    )
    assert len(loads) == 1
    assert len(attributed) == 2 * 24 and set(attributed.values()) == {1}, "curves and builds share the scores"
    assert not (tmp_path / "out" / SCORES).exists()
    methods = {row.comparison.method for row in report.rows}
    assert {f"method={m}__strength=1.0__top_k={k}" for m in ("integrated_gradients", "random") for k in "12"} <= methods
    assert not report.failures
    faithful, blind = (curve for curve in report.curves if "removed" in curve.title)
    lines = {series.name: series.y for series in faithful.series}
    assert [values[0] for values in lines.values()] == [0.0, 0.0, 0.0], "nothing is removed at 0"
    assert lines["top positive"][1] < lines["random"][1] < lines["top negative"][1]
    assert abs(sum({s.name: s.y for s in blind.series}["top positive"])) < abs(sum(lines["top positive"]))


def test_a_sweep_measures_development_items_and_chooses(tmp_path):
    result = sweep(
        recipe(), demo_model_args("text_split"), tmp_path / "out", layers=[2, 3], strengths=[0.5, 1.0], top_k=[1, 2]
    )
    assert set(result.choices) == {"top_k=1, examples=24", "top_k=2, examples=24"}
    choice = result.choices[result.best]
    assert len(choice.points) == 5
    assert choice.points[0].config.strength == 0
    summary = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert summary["chosen"]["layers"] == list(choice.config.layers)
    assert {"sweep.json", "sweep.csv", "sweep.html"} <= {file.name for file in (tmp_path / "out").iterdir()}
    with pytest.raises(GrainsError, match="exists; choose another --output_path"):
        sweep(recipe(), demo_model_args("text_split"), tmp_path / "out")


@pytest.mark.slow
def test_methods_that_are_no_vector_are_evaluated_too(tmp_path):
    told = recipe("evaluation.limit=24", "vectors.options={}", "data.examples=8")
    told = told.model_copy(update={"methods": {"lora": {"vectors": {"method": "lora", "options": {"epochs": 1}}}}})
    report = compare_methods(told, demo_model_args("text_split"), tmp_path / "out", methods=["prompt", "lora"])
    assert not report.failures
    rows = {row.comparison.method: row.comparison for row in report.rows if row.comparison.task == "demo_text_split"}
    assert rows["prompt"].difference > 0.3  # the instruction is a cue that the model was trained to follow
    assert read_run(tmp_path / "out" / "runs" / "prompt").instructed


@pytest.mark.parametrize("groups", ["fixed", "sampled"])
def test_what_a_group_speaks_of_is_the_recipes_to_say(groups, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(compare_room, "run_all", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(compare_room, "compare_runs", lambda *_, **said: asked.update(said))
    told = recipe(f"evaluation.groups={groups}", "evaluation.control_draws=0", "data.examples=8")
    compare_methods(told, demo_model_args("text_split"), tmp_path / "out", methods=["vocabulary"])
    assert asked["groups"] == groups


def test_metadata_reaches_the_tasks_that_build_and_that_are_evaluated(tmp_path):
    items = tmp_path / "items"
    shutil.copytree(task_directory() / "demo" / "text_split" / "data", items)
    for file in items.iterdir():
        file.write_text(file.read_text().replace("question :", "question of another world :"))
    other = recipe(f"data.metadata.items={items}", "evaluation.limit=4", "evaluation.control_draws=0")
    report = compare_methods(other, demo_model_args("text_split"), tmp_path / "out", methods=["vocabulary"])
    assert not report.failures
    (samples,) = (tmp_path / "out" / "runs" / "vocabulary").rglob("samples_demo_text_split_2*.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(logged) == 4
    assert all("another world" in sample["doc"]["prompt"] for sample in logged)
    examples = load_examples(other.data)
    assert all("another world" in one.prompt for one in (*examples.build, *examples.development))


def test_a_sweep_on_a_full_disk_leaves_no_curves_and_goes_on(tmp_path, monkeypatch):
    def again():
        return sweep(recipe(), demo_model_args("text_split"), tmp_path / "out", layers=[3], strengths=[1.0])

    with monkeypatch.context() as patch:
        disk_full_at(patch, "sweep.csv")
        with pytest.raises(OSError, match="No space left"):
            again()
    assert [file.name for file in (tmp_path / "out").iterdir()] == [SCORES]
    assert again().best
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sweep.json", "sweep.csv", "sweep.html"}


def test_a_finished_comparison_takes_one_more_method_when_asked(compared, monkeypatch):
    output, _ = compared
    arguments = demo_model_args("text_split")
    named = recipe("methods={more: {attribution: {top_k: 1}}}")
    before = {file: file.stat().st_mtime_ns for file in output.glob("*/grains/*")}
    with pytest.raises(GrainsError, match="exists; pass --resume to go on with it"):
        compare_methods(named, arguments, output, methods=["more"])
    report = compare_methods(named, arguments, output, methods=["grains", "more"], resume=True)
    assert {"grains", "more"} <= set(report.methods)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_another_recipe_is_refused_before_anything_is_written(compared):
    output, _ = compared
    written = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    other = recipe("attribution.top_k=1")
    with pytest.raises(GrainsError, match="another recipe's, model's or data's vectors"):
        compare_methods(other, demo_model_args("text_split"), output, methods=["grains", "caa"], resume=True)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()} == written


def test_no_report_is_written_where_no_method_could_be_built(tmp_path):
    broken = recipe("methods={broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    with pytest.raises(GrainsError, match=r"no method could be built; broken: .*epochz"):
        compare_methods(broken, demo_model_args("text_split"), tmp_path / "out", methods=["broken"])
    assert not (tmp_path / "out" / "report.html").exists()
