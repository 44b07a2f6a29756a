"""Reports that several files look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.comparison import Question
from grains_eval.report import ReportData, compare_runs
from tests.comparison import world
from tests.comparison.folders import TaskData, write_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return world.folders(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(folders: dict[str, Path]) -> ReportData:
    return compare_runs(folders, supplement=world.extras())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """One preserved task of nine clusters, and one of many items."""
    root = tmp_path_factory.mktemp("few")
    docs = [{"question": f"{place}", "topic": place % 9} for place in range(63)]
    for name in ("plain", "grains"):
        scores = [float(name == "grains" or place % 3 > 0) for place in range(63)]
        small = TaskData({"acc": scores}, docs=docs, metadata={"version": 1.0, "cluster_key": "topic"})
        config = {"scoring_path": "plain", "scoring_path_reason": "the model <reads> ahead"}
        write_run(root / name, {"few": small, "many": TaskData({"acc": [0.0, 1.0] * 1_000})}, config=config)
    return compare_runs([root / "plain", root / "grains"], question=Question(preserve=["few", "many"]))
