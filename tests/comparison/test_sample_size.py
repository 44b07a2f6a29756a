"""From a pilot to the items that are needed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grains_eval.comparison.power import (
    betting_items_needed,
    betting_power,
    items_needed,
    mcnemar_items_needed,
    mcnemar_power,
)
from grains_eval.comparison.sample_size import Spread, plan, read_pilot
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.folders import TaskData, write_run

ITEMS = 120


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A 0/1 metric with 18 helped and 6 harmed items, a graded one, and a graded one in 60 clusters."""
    root = tmp_path_factory.mktemp("pilot")
    generator = np.random.default_rng(3)
    before = [0.0] * 60 + [1.0] * 60
    after = [1.0] * 18 + [0.0] * 42 + [0.0] * 6 + [1.0] * 54
    graded = generator.normal(0, 1, ITEMS)
    moved = graded + generator.normal(0.1, 0.5, ITEMS)
    shared = graded + np.repeat(generator.normal(0.1, 0.5, 60), 2)
    docs = [{"q": i, "topic": i // 2} for i in range(ITEMS)]
    clustered = {"version": 1.0, "cluster_key": "topic"}
    for name, binary, score, group in (("baseline", before, graded, graded), ("other", after, moved, shared)):
        tasks = {
            "binary": TaskData({"acc": binary}),
            "graded": TaskData({"score": score.tolist()}),
            "clustered": TaskData({"score": group.tolist()}, docs=docs, metadata=clustered),
        }
        write_run(root / name, tasks)
    return [root / "baseline", root / "other"]


def test_a_report_and_its_runs_are_the_same_pilot(folders: list[Path], tmp_path: Path) -> None:
    compare_runs(folders, tmp_path)
    found = read_pilot([tmp_path])
    assert found == read_pilot(folders) == read_pilot([tmp_path / "report.json"])
    assert [row.task for row in read_pilot([tmp_path], metrics=["score"])] == ["graded", "clustered"]
    assert [row.task for row in read_pilot([tmp_path], tasks=["binary"])] == ["binary"]
    with pytest.raises(GrainsError, match="unknown task 'binray': did you mean 'binary'"):
        read_pilot([tmp_path], tasks=["binray"])
    with pytest.raises(GrainsError, match="unknown metric 'f1': known are acc, score"):
        read_pilot([tmp_path], metrics=["f1"])


def test_what_is_no_pilot_is_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match=r"holds no report\.json; give a folder that compare wrote"):
        read_pilot(folders[:1])
    (tmp_path / "report.json").write_text(json.dumps({"comparisons": [{"task": "t"}]}))
    with pytest.raises(GrainsError, match="is not a report of compare"):
        read_pilot([tmp_path])


def test_a_binary_pilot_plans_with_its_shares(folders: list[Path]) -> None:
    binary, _, _ = read_pilot(folders)
    found = plan(binary)
    assert (found.effect, found.n) == (pytest.approx(0.1), ITEMS)
    assert found.needed == mcnemar_items_needed(18 / 120, 6 / 120)
    assert found.power == pytest.approx(mcnemar_power(18 / 120, 6 / 120, ITEMS))
    # the share of changed items stays, the difference is the one asked for
    asked = plan(binary, effect=0.05, n=1000)
    assert asked.needed == mcnemar_items_needed(0.125, 0.075)
    assert asked.power == pytest.approx(mcnemar_power(0.125, 0.075, 1000))
    assert mcnemar_power((0.2 + asked.detectable) / 2, (0.2 - asked.detectable) / 2, 1000) == pytest.approx(0.8)
    assert "only 0.2 of them" in plan(binary, effect=0.3).reason


def test_a_clustered_pilot_plans_with_its_clusters(folders: list[Path]) -> None:
    _, graded, clustered = read_pilot(folders)
    assert graded.clusters is None and clustered.clusters == 60
    for row in (graded, clustered):
        found = plan(row, effect=0.2)
        assert found.needed is not None
        there = plan(row, effect=0.2, n=found.needed)
        assert there.power >= 0.8 > plan(row, effect=0.2, n=found.needed - 1).power
        assert there.detectable == pytest.approx(0.2, rel=0.01)
    # the comparison's own is that of Holm's first step over three rows
    assert plan(clustered).detectable < clustered.minimum_detectable_effect
    assert plan(replace(clustered, clusters=None)).detectable < plan(clustered).detectable


def test_power_of_a_plan_is_met_in_simulated_runs() -> None:
    """Clusters of ten items that share half of their change."""
    spread = Spread(deviation=math.sqrt(10 * (0.5 + 0.5 / 10)), items_per_cluster=10)
    n = spread.needed(0.5, 0.05, 0.8)
    clusters, repeats = round(n / 10), 4_000
    generator = np.random.default_rng(7)
    means = 0.5 + generator.normal(0, math.sqrt(0.5 + 0.5 / 10), (repeats, clusters))
    statistic = means.mean(axis=1) / (means.std(axis=1, ddof=1) / math.sqrt(clusters))
    from scipy import stats

    found = float(np.mean(np.abs(statistic) > stats.t.ppf(0.975, clusters - 1)))
    assert found == pytest.approx(0.8, abs=0.03)


def test_a_pilot_that_shows_nothing_says_so(folders: list[Path]) -> None:
    binary, graded, _ = read_pilot(folders)
    still = plan(replace(binary, helped=0, harmed=0, difference=0.0))
    assert still.needed is None and still.reason == "the pilot's items did not vary"
    level = plan(replace(graded, difference=0.0))
    assert level.reason == "the pilot shows no difference" and level.detectable > 0
    assert plan(graded).reason == ""
    assert plan(replace(graded, helped=2, harmed=0)).reason.startswith("only 2 of 120 items moved")
    assert plan(replace(graded, standard_error=math.nan)).reason == "the pilot's items did not vary"


@pytest.mark.parametrize(("helped", "harmed", "doubted"), [(9, 0, True), (4, 5, True), (10, 0, False), (4, 6, False)])
def test_a_spread_is_in_doubt_where_fewer_than_ten_items_moved(
    helped: int, harmed: int, doubted: bool, folders: list[Path]
) -> None:
    graded = replace(read_pilot(folders)[1], helped=helped, harmed=harmed)
    found = plan(graded)
    assert (f"only {helped + harmed} of 120 items moved" in found.reason) is doubted
    assert found.needed is not None, "the doubt is said beside the number"


def test_bounded_scores_are_planned_for_the_betting_test_and_others_for_t(folders: list[Path]) -> None:
    graded = replace(read_pilot(folders)[1], test="betting", scale=1.0, standard_error=0.3 / math.sqrt(ITEMS))
    found = plan(graded, effect=0.05, n=500)
    assert found.needed == betting_items_needed(0.05, 0.3) and found.power == betting_power(0.05, 0.3, 500)
    # the test is about differences of shares
    by_t = items_needed(0.05, 0.3)
    assert found.needed > by_t == plan(replace(graded, scale=0.0), effect=0.05).needed
    assert plan(replace(graded, test="studentised bootstrap"), effect=0.05).needed == by_t
