"""From paired samples to scores: metrics, margins, clusters and directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from grains_eval.comparison import Analysis, compare
from grains_eval.comparison import item_metrics as measures
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.two_runs import compare_pair
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.folders import TaskData, bits, runs, write_run


def test_cluster_key_of_the_task(tmp_path: Path) -> None:
    docs = [{"q": i, "topic": {"name": f"c{i % 60}"}} for i in range(240)]
    generator = np.random.default_rng(6)
    effect = generator.normal(0, 1, 60)
    first = generator.normal(0, 1, 240)
    second = first + effect[np.arange(240) % 60]
    metadata = {"version": 1.0, "cluster_key": "topic.name"}
    one = TaskData({"score": first.tolist()}, docs=docs, metadata=metadata)
    two = TaskData({"score": second.tolist()}, docs=docs, metadata=metadata)
    (row,) = compare(*runs(tmp_path, one, two))
    assert row.clusters == 60
    assert row.standard_error == pytest.approx(stats.sem(effect), rel=1e-9)
    plain = [replace(task, metadata={"version": 1.0}) for task in (one, two)]
    paths = runs(tmp_path / "plain", *plain)
    assert compare(*paths)[0].standard_error < 0.5 * row.standard_error
    assert compare(*paths, clusters={"t": "topic.name"})[0] == row
    with pytest.raises(GrainsError, match="no field 'subject' to cluster by"):
        compare(*paths, clusters={"t": "subject"})


def test_metrics_that_cannot_be_compared_are_noted(tmp_path: Path) -> None:
    values = bits(20, 0.5, 8)
    task = TaskData(
        {"acc": values, "median": [float(i) for i in range(20)], "words": values, "bypass": values},
        reported={"median": 10.0, "words": 0.0, "bypass": 999.0},
        aggregation={"bypass": "bypass", "bleu": "bleu"},
    )
    broken = replace(task, values={**task.values, "words": [float("nan")] * 20, "bleu": [1.0] * 20})
    first, second = runs(tmp_path, broken, broken)
    rows, notes = compare_pair(read_run(first), read_run(second), Analysis())
    assert [row.comparison.metric for row in rows] == ["acc"]
    assert any("'median' is left out, it is not a mean" in note for note in notes)
    assert any("'words' is left out: not all finite" in note for note in notes)
    assert any("'bleu' is left out: its samples hold no bleu" in note for note in notes)
    assert compare(first, second, metrics=["acc"])[0].metric == "acc"
    with pytest.raises(GrainsError, match="nothing to compare"):
        compare(first, second, metrics=["words"])


def test_filters_become_part_of_the_metric(tmp_path: Path) -> None:
    task = TaskData({"exact_match": bits(20, 0.5, 9)}, filter="strict-match")
    (row,) = compare(*runs(tmp_path, task, task))
    assert row.metric == "exact_match,strict-match"


def test_directions_of_lm_evals_own_metrics_are_lm_evals() -> None:
    import lm_eval.api.metrics  # registers them
    from lm_eval.api.registry import is_higher_better

    assert lm_eval.api.metrics
    assert {name: is_higher_better(name) for name in measures.REGISTERED} == measures.REGISTERED


def test_runs_that_contradict_each_other_on_the_direction_get_no_verdict(tmp_path: Path) -> None:
    for name, higher, seed in (("a", True, 1), ("b", False, 2)):
        write_run(tmp_path / name, {"t": TaskData({"acc": bits(40, 0.5, seed)}, higher={"acc": higher})})
    report = compare_runs([tmp_path / "a", tmp_path / "b"])
    assert report.rows[0].comparison.higher_is_better is None
    note = "t: metric 'acc' has no verdict: higher is better in 'a', lower in 'b'; declare its direction"
    assert any(said.startswith(note) for said in report.notes)
    (row,) = compare(tmp_path / "a", tmp_path / "b", higher_is_better={"acc": False})
    assert row.higher_is_better is False


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path) -> None:
    for name, reported in (("a", 0.5), ("b", 0.7)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [0.0, 1.0] * 6}, reported={"acc": reported})})
    with pytest.raises(GrainsError, match=r"nothing to compare .* t: metric 'acc' is left out, .*0\.5 from .* 0\.7 in"):
        compare(tmp_path / "a", tmp_path / "b")
