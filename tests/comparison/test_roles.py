"""Targets, preserved tasks and controls: declared by artifacts, tasks or the user, never guessed from names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.errors import GrainsError
from grains_eval.report import ReportData, compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.tables import control_lines
from tests.comparison.folders import TaskData, write_run

PLAIN = TaskData({"acc": [0.0, 1.0] * 6})
SKILL = replace(PLAIN, metadata={"version": 1.0, "role": "preserve"})


def test_controls_are_known_by_their_artifacts(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"t": PLAIN})
    kinds = {"first": "control", "second": "projection", "random_1": "method", "vocabulary": None}
    for name, kind in kinds.items():
        write_run(tmp_path / name, {"t": PLAIN}, steering=[{"method": "some", **({"kind": kind} if kind else {})}])
    paths = {name: tmp_path / name for name in ("plain", *kinds)}
    assert compare_runs(paths).controls == {"first", "second"}
    assert compare_runs(paths, controls=["random_1"]).controls == {"random_1"}


def test_a_name_makes_no_control(tmp_path: Path) -> None:
    names = ("plain", "random_forest_prompt", "random_2", "random_tokens_raw_1", "grains_negated", "my vocabulary list")
    for name in names:
        write_run(tmp_path / name, {"t": PLAIN})
    assert compare_runs({name: tmp_path / name for name in names}).controls == set()
    assert compare_runs({name: tmp_path / name for name in names}, controls=["random_2"]).controls == {"random_2"}
    with pytest.raises(GrainsError, match="unknown control run 'random_22'"):
        compare_runs({name: tmp_path / name for name in names}, controls=["random_22"])


def gaining(shares: dict[str, tuple[int, int]], root: Path, **kinds: str) -> ReportData:
    """Runs of 200 items: the first `a` of the 100 wrong ones are put right, and `b` from the end of them."""
    names = {"baseline": (0, 0), **shares}
    for name, (first, last) in names.items():
        wrong = [1.0] * first + [0.0] * (100 - first - last) + [1.0] * last
        steering = [{"method": name, "kind": kinds.get(name, "method")}] if name != "baseline" else None
        write_run(root / name, {"t": TaskData({"acc": [*wrong, *[1.0] * 100]})}, steering=steering)
    return compare_runs([root / name for name in names])


def test_vectors_without_the_vocabulary_direction_are_no_rival(tmp_path: Path) -> None:
    shares = {"grains": (60, 0), "vocabulary": (0, 5), "grains_without_vocabulary": (60, 0)}
    report = gaining(shares, tmp_path, vocabulary="control", grains_without_vocabulary="projection")
    assert report.controls == {"vocabulary", "grains_without_vocabulary"}
    assert [item.control for item in report.against_controls] == ["vocabulary"]
    assert "But on" not in report.headline


def test_the_rival_is_the_control_that_gained_most(tmp_path: Path) -> None:
    kinds = dict.fromkeys(("weak", "strong", "middling"), "control")
    shares = {"grains": (60, 0), "weak": (0, 2), "strong": (0, 50), "middling": (0, 30)}
    (rival,) = gaining(shares, tmp_path, **kinds).against_controls
    assert rival.control == "strong"
    harms = {"baseline": 1.0, "grains": 0.4, "weak": 0.95, "strong": 0.6, "middling": 0.8}
    for name, errors in harms.items():  # where lower is better
        values = [float(i < errors * 100) for i in range(100)]
        steering = [{"method": name, "kind": kinds.get(name, "method")}] if name != "baseline" else None
        task = TaskData({"error": values}, higher={"error": False})
        write_run(tmp_path / "lower" / name, {"t": task}, steering=steering)
    (rival,) = compare_runs([tmp_path / "lower" / name for name in harms]).against_controls
    assert (rival.method, rival.control) == ("grains", "strong")


def test_the_rivals_of_a_method_stand_at_its_own_setting_or_beside_none(tmp_path: Path) -> None:
    kinds = dict.fromkeys(("own", "other", "words"), "control")
    shares = {"grains": (60, 0), "caa": (60, 0), "lora": (60, 0), "own": (0, 20), "other": (0, 50), "words": (0, 10)}
    gaining(shares, tmp_path, **kinds)
    names = ("baseline", *shares)
    beside = {"grains": ("own",), "caa": ("other",)}
    report = compare_runs([tmp_path / name for name in names], beside=beside)
    assert {item.method: item.control for item in report.against_controls} == {
        "grains": "own",
        "caa": "other",
        "lora": "other",  # it has no setting
    }
    report = compare_runs([tmp_path / name for name in names], beside={"grains": (), "caa": ("own", "other")})
    assert {item.method: item.control for item in report.against_controls}["grains"] == "words"


def test_the_headline_says_when_a_control_does_as_well(tmp_path: Path) -> None:
    tied = gaining({"grains": (40, 0), "vocabulary": (0, 41)}, tmp_path / "tied", vocabulary="control")
    said = "But on t acc grains is not shown to be better than its strongest control, vocabulary: −0.5 ("
    assert "improves t acc" in tied.headline and said in tied.headline
    assert re.search(r"vocabulary: −0\.5 \(−\S+ to \+\S+, adjusted p = \.\d+\)|adjusted p = 1\)", tied.headline)
    (line,) = control_lines(tied)
    assert "is not shown to differ from its strongest control" in line and "adjusted p = " in line
    assert "over 200 items" in line
    lost = gaining({"grains": (20, 0), "vocabulary": (60, 0)}, tmp_path / "lost", vocabulary="control")
    assert "But on t acc grains is worse than its strongest control, vocabulary: −20.0 (" in lost.headline
    alone = gaining({"grains": (60, 0), "vocabulary": (5, 0)}, tmp_path / "alone", vocabulary="control")
    assert "improves t acc" in alone.headline and "control" not in alone.headline
    page = render_html(tied)
    assert "not shown to be better than its strongest control, vocabulary" in page


def test_targets_come_before_preserved_tasks(tmp_path: Path) -> None:
    for name in ("plain", "steered"):
        write_run(tmp_path / name, {"skills": SKILL, "goal": PLAIN, "mmlu": SKILL, "aim": PLAIN})
    paths = [tmp_path / "plain", tmp_path / "steered"]
    assert [row.comparison.task for row in compare_runs(paths).rows] == ["goal", "aim", "skills", "mmlu"]
    chosen = compare_runs(paths, preserve=["goal"])
    assert [row.comparison.task for row in chosen.rows] == ["skills", "mmlu", "aim", "goal"]
    named = compare_runs(paths, targets=["aim"])
    assert [row.comparison.task for row in named.rows] == ["aim", "goal", "skills", "mmlu"]
    assert named.targets == (("aim", "acc"),) and {v.task for v in named.verdicts} == {"skills", "mmlu"}
    assert named.notes == ("goal is named neither as a target nor as preserved: it stands in the table alone",)
    with pytest.raises(GrainsError, match="'aim' is named both as a target and as preserved"):
        compare_runs(paths, targets=["aim"], preserve=["aim"])


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
    report = compare_runs(paths, subtasks=True)
    assert [row.comparison.task for row in report.rows] == ["t", "ours", "u", "v"]
    assert {verdict.task for verdict in report.verdicts} == {"ours", "u", "v"}
    assert {verdict.task for verdict in compare_runs(paths, subtasks=True, preserve=["v"]).verdicts} == {"v"}
    write_run(tmp_path / "by_task", {"t": PLAIN, "u": SKILL, "v": SKILL}, groups=groups)
    assert [v.task for v in compare_runs([tmp_path / "by_task", tmp_path / "plain"]).verdicts] == ["ours"]


def test_two_recipes_that_disagree_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"t": PLAIN})
    for name, role in (("one", "tasks"), ("two", "preserve")):
        write_run(tmp_path / name, {"t": PLAIN}, steering=[{"method": "grains", "evaluation": {role: ["t"]}}])
    report = compare_runs([tmp_path / name for name in ("plain", "one", "two")])
    assert report.targets == (("t", "acc"),)
    assert any("t is a target of one run's recipe and preserved by another's" in note for note in report.notes)


def test_a_shown_loss_is_a_loss_though_the_margin_lies_in_its_interval(tmp_path: Path) -> None:
    for name, harmed in (("plain", 0), ("steered", 36)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [*[0.0] * harmed, *[1.0] * (3000 - harmed)]})})
    report = compare_runs([tmp_path / "plain", tmp_path / "steered"], preserve=["t"])
    (verdict,) = report.verdicts
    assert verdict.answer == "lost" and verdict.interval[0] < -verdict.margin < verdict.interval[1] < 0
    assert "t acc is lost, −1.2 (" in report.headline
    assert "whether it lost more than that cannot be told" in report.headline
