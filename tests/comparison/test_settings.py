"""What a comparison refuses, each in one line that names what is allowed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from grains_eval.comparison import Analysis, Question, compare
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
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
        ({"alpha": 0.0}, r"alpha 0 is not a level of a test; give a share above 0 and below 1"),
        ({"alpha": 1.0}, r"alpha 1 is not a level"),
        ({"alpha": float("nan")}, r"alpha nan is not a level"),
        ({"margin": 0.0}, r"margin 0 is not a tolerated loss; give a share above 0 and below 1, such as 0.01"),
        ({"margin": 1.0}, r"margin 1 is not a tolerated loss"),
        ({"metrics": ["acc", "f1"]}, r"unknown metric 'f1': known are acc, acc_norm"),
        ({"tasks": ["g_c"]}, r"unknown task 'g_c': did you mean 'g_b'\? known are g, g_a, g_b"),
        ({"clusters": {"h": "topic"}}, r"unknown task to cluster 'h': .*known are g, g_a, g_b"),
        ({"clusters": {"g": "tpic"}}, r"no field 'tpic' to cluster by; its fields are q, topic; name one"),
        ({"groups": "all"}, r"unknown kind of groups 'all': known are fixed, sampled"),
        ({"preserve": ["mmul"]}, r"unknown task to preserve 'mmul': known are g, g_a, g_b"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(choice: dict[str, Any], line: str, paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match=line):
        if set(choice) <= {field.name for field in fields(Question)}:
            compare_runs(paths, tmp_path / "report", question=Question(**choice))
        compare_runs(paths, tmp_path / "report", analysis=Analysis(**choice))
    assert not (tmp_path / "report").exists()
    if set(choice) <= {"alpha", "metrics", "tasks", "clusters"}:
        with pytest.raises(GrainsError, match=line):
            compare(*paths, **choice)


def test_a_groups_cluster_field_holds_for_its_tasks(paths: list[Path]) -> None:
    rows = compare(*paths, clusters={"g": "topic"}, subtasks=True, metrics=["acc"])
    assert {row.task: row.clusters for row in rows if row.task != "g"} == {"g_a": 4, "g_b": 4}
    (plain,) = compare(*paths, metrics=["acc"])
    assert (plain.task, plain.clusters) == ("g", None)
