"""Run folders of lm_eval, and refusing to compare unlike runs: one clear line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.runs import name_runs
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.folders import STAMP, TaskData, write_run

BASE = TaskData({"acc": [0.0, 1.0, 0.0, 1.0, 1.0]})
OTHER = TaskData({"acc": [1.0, 1.0, 0.0, 0.0, 1.0]})


def test_newest_results_are_taken(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE}, stamp="2026-01-01T00-00-00.000001")
    write_run(tmp_path / "a", {"t": OTHER}, stamp="2026-01-03T00-00-00.000001")
    write_run(tmp_path / "a", {"t": BASE}, stamp="2026-01-02T00-00-00.000001")
    run = read_run(tmp_path / "a")
    assert run.file.name == "results_2026-01-03T00-00-00.000001.json"
    assert [sample.values["acc"] for sample in run.samples("t")["none"]] == OTHER.values["acc"]


def test_a_results_file_and_a_json_output_path_work(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    home = tmp_path / "a" / "org__model"
    assert read_run(home / f"results_{STAMP}.json").tasks == ("t",)
    # lm_eval --output_path x/mine.json writes x/mine_<date>.json
    (home / f"results_{STAMP}.json").rename(home / f"mine_{STAMP}.json")
    run = read_run(home / "mine.json")
    assert run.tasks == ("t",)
    assert len(run.samples("t")["none"]) == 5


def test_folders_that_hold_no_single_run(tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GrainsError, match=r"holds no results_\*\.json"):
        read_run(tmp_path / "empty")
    write_run(tmp_path / "both" / "a", {"t": BASE})
    write_run(tmp_path / "both" / "b", {"t": BASE})
    with pytest.raises(GrainsError, match="holds several runs"):
        read_run(tmp_path / "both")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / f"results_{STAMP}.json").write_text("{")
    with pytest.raises(GrainsError, match="not a results file"):
        read_run(tmp_path / "bad")


def test_runs_are_named_by_folder_and_method_whatever_else_is_compared(tmp_path: Path) -> None:
    for name, steering in (
        ("plain", None),
        ("one", [{"method": "grains"}]),
        ("two", [{"method": "caa"}]),
        ("CAA_strong", [{"method": "caa"}]),
    ):
        write_run(tmp_path / name, {"t": BASE}, steering=steering)
    runs = [read_run(tmp_path / name) for name in ("plain", "one", "two", "CAA_strong", "two")]
    assert name_runs(runs) == ["plain", "one (grains)", "two (caa)", "CAA_strong", "two (caa) (2)"]
    for count in (1, 2, 3, 4):
        assert name_runs(runs[:count]) == name_runs(runs)[:count]
    assert {row.method for row in compare(runs[0], runs[1])} == {"one (grains)"}


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    for name in ("plain", "steered"):
        write_run(tmp_path / name, {"t": TaskData({"acc": [0.0, 1.0] * 6})})
    with pytest.raises(GrainsError, match=r"'plain' and 'plain \(.*\)' are the same run, .*; give each run once"):
        compare_runs([tmp_path / "plain", tmp_path / "steered", tmp_path / "steered" / ".." / "plain"])


def test_tasks_of_groups_go_by_their_own_names(tmp_path: Path) -> None:
    """lm_eval 0.5 writes `group::task`, in the samples' files too; 0.4 the task alone."""
    new = write_run(
        tmp_path / "new",
        {"g::a": BASE, "g::b": OTHER, "h::b": BASE, "c": OTHER},
        groups={"g": (["g::a", "g::b"], {"acc,none": 0.6}), "h": (["h::b"], {"acc,none": 0.6})},
    )
    run = read_run(new)
    assert run.tasks == ("a", "g::b", "h::b", "c")
    assert run.results["group_subtasks"] == {"g": ["a", "g::b"], "h": ["h::b"]}
    assert [sample.values["acc"] for sample in run.samples("a")["none"]] == BASE.values["acc"]
    assert [sample.values["acc"] for sample in run.samples("g::b")["none"]] == OTHER.values["acc"]
    old = write_run(tmp_path / "old", {"a": OTHER, "c": OTHER})
    (row,) = compare(old, new, tasks=["a"])
    assert (row.task, row.steered) == ("a", 0.6)
