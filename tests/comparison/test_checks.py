"""What a comparison refuses, each in one line that names what is allowed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison import item_metrics as measures
from grains_eval.comparison.verdict import answer
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.tables import to_markdown
from tests.comparison.folders import TaskData, write_run

DOCS = [{"q": i, "topic": i % 4} for i in range(16)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("choices")
    for name, odd in (("baseline", 0.0), ("steered", 1.0)):
        tasks = {
            task: TaskData({"acc": [0.0, odd] * 8, "acc_norm": [1.0, 0.0] * 8}, docs=DOCS) for task in ("g_a", "g_b")
        }
        write_run(root / name, tasks, groups={"g": (["g_a", "g_b"], {"acc,none": odd / 2, "acc_norm,none": 0.5})})
    return [root / "baseline", root / "steered"]


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ({"alpha": 0.0}, r"alpha 0 is no level of a test; give a share above 0 and below 1"),
        ({"alpha": 1.0}, r"alpha 1 is no level"),
        ({"alpha": float("nan")}, r"alpha nan is no level"),
        ({"margin": 0.0}, r"margin 0 is no tolerated loss; give a share above 0 and below 1, such as 0.01"),
        ({"margin": 1.0}, r"margin 1 is no tolerated loss"),
        ({"metrics": ["acc", "f1"]}, r"unknown metric 'f1': known are acc, acc_norm"),
        ({"tasks": ["g_c"]}, r"unknown task 'g_c': did you mean 'g_b'\? known are g, g_a, g_b"),
        ({"clusters": {"h": "topic"}}, r"unknown task to cluster 'h': .*known are g, g_a, g_b"),
        ({"clusters": {"g": "tpic"}}, r"no field 'tpic' to cluster by; its fields are q, topic; name one"),
        ({"preserve": ["mmul"]}, r"unknown task to preserve 'mmul': known are g, g_a, g_b"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(choice: dict[str, Any], line: str, paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match=line):
        compare_runs(paths, tmp_path / "report", **choice)
    assert not (tmp_path / "report").exists()
    if set(choice) <= {"alpha", "metrics", "tasks", "clusters"}:
        with pytest.raises(GrainsError, match=line):
            compare(*paths, **choice)


def test_a_groups_cluster_field_holds_for_its_tasks(paths: list[Path]) -> None:
    rows = compare(*paths, clusters={"g": "topic"}, subtasks=True, metrics=["acc"])
    assert {row.task: row.clusters for row in rows if row.task != "g"} == {"g_a": 4, "g_b": 4}
    (plain,) = compare(*paths, metrics=["acc"])
    assert (plain.task, plain.clusters) == ("g", None)


def word_errors(root: Path, declared: bool | None) -> list[Path]:
    """Two runs whose word error rate rises from .15 to .36 of 60 documents, as a user's own metric logs it."""
    for name, level in (("baseline", 0.148), ("steered", 0.355)):
        values = [level + 0.01 * (i % 7) for i in range(60)]
        write_run(root / name, {"speech": TaskData({"wer": values}, higher={"wer": declared})})  # type: ignore[dict-item]
    return [root / "baseline", root / "steered"]


def test_a_metric_without_a_direction_gets_no_verdict_until_it_has_one(tmp_path: Path) -> None:
    places = word_errors(tmp_path, None)
    report = compare_runs(places)
    (row,) = (row.comparison for row in report.rows)
    assert row.higher_is_better is None and row.adjusted_p < 0.001 and math.isnan(row.anti_steered)
    assert answer(row, 0.05) == "changed"
    assert "improves" not in report.headline and "worsens" not in report.headline
    assert "changes speech wer from 17.7 to 38.4" in report.headline
    assert "whether that is better is not declared" in report.headline
    assert any("--higher_is_better wer=true or wer=false" in note for note in report.notes)
    assert "| wer ? |" in to_markdown(report) and "no direction declared" in render_html(report)
    kept = compare_runs(places, preserve=["speech"])
    assert kept.verdicts == () and any("has no verdict" in note for note in kept.notes)
    for direction, said in ((False, "worsens speech wer"), (True, "improves speech wer")):
        told = compare_runs(places, higher_is_better={"wer": direction})
        assert said in told.headline and not told.notes
        assert compare(*places, higher_is_better={"wer": direction})[0].higher_is_better is direction
    with pytest.raises(GrainsError, match="unknown metric to declare a direction for 'wre': did you mean 'wer'"):
        compare_runs(places, higher_is_better={"wre": True})


@pytest.mark.parametrize(("higher", "expected"), [(True, "better"), (False, "worse"), (None, "changed")])
def test_the_verdict_follows_the_direction(higher: bool | None, expected: str, tmp_path: Path) -> None:
    (up,) = compare(*word_errors(tmp_path, higher))
    assert answer(up, 0.05) == expected
    down = replace(up, difference=-up.difference)
    assert answer(down, 0.05) == {"better": "worse", "worse": "better"}.get(expected, expected)
    assert answer(replace(up, adjusted_p=0.2), 0.05) == "not shown"
    assert (up.helped, up.harmed) == ((0, 60) if higher is False else (60, 0))


def test_directions_of_lm_evals_own_metrics_are_lm_evals() -> None:
    import lm_eval.api.metrics  # registers them
    from lm_eval.api.registry import is_higher_better

    assert lm_eval.api.metrics
    assert {name: is_higher_better(name) for name in measures.REGISTERED} == measures.REGISTERED
