"""Ratings of a run: they join it, `compare` reads them, and nothing depends on how often the judge was interrupted."""

from __future__ import annotations

import json

import pytest

from grains_eval import cli
from grains_eval.comparison import Analysis, compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.judging.endpoint import Endpoint
from grains_eval.judging.pointwise import Request, judge_run
from tests.comparison.folders import STAMP, TaskData, write_run
from tests.judging.runs import COUNT, number_of, rate, write
from tests.judging.server import serving

pytest.importorskip("openai")


PLAIN = Request()


def judge(folder, server, request=PLAIN, **options):
    endpoint = Endpoint(server.url, "m", **{"concurrency": 4, "retries": 2, "timeout": 2.0, **options})
    return judge_run(read_run(folder), endpoint, request)


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def samples(folder):
    file = next(folder.rglob("samples_mmhal_bench_judged_*.jsonl"))
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_ratings_join_the_run(tmp_path):
    folder = write(tmp_path / "run")
    before = contents(folder)
    with serving(rate) as server:
        found = judge(folder, server)[0]
        assert all("Things that the image shows: Dog, Tree\n" in text for text in server.texts())
        assert server.asked[0]["temperature"] == 0 and server.asked[0]["max_tokens"] == 1024
    assert found.count == COUNT and found.means["judge_score"] == 3.5 and found.means["judge_hallucination"] == 0.5
    assert found.parts["attribute"] == (4, pytest.approx({**found.means}))
    run = read_run(folder)
    assert set(run.tasks) == {"mmhal_bench", "mmhal_bench_judged"} and not run.notes
    assert run.setting("results", "mmhal_bench_judged", "judge_score,none") == 3.5
    assert run.setting("configs", "mmhal_bench_judged", "judge_served") == ["judge-2026"]
    assert all(contents(folder)[name] == content for name, content in before.items())
    row = samples(folder)[0]
    assert row["judge_score"] == 6 and row["judge_hallucination"] == 0 and row["doc"]["question_type"] == "attribute"
    assert row["judge"] == {"reply": "Because of this.\nRating: 6", "no_verdict": ""} and "empty" not in row


def test_compare_reads_them_like_any_metric(tmp_path):
    runs = [write(tmp_path / name, good) for name, good in (("baseline", 4), ("steered", 12))]
    with serving(rate) as server:
        for folder in runs:
            judge(folder, server)
    rows = {row.metric: row for row in compare(*runs) if row.task == "mmhal_bench_judged"}
    assert rows["judge_score"].difference == 2.5 and rows["judge_score"].higher_is_better
    assert rows["judge_hallucination"].difference == -0.5 and not rows["judge_hallucination"].higher_is_better
    assert rows["judge_hallucination"].helped == 8 and rows["judge_hallucination"].n == COUNT
    assert rows["judge_score"].clusters == 4  # question types


def sometimes_silent(text):
    """No rating of items 0 and 13."""
    return "I cannot say." if number_of(text) in (0, 13) else rate(text)


def test_missing_verdicts_are_counted_and_never_a_score(tmp_path):
    folder = write(tmp_path / "run")
    with serving(sometimes_silent) as server:
        found = judge(folder, server)[0]
    assert found.reasons == {"no rating": 2} and found.means["judge_no_verdict"] == 2 / COUNT
    # honest: the mean over those with a verdict; official: a missing one is 0, and a hallucination
    assert found.means["judge_score"] == pytest.approx((7 * 6 + 7 * 1) / 14)
    assert found.means["judge_hallucination"] == pytest.approx(7 / 14)
    assert found.means["judge_score_official"] == pytest.approx((7 * 6 + 7 * 1) / 16)
    assert found.means["judge_hallucination_official"] == pytest.approx(9 / 16)
    rows = samples(folder)
    assert rows[0]["judge_score"] is None and rows[0]["judge_score_official"] == 0 and rows[0]["judge_no_verdict"] == 1
    assert rows[0]["judge"]["no_verdict"] == "no rating"


def test_compare_leaves_out_what_has_no_verdict_in_either_run(tmp_path):
    runs = [write(tmp_path / name, good) for name, good in (("baseline", 4), ("steered", 12))]
    with serving(rate) as server:
        judge(runs[0], server)
    with serving(sometimes_silent) as server:
        judge(runs[1], server)
    from grains_eval.comparison.item_metrics import measure_tasks

    baseline, steered = map(read_run, runs)
    measured, notes = measure_tasks(baseline, steered, ["mmhal_bench_judged"], Analysis())
    found = {metric.metric: metric for metric in measured["mmhal_bench_judged"]}
    assert found["judge_score"].baseline.size == COUNT - 2 and found["judge_score"].excluded == 0
    assert found["judge_score_official"].baseline.size == COUNT
    assert found["judge_no_verdict"].steered.mean() == 2 / COUNT
    note = f"2 of {COUNT} documents have no judge_score (0 in 'baseline', 2 in 'steered') and are left out of both"
    assert any(note in each for each in notes)


def test_a_judge_that_says_nothing_is_no_score(tmp_path):
    runs = [write(tmp_path / name) for name in ("baseline", "steered")]
    with serving(lambda text: "Hm.") as server:
        found = [judge(folder, server)[0] for folder in runs]
    assert found[0].means["judge_score"] != found[0].means["judge_score"] and found[0].reasons == {"no rating": COUNT}
    rows = {row.metric for row in compare(*runs) if row.task == "mmhal_bench_judged"}
    assert "judge_score" not in rows and "judge_no_verdict" in rows


@pytest.mark.parametrize("stop_after", (0, 1, 7))
def test_an_interrupted_judge_ends_byte_for_byte_as_an_uninterrupted_one(stop_after, tmp_path):
    whole, parts = write(tmp_path / "whole" / "run"), write(tmp_path / "parts" / "run")
    with serving(sometimes_silent) as server:
        judge(whole, server)
    with serving(sometimes_silent, faults=[""] * stop_after + ["gone"]) as server:
        with pytest.raises(GrainsError, match="cannot be reached"):
            judge(parts, server, retries=0, concurrency=3)
        assert not list(parts.rglob("*judged*"))
    cap = pytest.raises(GrainsError, match="stopped at the cap of 3 requests")
    with serving(sometimes_silent, faults=["429", "500", "cut"]) as server, cap:
        judge(parts, server, max_requests=3)
    with serving(sometimes_silent) as server:
        judge(parts, server)
        asked = len(server.asked)
        judge(parts, server)  # and once more
        assert len(server.asked) == asked <= COUNT - 3
    assert contents(parts) == contents(whole)


def test_scores_of_another_judge_are_refused_and_not_replaced(tmp_path):
    runs = [write(tmp_path / name) for name in ("baseline", "steered")]
    with serving(rate) as server:
        judge(runs[0], server)
        judge(runs[1], server, Request(generation={"temperature": 1}))
        with pytest.raises(GrainsError, match="task 'mmhal_bench_judged': judge differs"):
            compare(*runs)
        before = contents(runs[1])
        with pytest.raises(GrainsError, match=r"has other scores of 'mmhal_bench_judged' .*--as another name or"):
            judge(runs[1], server)
        assert {name: content for name, content in contents(runs[1]).items() if name in before} == before
        judge(runs[1], server, Request(name="second"))
        assert "second" in read_run(runs[1]).tasks
        judge(runs[1], server, Request(overwrite=True))
    assert compare(*runs, tasks=["mmhal_bench_judged"])
    assert len(list(runs[1].rglob("samples_mmhal_bench_judged_*"))) == 1


def own_rubric(tmp_path, **changes):
    import yaml

    rubric = {
        "name": "short",
        "prompt": "{{ question }} {{ response }} {{ target }} {{ prompt }}",
        "verdict": {"pattern": r"rating:\s*(\d)"},
        "higher_is_better": True,
        **changes,
    }
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(rubric))
    return str(tmp_path / "short.yaml")


def test_a_rubric_of_ones_own(tmp_path):
    folder = write(tmp_path / "run", task="mine")
    with serving(rate) as server:
        with pytest.raises(GrainsError, match="has no task that a rubric names"):
            judge(folder, server)
        with pytest.raises(GrainsError, match="no rubric is bundled for task 'mine'"):
            judge(folder, server, Request(tasks=["mine"]))
        with pytest.raises(GrainsError, match="has no task 'other'"):
            judge(folder, server, Request(tasks=["other"]))
        wrong = Request(rubric=own_rubric(tmp_path, prompt="{{ topic }}"), tasks=["mine"])
        with pytest.raises(GrainsError, match=r"document 0: 'topic' is undefined; its fields are .*question"):
            judge(folder, server, wrong)
        assert not server.asked
        found = judge(folder, server, Request(rubric=own_rubric(tmp_path), tasks=["mine"]))[0]
        assert "What is thing 3? item 3 is right answer 3 What is thing 3?" in server.texts()
    assert set(found.means) == {"judge_score", "judge_no_verdict"} and found.task == "mine_judged"


def test_tasks_that_are_no_generations_are_refused(tmp_path):
    folder = write(tmp_path / "run", task="mine")
    file = next(folder.rglob("results_*.json"))
    file.write_text(file.read_text().replace("generate_until", "multiple_choice"))
    with serving(rate) as server, pytest.raises(GrainsError, match="is multiple_choice; a judge reads generations"):
        judge(folder, server, Request(rubric=own_rubric(tmp_path), tasks=["mine"]))


def test_the_command(tmp_path, capsys):
    folder = write(tmp_path / "run")
    with serving(sometimes_silent) as server:
        words = ["judge", str(folder), "--base_url", server.url, "--model", "m"]
        assert cli.main([*words, "--max_requests", "4"]) == 2
        assert "stopped at the cap of 4 requests; 4 of 16 replies are in" in capsys.readouterr().err
        assert cli.main([*words, "--gen_kwargs", "temperature=0"]) == 0
        said = capsys.readouterr().out
        assert "no verdict: 2 of 16 items (2 no rating); they count in no mean but the official one" in said
        assert "attribute" in said and "counting" in said and "hallucination official" in " ".join(said.split())
        assert cli.main([*words, "--gen_kwargs", "n=2"]) == 2
        assert "may not set n" in capsys.readouterr().err
        assert cli.main([*words, "--pairwise"]) == 2
        assert cli.main([*words, "-o", "x"]) == 2
        assert "--output_path applies to --pairwise" in capsys.readouterr().err


@pytest.mark.parametrize("name", ("mmhal_bench", "other", "set"))
def test_a_task_of_the_run_is_never_replaced(name, tmp_path):
    groups = {"set": (["other"], {"acc,none": 0.5})}
    folder = write(tmp_path / "run")
    home = folder / "org__model"
    write_run(folder, {"other": TaskData({"acc": [0.0, 1.0]})}, stamp="2026-01-01T00-00-00.000001", groups=groups)
    before = contents(folder)
    assert name == "set" or name in read_run(folder).tasks
    with serving(rate) as server:
        for overwrite in (False, True):
            with pytest.raises(GrainsError, match=f"'{name}' is a task of 'run' that no judge scored; give --as"):
                judge(folder, server, Request(name=name, overwrite=overwrite))
        # left out of the run, as it has another model, and still not ours to delete
        other = home / "results_2026-01-01T00-00-00.000001.json"
        other.write_text(other.read_text().replace('"pretrained": "org/model"', '"pretrained": "org/older"'))
        if name != "mmhal_bench":
            with pytest.raises(GrainsError, match=f"'{name}' is a task of '.*org__model' that no judge scored"):
                judge(folder, server, Request(name=name, overwrite=True))
        assert not server.asked
    assert set(contents(folder)) == set(before)


def test_a_judged_task_beside_others_in_one_file_stays(tmp_path):
    folder = write(tmp_path / "run")
    with serving(rate) as server:
        judge(folder, server, Request(generation={"temperature": 1}))
        file = next(file for file in folder.rglob("results_*") if "mmhal_bench_judged" in file.read_text())
        held = json.loads(file.read_text())
        held["results"]["theirs"] = {"acc,none": 1.0}
        file.write_text(json.dumps(held))
        with pytest.raises(GrainsError, match="that no judge scored"):
            judge(folder, server, Request(overwrite=True))
    assert json.loads(file.read_text()) == held


@pytest.mark.parametrize("name", ("../../up", "/tmp/up", "a/b", "a\\b", "..", ""))
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    folder = write(tmp_path / "run")
    before = set(tmp_path.rglob("*"))
    with serving(rate) as server, pytest.raises(GrainsError, match="cannot name a file") as raised:
        judge(folder, server, Request(name=name))
    assert not server.asked and "\n" not in str(raised.value) and set(tmp_path.rglob("*")) == before


def test_a_task_name_in_a_results_file_leads_nowhere(tmp_path):
    folder = write(tmp_path / "deep" / "run", task="evil")
    home = folder / "org__model"
    file = next(home.glob("results_*"))
    file.write_text(file.read_text().replace("evil", "../../../../evil"))
    (home / "samples_..").mkdir()
    samples_file = next(home.glob("samples_evil*"))
    samples_file.rename(tmp_path / samples_file.name.removeprefix("samples_"))
    before = set(tmp_path.rglob("*"))
    request = Request(rubric=own_rubric(tmp_path), tasks=["../../../../evil"])
    with serving(rate) as server, pytest.raises(GrainsError, match="cannot name a file"):
        judge(folder, server, request)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "short.yaml"}


def test_ratings_of_generations_made_again_are_left_out(tmp_path):
    folder = write(tmp_path / "run", 2)
    with serving(rate) as server:
        judge(folder, server)
        again = write(tmp_path / "again", 14)
        for file in (again / "org__model").iterdir():
            (folder / "org__model" / file.name.replace(STAMP, "2026-03-02T03-04-05.678901")).write_bytes(
                file.read_bytes()
            )
        run = read_run(folder)
        assert run.tasks == ("mmhal_bench",) and set(run.sources) == {"mmhal_bench"}
        assert "mmhal_bench_judged" not in run.results["configs"]
        note = "task 'mmhal_bench_judged' is left out: the generations of 'mmhal_bench' are others than those that were"
        assert any(note in each for each in run.notes)
        with pytest.raises(GrainsError, match="other scores of 'mmhal_bench_judged'"):
            judge(folder, server)
        judge(folder, server, Request(overwrite=True))
    run = read_run(folder)
    assert run.setting("results", "mmhal_bench_judged", "judge_score,none") == pytest.approx((14 * 6 + 2) / 16)
    assert not any("left out" in each and "judged" in each for each in run.notes)


def test_ratings_of_the_same_generations_made_again_stay(tmp_path):
    folder = write(tmp_path / "run")
    with serving(rate) as server:
        judge(folder, server)
    for file in list((folder / "org__model").glob("*678901*")):
        if "judged" not in file.name and file.name.endswith((f"{STAMP}.json", f"{STAMP}.jsonl")):
            file.rename(file.with_name(file.name.replace(STAMP, "2026-03-02T03-04-05.678901")))
    assert set(read_run(folder).tasks) == {"mmhal_bench", "mmhal_bench_judged"}
    next(folder.rglob("samples_mmhal_bench_2026-03*")).unlink()
    run = read_run(folder)
    assert run.tasks == ("mmhal_bench",) and any("cannot be read (run " in note for note in run.notes)
