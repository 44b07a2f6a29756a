"""What is known of the largest difference that there can be, of unequal clusters, and of the order of items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.betting import BoundedMean
from grains_eval.comparison.bootstrap import MOST_UNITS, Studentised, effective
from grains_eval.comparison.clusters import cluster_sums
from grains_eval.comparison.estimates import adjust
from grains_eval.comparison.intervals import NoSpread, paired
from grains_eval.report import compare_runs
from tests.comparison.folders import TaskData, write_run


def _folders(root: Path, metric: str, first: list[float], second: list[float], clusters: int = 0) -> list[Path]:
    docs = [{"q": i, "topic": i % clusters if clusters else i} for i in range(len(first))]
    metadata = {"version": 1.0, **({"cluster_key": "topic"} if clusters else {})}
    made: list[Path] = []
    for name, values in (("baseline", first), ("steered", second)):
        made.append(write_run(root / name, {"t": TaskData({metric: values}, docs=docs, metadata=metadata)}))
    return made


def test_intervals_and_detectable_effects_of_shares_end_at_one(tmp_path: Path) -> None:
    first, second = [0.0] * 15 + [1.0] * 9, [1.0] * 15 + [0.0] * 9
    (row,) = compare_runs(_folders(tmp_path, "acc", first, second, clusters=24)).rows
    assert row.comparison.test == "cluster bootstrap" and row.procedure.interval(0.0002)[1] > 1
    (wide,) = compare(*_folders(tmp_path, "acc", first, second, clusters=24), alpha=0.0002)
    assert wide.interval[1] == 1.0
    # among two hundred rows nothing below one would be found, where one row alone could have found something
    assert row.comparison.minimum_detectable_effect < 1
    among = adjust([row] * 200)[0]
    assert row.procedure.detectable(0.05 / 200, 0.8) > 1
    assert math.isnan(among.comparison.minimum_detectable_effect)


def test_an_interval_of_more_resamples_ends_at_one_too(tmp_path: Path) -> None:
    first, second = [0.0] * 19 + [1.0] * 8, [1.0] * 19 + [0.0] * 8
    (row,) = compare_runs(_folders(tmp_path, "acc", first, second, clusters=27)).rows
    assert isinstance(row.procedure, Studentised)
    among = adjust([row] * 200, alpha=0.0005)[0]
    assert among.comparison.interval[1] <= 1.0


@pytest.mark.parametrize(("metric", "known"), [("acc", True), ("f1_of_mine", False)])
def test_bounds_that_were_only_seen_are_no_guarantee(tmp_path: Path, metric: str, known: bool) -> None:
    generator = np.random.default_rng(0)
    graded = generator.random(60).tolist(), generator.random(60).tolist()
    (row,) = compare(*_folders(tmp_path / "graded", metric, *graded))
    assert row.guaranteed is known
    assert ("have the bounds seen here, 0 and 1" in row.assumption) is not known
    # nothing but 0 and 1 is a share by itself
    binary = [float(x > 0.5) for x in graded[0]], [float(x > 0.5) for x in graded[1]]
    (row,) = compare(*_folders(tmp_path / "binary", metric, *binary))
    assert row.guaranteed and "seen here" not in row.assumption


UNEQUAL = [0] * 30 + list(range(1, 31))  # one cluster of thirty items, thirty of one


def test_unequal_clusters_count_for_what_they_weigh_and_are_no_guarantee() -> None:
    still = paired([0.5] * 60, [0.5] * 60, clusters=UNEQUAL)
    assert isinstance(still.procedure, NoSpread) and not still.guaranteed
    # the mean of 31 clusters' shares, of which the heaviest is half of the whole
    assert still.procedure.reach == pytest.approx(31 / 2)
    labels = [item // 2 for item in range(40)] + [20] * 3 + [21] * 3 + [22] * 3 + [23] * 3
    after = np.full(52, 0.5)
    after[[0, 44]] = 0.9
    few = paired([0.5] * 52, after, clusters=labels)
    assert (few.test, few.guaranteed) == ("betting over clusters", False)
    assert isinstance(few.procedure, BoundedMean) and few.procedure.reach == pytest.approx(24 * 3 / 52)
    assert few.procedure.values.sum() / 24 == pytest.approx(few.difference)


def test_students_freedom_is_that_of_as_many_equal_clusters() -> None:
    generator = np.random.default_rng(1)
    equal = paired(generator.random(100), generator.random(100), clusters=[i % 25 for i in range(100)])
    assert isinstance(equal.procedure, Studentised) and equal.procedure.freedom == pytest.approx(24)
    labels = [min(i // 2, 36) for i in range(80)]
    unequal = paired(generator.random(80), generator.random(80), clusters=labels)
    expected = effective(*cluster_sums(np.zeros(80), labels)) - 1
    assert isinstance(unequal.procedure, Studentised)
    assert unequal.procedure.freedom == pytest.approx(expected) and expected < 36
    many = paired(generator.random(3_000), generator.random(3_000), clusters=list(range(3_000)))
    assert isinstance(many.procedure, Studentised) and many.procedure.freedom == MOST_UNITS - 1


def test_the_order_of_items_in_their_file_does_not_matter() -> None:
    """Sorted items would win a fortune on the way to a mean of zero."""
    steered = np.r_[np.full(150, 0.9), np.full(150, 0.1)]
    found = paired(np.full(300, 0.5), steered)
    assert found.test == "betting" and found.p > 0.1 and found.interval[0] < 0 < found.interval[1]
    swapped = paired(np.full(300, 0.5), steered[::-1])
    assert swapped.p > 0.1


def test_bounds_are_known_only_where_all_that_a_row_holds_says_so(tmp_path: Path) -> None:
    """A metric of one's own: 0 and 1 in one run, or in one subtask, do not bound the others."""
    binary, graded = [0.0, 1.0] * 30, np.random.default_rng(0).random(60).tolist()
    for name, first, second in (("later", binary, graded), ("before", graded, binary)):
        (row,) = compare(*_folders(tmp_path / name, "mine", first, second))
        assert not row.guaranteed and "seen here" in row.assumption
    places: list[Path] = []
    for name in ("baseline", "steered"):
        tasks = {
            task: TaskData(
                {"mine": values[:: 1 if name == "baseline" else -1]}, docs=[f"{task} {i}" for i in range(60)]
            )
            for task, values in (("sharp", binary), ("soft", graded))
        }
        mean = (np.mean(binary) + np.mean(graded)) / 2
        places.append(
            write_run(tmp_path / "group" / name, tasks, groups={"g": (["sharp", "soft"], {"mine,none": mean})})
        )
    (row,) = compare(*places)
    assert row.task == "g" and row.test == "betting" and not row.guaranteed
