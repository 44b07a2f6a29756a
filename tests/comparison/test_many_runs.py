"""Many runs against the first: order of rows, headline metrics, and verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import Analysis, Question
from grains_eval.comparison.significance import holm
from grains_eval.comparison.verdict import answer
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from grains_eval.report.markdown import to_markdown
from tests.comparison.folders import TaskData, write_run

PLAIN = TaskData({"acc": [0.0, 1.0] * 6})


SKILL = replace(PLAIN, metadata={"version": 1.0, "role": "preserve"})


def test_targets_come_before_preserved_tasks(tmp_path: Path) -> None:
    for name in ("plain", "steered"):
        write_run(tmp_path / name, {"skills": SKILL, "goal": PLAIN, "mmlu": SKILL, "aim": PLAIN})
    paths = [tmp_path / "plain", tmp_path / "steered"]
    assert [row.comparison.task for row in compare_runs(paths).rows] == ["goal", "aim", "skills", "mmlu"]
    chosen = compare_runs(paths, question=Question(preserve=["goal"]))
    assert [row.comparison.task for row in chosen.rows] == ["skills", "mmlu", "aim", "goal"]
    named = compare_runs(paths, question=Question(targets=["aim"]))
    assert [row.comparison.task for row in named.rows] == ["aim", "goal", "skills", "mmlu"]
    assert named.targets == (("aim", "acc"),) and {v.task for v in named.verdicts} == {"skills", "mmlu"}
    assert named.notes == ("goal is named neither as a target nor as preserved: it stands in the table alone",)
    with pytest.raises(GrainsError, match="'aim' is named both as a target and as preserved"):
        compare_runs(paths, question=Question(targets=["aim"], preserve=["aim"]))


def test_a_shown_loss_is_a_loss_though_the_margin_lies_in_its_interval(tmp_path: Path) -> None:
    for name, harmed in (("plain", 0), ("steered", 36)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [*[0.0] * harmed, *[1.0] * (3000 - harmed)]})})
    report = compare_runs([tmp_path / "plain", tmp_path / "steered"], question=Question(preserve=["t"]))
    (verdict,) = report.verdicts
    assert verdict.answer == "lost" and verdict.interval[0] < -verdict.margin < verdict.interval[1] < 0
    assert "t acc is lost, −1.2 (" in report.headline
    assert "whether it lost more than that cannot be told" in report.headline


def test_a_shown_loss_within_the_margin_is_kept_and_said(tmp_path: Path) -> None:
    for name, harmed in (("plain", 0), ("steered", 12)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [*[0.0] * harmed, *[1.0] * (6000 - harmed)]})})
    report = compare_runs([tmp_path / "plain", tmp_path / "steered"], question=Question(preserve=["t"]))
    (verdict,) = report.verdicts
    assert verdict.answer == "kept" and -verdict.margin < verdict.interval[0] < verdict.interval[1] < 0
    assert answer(report.rows[0].comparison, 0.05) == "worse"
    assert "t acc is kept, −0.2 (" in report.headline and report.headline.count("a smaller loss is shown") == 1


def test_a_loss_beyond_the_margin_is_not_put_in_doubt(tmp_path: Path) -> None:
    for name, harmed in (("plain", 0), ("steered", 120)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [*[0.0] * harmed, *[1.0] * (1000 - harmed)]})})
    report = compare_runs([tmp_path / "plain", tmp_path / "steered"], question=Question(preserve=["t"]))
    assert "t acc is lost, −12.0 (" in report.headline and "cannot be told" not in report.headline


def test_a_task_has_one_metric_unless_more_are_asked_for(tmp_path: Path) -> None:
    for name in ("plain", "steered"):
        better = [float(name == "steered" or place % 2) for place in range(12)]
        write_run(tmp_path / name, {"t": TaskData({"acc_norm": better, "acc": better, "f1": better})})
    paths = [tmp_path / "plain", tmp_path / "steered"]
    one = compare_runs(paths)
    assert [row.key for row in one.rows] == [("t", "acc")]
    assert one.further_metrics == {"t": ("acc_norm", "f1")}
    assert one.rows[0].comparison.adjusted_p == one.rows[0].comparison.p, "what has no row takes no share of Holm's"
    recipe = compare_runs(paths, question=Question(headline_metrics={"t": "f1"}))
    assert [row.key for row in recipe.rows] == [("t", "f1")]
    whole = compare_runs(paths, analysis=Analysis(all_metrics=True))
    assert [row.comparison.metric for row in whole.rows] == ["acc_norm", "acc", "f1"] and not whole.further_metrics
    assert [row.comparison.adjusted_p for row in whole.rows] == holm([row.comparison.p for row in whole.rows])
    assert whole.targets == (("t", "acc"),), "the headline still speaks of one"
    named = compare_runs(paths, analysis=Analysis(metrics=["f1", "acc_norm"]))
    assert {row.comparison.metric for row in named.rows} == {"f1", "acc_norm"}
    assert "t acc_norm, f1 also measured, with rows under --all_metrics" in to_markdown(one)
    assert "--all_metrics" not in to_markdown(whole)
