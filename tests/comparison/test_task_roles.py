"""Targets, preserved tasks and controls: declared by artifacts, tasks or the user, never guessed from names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import Analysis, Question
from grains_eval.errors import GrainsError
from grains_eval.report import ReportData, compare_runs
from tests.comparison.folders import TaskData, write_run

PLAIN = TaskData({"acc": [0.0, 1.0] * 6})
SKILL = replace(PLAIN, metadata={"version": 1.0, "role": "preserve"})


def declared(root: Path, evaluation: dict[str, list[str]] | None, **tasks: tuple[float, TaskData]) -> ReportData:
    """A run steered by an artifact whose recipe declares `evaluation`, against a plain one; each task gains a share."""
    for name in ("plain", "steered"):
        data = {}
        for task, (share, like) in tasks.items():
            count = round(share * 80) if name == "steered" else 0
            data[task] = replace(like, values={"acc": [*[1.0] * (40 + count), *[0.0] * (40 - count)]})
        entry = {"method": "grains", **({"evaluation": evaluation} if evaluation is not None else {})}
        write_run(root / name, data, steering=[entry] if name == "steered" else None)
    return compare_runs([root / "plain", root / "steered"])


def test_a_task_nobody_speaks_of_is_a_target_whatever_its_name(tmp_path: Path) -> None:
    report = declared(tmp_path, None, gsm8k=(0.125, PLAIN))
    assert report.headline.startswith("steered (grains): improves gsm8k acc from 50.0 to 62.5, +12.5 points")
    assert report.headline.endswith("Nothing was declared preserved, so what this cost elsewhere is unknown.")
    assert report.targets == (("gsm8k", "acc"),) and report.verdicts == ()


def test_the_roles_of_a_recipe_travel_with_the_run(tmp_path: Path) -> None:
    recipe = {"tasks": ["goal"], "preserve": ["a_group", "harness_task"]}
    report = declared(tmp_path / "a", recipe, goal=(0.3, PLAIN), harness_task=(0.0, PLAIN), extra=(0.0, PLAIN))
    assert report.targets == (("goal", "acc"), ("extra", "acc"))
    assert [verdict.task for verdict in report.verdicts] == ["harness_task"]
    report = declared(tmp_path / "b", {"tasks": ["goal"]}, goal=(0.3, SKILL), other=(0.0, SKILL))
    assert report.targets == (("goal", "acc"),), "the recipe's word is above that of the task"
    assert [verdict.task for verdict in report.verdicts] == ["other"]
    report = declared(tmp_path / "c", recipe, goal=(0.3, PLAIN))
    assert report.headline.endswith(
        "What is to be preserved, a_group, harness_task, was not evaluated, so what this cost is unknown."
    )
    odd = replace(PLAIN, metadata={"version": 1.0, "role": "keep"})
    with pytest.raises(GrainsError, match="unknown role in the metadata of task 'goal' 'keep': known are preserve"):
        declared(tmp_path / "d", None, goal=(0.3, odd))


def test_groups_have_the_role_of_what_they_hold(tmp_path: Path) -> None:
    groups = {"ours": (["theirs"], {"acc,none": 0.5}), "theirs": (["u", "v"], {"acc,none": 0.5})}
    for name in ("plain", "steered"):
        steering = [{"method": "grains", "evaluation": {"preserve": ["theirs"]}}] if name == "steered" else None
        write_run(tmp_path / name, {"t": PLAIN, "u": PLAIN, "v": PLAIN}, groups=groups, steering=steering)
    paths = [tmp_path / "plain", tmp_path / "steered"]
    report = compare_runs(paths, analysis=Analysis(subtasks=True))
    assert [row.comparison.task for row in report.rows] == ["t", "ours", "u", "v"]
    assert {verdict.task for verdict in report.verdicts} == {"ours", "u", "v"}
    assert {
        verdict.task
        for verdict in compare_runs(paths, analysis=Analysis(subtasks=True), question=Question(preserve=["v"])).verdicts
    } == {"v"}
    write_run(tmp_path / "by_task", {"t": PLAIN, "u": SKILL, "v": SKILL}, groups=groups)
    assert [v.task for v in compare_runs([tmp_path / "by_task", tmp_path / "plain"]).verdicts] == ["ours"]


def test_two_recipes_that_disagree_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"t": PLAIN})
    for name, role in (("one", "tasks"), ("two", "preserve")):
        write_run(tmp_path / name, {"t": PLAIN}, steering=[{"method": "grains", "evaluation": {role: ["t"]}}])
    report = compare_runs([tmp_path / name for name in ("plain", "one", "two")])
    assert report.targets == (("t", "acc"),)
    assert any("t is a target of one run's recipe and preserved by another's" in note for note in report.notes)
