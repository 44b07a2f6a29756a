"""Many runs to one report, in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.comparison import Question
from grains_eval.comparison.significance import holm
from grains_eval.errors import GrainsError
from grains_eval.report import ReportData, Supplement, compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from tests.comparison.folders import TaskData, write_run


def test_rows_verdicts_and_controls(report: ReportData) -> None:
    keys = [(r.comparison.task, r.comparison.method) for r in report.rows]
    names = ["grains", "caa", "random 1", "random 2"]
    assert keys == [(task, name) for task in ("truthfulqa_mc1", "mmlu") for name in names]
    assert report.controls == {"random 1", "random 2"}
    assert report.methods == ("grains", "caa")
    assert report.targets == (("truthfulqa_mc1", "acc"),)
    assert {v.method: v.answer for v in report.verdicts if v.method in report.methods}["caa"] == "lost"
    assert all(r.comparison.excluded == 20 for r in report.rows if r.comparison.task == "truthfulqa_mc1")
    assert all(r.comparison.clusters == 20 for r in report.rows if r.comparison.task == "truthfulqa_mc1")
    against = {item.method: item for item in report.against_controls}
    assert against["grains"].control in report.controls
    assert against["grains"].row.comparison.difference > 0
    assert "caa" in report.headline and "random" not in report.headline


def test_an_existing_report_is_refused_before_the_work(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(GrainsError, match="exists"):
        compare_runs({"a": tmp_path / "nowhere", "b": tmp_path / "nowhere"}, tmp_path)


def test_steering_that_does_nothing_is_reported_so(folders: dict[str, Path]) -> None:
    report = compare_runs({"plain": folders["baseline"], "steered": folders["baseline"]})
    assert "no change of truthfulqa_mc1 acc is shown" in report.headline
    assert all(r.comparison.p == 1 for r in report.rows)
    assert render_html(report)


def test_failed_runs_become_rows_when_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {"elsewhere": TaskData({"acc": [1.0, 0.0]})})
    paths = {
        "baseline": folders["baseline"],
        "grains": folders["grains"],
        "other": other,
        "gone": tmp_path / "x",
    }
    with pytest.raises(GrainsError):
        compare_runs(paths)
    report = compare_runs(paths, keep_going=True)
    assert set(report.failures) == {"other", "gone"}
    assert {r.comparison.method for r in report.rows} == {"grains"}
    with pytest.raises(GrainsError, match="does not exist"):
        compare_runs({"gone": tmp_path / "x", "grains": folders["grains"]}, keep_going=True)
    only = compare_runs({"baseline": folders["baseline"]}, supplement=Supplement(failures={"caa": "no pairs"}))
    assert only.rows == () and "caa" in to_markdown(only) and render_html(only)
    with pytest.raises(GrainsError, match="at least two runs"):
        compare_runs([folders["baseline"]])


def test_holm_runs_over_methods_and_apart_over_controls(report: ReportData) -> None:
    for controls in (False, True):
        family = [r.comparison for r in report.rows if (r.comparison.method in report.controls) is controls]
        assert len(family) == 4
        assert [row.adjusted_p for row in family] == holm([row.p for row in family])
    # a draw more of a control costs a method nothing, another method does
    grains = next(r.comparison for r in report.rows if r.comparison.method == "grains")
    with_all = holm([r.comparison.p for r in report.rows])[0]
    assert grains.p < grains.adjusted_p < with_all


def test_headline_metric_and_preserved_tasks_can_be_named(folders: dict[str, Path]) -> None:
    pair = {name: folders[name] for name in ("baseline", "grains")}
    report = compare_runs(pair, question=Question(preserve=["truthfulqa_mc1"], margin=0.05))
    assert [v.task for v in report.verdicts] == ["truthfulqa_mc1"]
    assert report.targets == (("mmlu", "acc"),)
    with pytest.raises(GrainsError, match="has no metric 'f1' to compare; it has acc"):
        compare_runs(pair, question=Question(headline_metrics={"mmlu": "f1"}))
