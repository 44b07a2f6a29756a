"""From run folders to rows: joins, exclusion, groups, clusters, corpus metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from grains_eval.comparison import Analysis, compare
from grains_eval.comparison.estimates import adjust
from grains_eval.comparison.intervals import paired
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.noninferiority import judge
from grains_eval.comparison.power import mcnemar_detectable_effect
from grains_eval.comparison.proportions import lower_end
from grains_eval.comparison.significance import mcnemar
from grains_eval.comparison.two_runs import compare_pair
from grains_eval.errors import GrainsError
from tests.comparison.folders import TaskData, bits, runs, write_run


def test_binary_metric(tmp_path: Path) -> None:
    first, second = bits(120, 0.4, 0), bits(120, 0.6, 1)
    (row,) = compare(*runs(tmp_path, TaskData({"acc": first}), TaskData({"acc": second})))
    helped = sum(b > a for a, b in zip(first, second, strict=True))
    harmed = sum(b < a for a, b in zip(first, second, strict=True))
    assert (row.helped, row.harmed, row.unchanged) == (helped, harmed, 120 - helped - harmed)
    assert row.p == row.adjusted_p == mcnemar(helped, harmed)
    assert row.test == "exact McNemar"
    assert row.interval == (lower_end(helped, harmed, 120, 0.025), -lower_end(harmed, helped, 120, 0.025))
    assert row.difference == pytest.approx(np.mean(second) - np.mean(first), abs=1e-15)
    assert row.anti_steered == pytest.approx(harmed / 120)
    assert row.method == "steered"
    assert row.scale == 1


def test_continuous_metric_with_lower_better(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(5, 1, 80).tolist(), generator.normal(4.8, 1, 80).tolist()
    data = {"higher": {"loss": False}}
    (row,) = compare(
        *runs(tmp_path, TaskData({"loss": first}, **data), TaskData({"loss": second}, **data))  # type: ignore[arg-type]
    )
    # Scores without bounds: the studentised bootstrap, which is near the t test on normal scores.
    assert row.p == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=0.02)
    assert (row.test, row.guaranteed) == ("studentised bootstrap", False)
    assert row.helped == int(np.sum(np.array(second) < np.array(first)))
    assert not row.higher_is_better
    assert row.scale == 0


def grouped(tmp_path: Path, sizes: list[int], by_size: bool) -> tuple[Path, Path, list[list[float]], list[list[float]]]:
    names = [f"g_{i}" for i in range(len(sizes))]
    sides = []
    for side, folder in enumerate(("a", "b")):
        values = [bits(n, 0.4 + 0.1 * side + 0.02 * i, 10 * side + i) for i, n in enumerate(sizes)]
        means = [float(np.mean(v)) for v in values]
        mean = float(np.average(means, weights=sizes if by_size else None))
        write_run(
            tmp_path / folder,
            {
                name: TaskData({"acc": v}, docs=[{"task": name, "q": i} for i in range(len(v))])
                for name, v in zip(names, values, strict=True)
            },
            groups={"outer": (["inner"], {"acc,none": mean}), "inner": (names, {"acc,none": mean})},
        )
        sides.append(values)
    return tmp_path / "a", tmp_path / "b", sides[0], sides[1]


@pytest.mark.parametrize("by_size", [True, False])
@pytest.mark.parametrize("sizes", [[10, 60, 30], [8, 30, 12, 9, 40, 25, 14, 33, 10, 21, 17]])
def test_groups_weigh_as_the_harness_does(by_size: bool, sizes: list[int], tmp_path: Path) -> None:
    one, two, first, second = grouped(tmp_path, sizes, by_size)
    (row,) = compare(one, two)
    assert row.task == "outer"
    weights = sizes if by_size else None
    difference = np.average([np.mean(b) - np.mean(a) for a, b in zip(first, second, strict=True)], weights=weights)
    assert row.difference == pytest.approx(difference, abs=1e-12)
    assert row.steered - row.baseline == pytest.approx(difference, abs=1e-12)
    assert row.n == sum(sizes)
    assert (row.clusters, row.estimand) == (None, "these subtasks")
    (sampled,) = compare(one, two, groups="sampled")
    assert (sampled.clusters, sampled.estimand) == (len(sizes), "subtasks like these")
    # With so few subtasks nothing can be said of others, and the row says how many it would take.
    assert math.isnan(sampled.p) and math.isnan(sampled.interval[0])
    assert sampled.units_needed is not None and sampled.units_needed > len(sizes)
    with pytest.raises(GrainsError, match="unknown kind of groups 'random'"):
        compare(one, two, groups="random")  # type: ignore[arg-type]
    rows = compare(one, two, subtasks=True)
    assert [r.task for r in rows] == ["outer", *(f"g_{i}" for i in range(len(sizes)))]
    assert rows[0].adjusted_p >= row.adjusted_p


@pytest.mark.parametrize("clustered", [True, False])
def test_a_group_in_which_nothing_moved_is_not_known_exactly(clustered: bool, tmp_path: Path) -> None:
    metadata = {"version": 1.0, **({"cluster_key": "topic"} if clustered else {})}
    sizes = {"g_0": 20, "g_1": 40, "g_2": 60}
    tasks = {
        name: TaskData(
            {"acc": [1.0] * n}, docs=[{"t": name, "q": i, "topic": i // 4} for i in range(n)], metadata=metadata
        )
        for name, n in sizes.items()
    }
    for folder in ("a", "b"):
        values = {"acc,none": 1.0}
        write_run(tmp_path / folder, tasks, groups={"g": (list(sizes), values)})
        # the mean of the subtasks and that of the items are the same here, which counts as by size
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert row.difference == 0 and row.standard_error == 0
    assert row.interval[1] == pytest.approx(-row.interval[0])
    # no narrower than one more unit of the 120 (30 clusters) either way, and no wider than a few of them
    units = row.clusters or 120
    assert units == (30 if clustered else 120)
    assert 1 / units < row.interval[1] < 6 / units
    assert judge(row).answer == "cannot tell"


def test_unweighted_strata_in_which_nothing_moved_count_their_heaviest_item() -> None:
    result = paired(np.ones(100), np.ones(100), weights=[1 / 10] * 10 + [1 / 90] * 90)
    # one item of the ten is worth 1/20 of the whole
    assert 0.05 < result.interval[1] == -result.interval[0]
    assert (result.standard_error, result.p) == (0, 1)


def test_intervals_of_shares_stay_within_what_is_possible(tmp_path: Path) -> None:
    first, second = [0.0, 0.1, 0.5, 0.2, 0.9], [1.0, 1.0, 0.4, 1.0, 0.8]
    (row,) = compare(*runs(tmp_path / "share", TaskData({"acc": first}), TaskData({"acc": second})), alpha=0.001)
    assert -1 <= row.interval[0] < row.difference < row.interval[1] == 1.0
    assert not row.minimum_detectable_effect > 1
    wide = [TaskData({"loss": [10 * x for x in side]}) for side in (first, second)]
    (row,) = compare(*runs(tmp_path / "few", *wide))
    assert math.isnan(row.interval[0]) and row.units_needed == 60
    wide = [TaskData({"loss": [10 * x for x in side] * 12}) for side in (first, second)]
    (row,) = compare(*runs(tmp_path / "loss", *wide), alpha=0.001)
    assert row.interval[1] > 1.3 * row.difference > 6


@pytest.mark.parametrize(("alpha", "refused"), [(0.9, False), (1e-12, False), (1e-13, True)])
def test_extreme_levels(alpha: float, refused: bool, tmp_path: Path) -> None:
    folders = runs(tmp_path, TaskData({"acc": bits(400, 0.4, 0)}), TaskData({"acc": bits(400, 0.6, 1)}))
    if refused:
        with pytest.raises(GrainsError, match="alpha 1e-13 is too small to compute with; give 1e-12 or more"):
            compare(*folders, alpha=alpha)
        return
    (row,) = compare(*folders, alpha=alpha)
    assert -1 <= row.interval[0] < row.difference < row.interval[1] <= 1
    assert math.isnan(row.minimum_detectable_effect) is (alpha == 0.9)


def test_group_of_unknown_weights_is_noted(tmp_path: Path) -> None:
    one, two, *_ = grouped(tmp_path, [10, 60, 30], True)
    file = next((one / "org__model").glob("results_*"))
    results = json.loads(file.read_text())
    results["groups"]["outer"]["acc,none"] = 0.123
    file.write_text(json.dumps(results))
    rows, notes = compare_pair(read_run(one), read_run(two), Analysis())
    assert len(rows) == 3
    assert any("weights could not be told" in note for note in notes)


@pytest.mark.parametrize("metric", ["acc", "score"])
def test_a_minimum_detectable_effect_is_that_of_holms_first_step_at_80_percent(metric: str, tmp_path: Path) -> None:
    """Of three rows each has to pass a third of the level; a row without a p is none of them."""
    generator = np.random.default_rng(11)
    first, second = bits(300, 0.4, 0), bits(300, 0.5, 1)
    if metric == "score":
        first, second = generator.random(300).tolist(), generator.random(300).tolist()
    tiny = {"few": TaskData({"loss": [5.0, 7.0, 9.0]})}
    for folder, values in (("a", first), ("b", second)):
        tasks = {name: TaskData({metric: values}, docs=[f"{name} {i}" for i in range(300)]) for name in "xyz"}
        write_run(
            tmp_path / folder,
            {**tasks, **tiny} if folder == "a" else {**tasks, "few": TaskData({"loss": [6.0, 6.0, 9.5]})},
        )
    rows, _ = compare_pair(read_run(tmp_path / "a"), read_run(tmp_path / "b"), Analysis())
    made = adjust(rows)
    assert [math.isnan(each.comparison.p) for each in made] == [False, False, False, True]
    for each in made[:3]:
        found = each.comparison.minimum_detectable_effect
        assert found == each.procedure.detectable(0.05 / 3, 0.8)
        assert found > each.procedure.detectable(0.05, 0.8) and found > each.procedure.detectable(0.05 / 3, 0.78)
    if metric == "acc":
        changed = (made[0].comparison.helped + made[0].comparison.harmed) / 300
        assert made[0].comparison.minimum_detectable_effect == mcnemar_detectable_effect(changed, 300, alpha=0.05 / 3)
