"""Scores of generations that are gone: left out of the run, with a note; all others stay."""

from __future__ import annotations

import json

import pytest

from grains_eval.comparison.logs import read_run
from grains_eval.comparison.logs.judged import samples_digest
from tests.comparison.folders import TaskData, write_run

SCORES = {"judge_score": [1.0, 2.0]}


def run_with(tmp_path, judged_samples=None, **changes):
    """A run of two documents and, from an older evaluation, a task that says what was judged."""
    given = TaskData(**{"values": {"empty": [0.0, 0.0]}, "responses": [["a"], ["b"]], **changes})
    config = {} if judged_samples is None else {"judge": {"model": "m"}, "judged_samples": judged_samples}
    write_run(tmp_path, {"t_judged": TaskData(SCORES, config=config)}, stamp="2026-01-01T00-00-00.000001")
    return read_run(write_run(tmp_path, {"t": given}))


def test_what_a_judge_sees_makes_the_digest(tmp_path):
    changes = ({}, {"responses": [["a"], ["c"]]}, {"prompts": ["p", "q"]}, {"targets": ["x", "y"]}, {"filter": "f"})
    runs = [run_with(tmp_path / str(number), **change) for number, change in enumerate(changes)]
    digests = [samples_digest(run, "t") for run in runs]
    assert len(set(digests)) == len(changes)
    assert samples_digest(run_with(tmp_path / "scored", values={"empty": [1.0, 0.0]}), "t") == digests[0]
    file = next((tmp_path / "0").rglob("samples_t_2026-01-02*"))
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert samples_digest(read_run(tmp_path / "0"), "t") == digests[0]  # in whichever order


@pytest.mark.parametrize("judged_samples", (None, {"task": "elsewhere", "digest": "0"}, "?"))
def test_scores_that_cannot_be_checked_stay(judged_samples, tmp_path):
    assert set(run_with(tmp_path, judged_samples).tasks) == {"t", "t_judged"}


def test_stale_scores_are_left_out(tmp_path):
    digest = samples_digest(run_with(tmp_path / "first"), "t")
    fresh = run_with(tmp_path / "fresh", {"task": "t", "digest": digest})
    assert set(fresh.tasks) == {"t", "t_judged"} and not fresh.notes
    stale = run_with(tmp_path / "stale", {"task": "t", "digest": digest}, responses=[["a"], ["c"]])
    assert stale.tasks == ("t",) and set(stale.sources) == {"t"} and "t_judged" not in json.dumps(stale.results)
    expected = "task 't_judged' is left out: the generations of 't' are others than those that were judged; judge again"
    assert [note.startswith(expected) for note in stale.notes] == [True]
