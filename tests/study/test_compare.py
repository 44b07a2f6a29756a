"""Comparisons, ablations and sweeps on a bundled demo model, small enough for every run of the suite."""

from __future__ import annotations

import json
import shutil

import pytest

from grains_eval.comparison import Analysis, Question
from grains_eval.comparison.logs import read_run
from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from grains_eval.recipes import Evaluation
from grains_eval.report import compare_runs
from grains_eval.study import compare as compare_module
from grains_eval.study import runs as runs_module
from grains_eval.tasks_path import task_directory
from tests.comparison import boards
from tests.study.studies import compare, demo_recipe


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    output = tmp_path_factory.mktemp("compare") / "out"
    broken = demo_recipe("methods={lora_broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    report = compare(broken, demo_model_args("text_split"), output, methods=["grains", "caa", "lora_broken"])
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
    same = demo_recipe("data.split=test", "data.development_split=validation")
    report = compare(same, demo_model_args("text_split"), tmp_path / "out", methods=["grains"])
    rows = [row.comparison for row in report.rows if row.comparison.task == "demo_text_split"]
    assert all(row.excluded > 0 for row in rows)
    assert all(row.n + row.excluded == 60 for row in rows)


def test_a_comparison_goes_on_where_it_stopped_and_does_not_overwrite(compared, monkeypatch):
    output, first = compared
    arguments = demo_model_args("text_split")
    broken = demo_recipe("methods={lora_broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    with pytest.raises(GrainsError, match=r"report\.html' exists"):
        compare(broken, arguments, output, methods=["grains", "caa", "lora_broken"])
    for name in ("report.html", "report.md", "report.json", "comparisons.csv"):
        (output / name).unlink()
    monkeypatch.setattr(runs_module, "evaluate_settings", lambda *a, **k: pytest.fail("nothing needs evaluating again"))
    again = compare(broken, arguments, output, methods=["grains", "caa", "lora_broken"])
    assert [row.comparison for row in again.rows] == [row.comparison for row in first.rows]


@pytest.mark.slow
def test_methods_that_are_no_vector_are_evaluated_too(tmp_path):
    told = demo_recipe("evaluation.limit=24", "vectors.options={}", "data.examples=8")
    told = told.model_copy(update={"methods": {"lora": {"vectors": {"method": "lora", "options": {"epochs": 1}}}}})
    report = compare(told, demo_model_args("text_split"), tmp_path / "out", methods=["prompt", "lora"])
    assert not report.failures
    rows = {row.comparison.method: row.comparison for row in report.rows if row.comparison.task == "demo_text_split"}
    assert rows["prompt"].difference > 0.3  # the instruction is a cue that the model was trained to follow
    assert read_run(tmp_path / "out" / "runs" / "prompt").instructed


@pytest.mark.parametrize("groups", ["fixed", "sampled"])
def test_what_a_group_speaks_of_is_the_recipes_to_say(groups, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(compare_module, "run_all", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(compare_module, "compare_runs", lambda *_, **said: asked.update(said))
    told = demo_recipe(f"evaluation.groups={groups}", "evaluation.control_draws=0", "data.examples=8")
    compare(told, demo_model_args("text_split"), tmp_path / "out", methods=["vocabulary"])
    assert asked["analysis"].groups == groups


def test_metadata_reaches_the_tasks_that_build_and_that_are_evaluated(tmp_path):
    items = tmp_path / "items"
    shutil.copytree(task_directory() / "demo" / "text_split" / "data", items)
    for file in items.iterdir():
        file.write_text(file.read_text().replace("question :", "question of another world :"))
    other = demo_recipe(f"data.metadata.items={items}", "evaluation.limit=4", "evaluation.control_draws=0")
    report = compare(other, demo_model_args("text_split"), tmp_path / "out", methods=["vocabulary"])
    assert not report.failures
    (samples,) = (tmp_path / "out" / "runs" / "vocabulary").rglob("samples_demo_text_split_2*.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(logged) == 4
    assert all("another world" in sample["doc"]["prompt"] for sample in logged)
    examples = load_examples(other.data)
    assert all("another world" in one.prompt for one in (*examples.build, *examples.development))


def test_a_finished_comparison_takes_one_more_method_when_asked(compared, monkeypatch):
    output, _ = compared
    arguments = demo_model_args("text_split")
    named = demo_recipe("methods={more: {attribution: {top_k: 1}}}")
    before = {file: file.stat().st_mtime_ns for file in output.glob("*/grains/*")}
    with pytest.raises(GrainsError, match="exists; pass --resume to go on with it"):
        compare(named, arguments, output, methods=["more"])
    report = compare(named, arguments, output, methods=["grains", "more"], resume=True)
    assert {"grains", "more"} <= set(report.methods)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_another_recipe_is_refused_before_anything_is_written(compared):
    output, _ = compared
    written = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    other = demo_recipe("attribution.top_k=1")
    with pytest.raises(GrainsError, match="another recipe's, model's or data's vectors"):
        compare(other, demo_model_args("text_split"), output, methods=["grains", "caa"], resume=True)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()} == written


def test_no_report_is_written_where_no_method_could_be_built(tmp_path):
    broken = demo_recipe("methods={broken: {vectors: {method: lora, options: {epochz: 3}}}}")
    with pytest.raises(GrainsError, match=r"no method could be built; broken: .*epochz"):
        compare(broken, demo_model_args("text_split"), tmp_path / "out", methods=["broken"])
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_leaderboard_among_a_recipes_tasks_gets_its_rows_beside_those_of_the_other_tasks(tmp_path):
    runs = [
        boards.write_2(tmp_path / name, {**boards.version_2(seed), "t": boards.version_1(seed)["winogrande"]})
        for seed, name in enumerate(("baseline", "steered"))
    ]
    evaluation = Evaluation(tasks=["t"], preserve=["leaderboard"])
    analysis = compare_module._analysis(Analysis(), evaluation, {"baseline": runs[0]})
    question = Question(evaluation.tasks, evaluation.preserve)
    report = compare_runs(runs, analysis=analysis, question=question, keep_going=True)
    assert report.targets == (("t", "acc"),)
    assert {verdict.task for verdict in report.verdicts} >= {"leaderboard", "leaderboard_bbh", "leaderboard_ifeval"}
    assert compare_module._analysis(Analysis(), Evaluation(tasks=["t"], preserve=["mmlu"]), {}).leaderboard is None
