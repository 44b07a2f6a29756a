"""Folders that lmms-eval wrote with its dummy model, read without it."""

import json
import shutil

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.logs.samples import INSPECT, LMMS

SIZE = 40
RIGHT = {"baseline": "A", "steered": "B"}  # what the dummy says
ANSWERS = ["ABB"[i % 3] for i in range(SIZE)]


@pytest.mark.parametrize("name", ["baseline", "steered"])
def test_items_and_scores_are_those_that_were_logged(name):
    run = read_run(LMMS / name)
    assert (run.name, run.tool, sorted(run.tasks)) == (name, "lmms_eval", ["films", "shapes"])
    wanted = [float(answer == RIGHT[name]) for answer in ANSWERS]
    (shapes,) = run.samples("shapes").values()
    (films,) = run.samples("films").values()
    assert [sample.values["exact_match"] for sample in shapes] == wanted
    assert [sample.values["film_score"] for sample in films] == wanted
    assert shapes[5].prompt == "Which shape is in picture 5?" and shapes[5].responses == [RIGHT[name]]
    assert films[5].doc["film"] == "film 2"


def test_documents_are_told_apart_although_their_hashes_are_all_the_same():
    logged = [json.loads(line) for line in next((LMMS / "baseline").glob("*shapes.jsonl")).open()]
    assert len({row["doc_hash"] for row in logged}) == 1  # lmms-eval 0.7 hashes a document that it has dropped
    assert len({sample.doc_hash for sample in read_run(LMMS / "baseline").samples("shapes")["none"]}) == SIZE


def test_the_comparison_pairs_items_and_knows_clusters():
    rows = {row.task: row for row in compare(LMMS / "baseline", LMMS / "steered")}
    counts = (ANSWERS.count("B"), ANSWERS.count("A"), 0)
    for row in rows.values():
        assert (row.helped, row.harmed, row.unchanged) == counts
        assert row.difference == pytest.approx((counts[0] - counts[1]) / SIZE)
    assert rows["shapes"].clusters is None
    assert rows["films"].clusters == SIZE // 2  # its cluster_key


def test_a_shuffled_samples_file_changes_nothing(tmp_path):
    shutil.copytree(LMMS / "steered", tmp_path / "steered")
    file = next((tmp_path / "steered").glob("*shapes.jsonl"))
    file.write_text("".join(sorted(file.open(), reverse=True)))
    before, after = (compare(LMMS / "baseline", run) for run in (LMMS / "steered", tmp_path / "steered"))
    assert [(row.difference, row.p) for row in before] == [(row.difference, row.p) for row in after]


def test_missing_samples_and_other_tools_are_refused(tmp_path):
    shutil.copytree(LMMS / "steered", tmp_path / "steered")
    file = next((tmp_path / "steered").glob("*shapes.jsonl"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:30]))
    with pytest.raises(GrainsError, match="30 of 40 samples are in"):
        compare(LMMS / "baseline", tmp_path / "steered")
    file.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(GrainsError, match="holds document 0 more than once"):
        compare(LMMS / "baseline", tmp_path / "steered")
    file.unlink()
    with pytest.raises(GrainsError, match="run lmms_eval again with --log_samples"):
        compare(LMMS / "baseline", tmp_path / "steered")
    with pytest.raises(GrainsError, match="'baseline' is a run of lmms_eval and 'steered' one of inspect_ai"):
        compare_runs([LMMS / "baseline", INSPECT / "steered"])
    shutil.copytree(LMMS / "steered", tmp_path / "both")
    shutil.copytree(INSPECT / "steered", tmp_path / "both", dirs_exist_ok=True)
    with pytest.raises(GrainsError, match="holds runs of inspect_ai and lmms_eval"):
        read_run(tmp_path / "both")


def test_a_task_whose_name_is_a_path_opens_no_file_elsewhere(tmp_path):
    shutil.copytree(LMMS / "steered", tmp_path / "run")
    (results,) = (tmp_path / "run").glob("*_results.json")
    stamp = results.name.removesuffix("_results.json")
    (tmp_path / "run" / f"{stamp}_samples_x").mkdir()
    (tmp_path / "run" / f"{stamp}_samples_shapes.jsonl").rename(tmp_path / "secret.jsonl")
    results.write_text(results.read_text().replace('"shapes": {', '"x/../../secret": {'))
    with pytest.raises(GrainsError, match="is a path where"):
        read_run(tmp_path / "run").samples("x/../../secret")


def test_rows_of_a_document_are_its_filters_in_the_order_of_the_results(tmp_path):
    shutil.copytree(LMMS / "steered", tmp_path / "run")
    (file,) = (tmp_path / "run").glob("*_results.json")
    results = json.loads(file.read_text())
    results["results"]["shapes"] = {"exact_match,strict": 1.0, "exact_match_stderr,strict": 0, "exact_match,loose": 0.0}
    file.write_text(json.dumps(results))
    (rows,) = (tmp_path / "run").glob("*shapes.jsonl")
    first = [json.loads(line) for line in rows.open()]
    rows.write_text("".join(json.dumps({**row, "exact_match": x}) + "\n" for row in first for x in (1.0, 0.0)))
    found = read_run(tmp_path / "run").samples("shapes")
    assert {key: {sample.values["exact_match"] for sample in samples} for key, samples in found.items()} == {
        "strict": {1.0},
        "loose": {0.0},
    }


def test_a_task_names_the_score_of_its_records(tmp_path):
    shutil.copytree(LMMS / "steered", tmp_path / "run")
    (file,) = (tmp_path / "run").glob("*_results.json")
    results = json.loads(file.read_text())
    results["configs"]["films"]["score_key"] = "points"
    file.write_text(json.dumps(results))
    (rows,) = (tmp_path / "run").glob("*films.jsonl")
    logged = [json.loads(line) for line in rows.open()]
    for row in logged:
        row["film_score"]["points"] = 7
    rows.write_text("".join(json.dumps(row) + "\n" for row in logged))
    assert {sample.values["film_score"] for sample in read_run(tmp_path / "run").samples("films")["none"]} == {7}
