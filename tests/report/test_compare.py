"""From run folders to rows: joins, exclusion, groups, clusters, corpus metrics."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from grains_eval.errors import GrainsError
from grains_eval.report import compare
from grains_eval.report.compare import compare_pair
from grains_eval.report.corpus import corpus_metric
from grains_eval.report.elementary import mcnemar
from grains_eval.report.runs import read_run
from grains_eval.report.shares import lower_end
from grains_eval.report.statistics import paired
from grains_eval.report.verdict import judge
from tests.report.folders import TaskData, doc_hash, write_run


def runs(tmp_path: Path, first: TaskData, second: TaskData, **kwargs: object) -> tuple[Path, Path]:
    return (
        write_run(tmp_path / "baseline", {"t": first}, **kwargs),  # type: ignore[arg-type]
        write_run(tmp_path / "steered", {"t": second}, **kwargs),  # type: ignore[arg-type]
    )


def bits(count: int, share: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(count) < share).astype(float).tolist()


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


def test_rows_are_joined_by_document_not_by_order(tmp_path: Path) -> None:
    values = bits(30, 0.5, 3)
    first, second = runs(tmp_path, TaskData({"acc": values}), TaskData({"acc": values}))
    file = next((second / "org__model").glob("samples_*"))
    lines = file.read_text().splitlines()
    shuffled = [json.loads(line) for line in reversed(lines)]
    for number, row in enumerate(shuffled):
        row["doc_id"] = number
    file.write_text("\n".join(json.dumps(row) for row in shuffled) + "\n")
    (row,) = compare(first, second)
    assert row.unchanged == 30


def test_duplicate_documents_pair_off(tmp_path: Path) -> None:
    docs = [{"q": "same"}] * 4 + [{"q": "other"}] * 2
    prompts = ["same"] * 4 + ["other"] * 2
    one = TaskData({"acc": [1.0, 0, 0, 0, 1, 1]}, docs=docs, prompts=prompts)
    two = TaskData({"acc": [1.0, 1, 0, 0, 1, 0]}, docs=docs, prompts=prompts)
    (row,) = compare(*runs(tmp_path, one, two))
    assert (row.n, row.helped, row.harmed) == (6, 1, 1)


def test_items_that_built_or_tuned_are_left_out_of_both(tmp_path: Path) -> None:
    docs = [{"q": i} for i in range(40)]
    first, second = bits(40, 0.3, 4), bits(40, 0.7, 5)
    used = {"build": [doc_hash(d) for d in docs[:6]], "development": [doc_hash(d) for d in docs[6:10]]}
    write_run(tmp_path / "a", {"t": TaskData({"acc": first}, docs=docs)})
    write_run(
        tmp_path / "b",
        {"t": TaskData({"acc": second}, docs=docs)},
        steering=[{"method": "grains", "doc_hashes": used}],
    )
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert (row.n, row.excluded) == (30, 10)
    assert row.baseline == pytest.approx(np.mean(first[10:]))
    assert row.difference == pytest.approx(np.mean(second[10:]) - np.mean(first[10:]))
    (fewer,) = compare(tmp_path / "a", tmp_path / "b", exclude={doc_hash(docs[-1])})
    assert (fewer.n, fewer.excluded) == (29, 11)
    with pytest.raises(GrainsError, match="all 40 documents built or tuned the vector"):
        compare(tmp_path / "a", tmp_path / "b", exclude={doc_hash(d) for d in docs})


def test_documents_with_pictures_join_without_their_hash(tmp_path: Path) -> None:
    def task(values: list[float], address: int) -> TaskData:
        docs = [
            {
                "question": f"q{i}",
                "image": f"<PIL.PngImagePlugin.PngImageFile image mode=RGB size=8x8 at 0x{address + i:X}>",
            }
            for i in range(12)
        ]
        return TaskData({"acc": values}, docs=docs)

    known = [hashlib.sha256(json.dumps({"question": f"q{i}"}, indent=2).encode()).hexdigest() for i in range(3)]
    write_run(tmp_path / "a", {"t": task([0.0] * 12, 0x7F0000)})
    write_run(
        tmp_path / "b",
        {"t": task([1.0] * 6 + [0.0] * 6, 0x7FAA00)},
        steering=[{"method": "grains", "doc_hashes": {"build": known}}],
    )
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert (row.n, row.helped, row.excluded) == (9, 3, 3)


def test_text_documents_with_foreign_hashes_are_refused(tmp_path: Path) -> None:
    values = [1.0] * 4
    one = TaskData({"acc": values}, doc_hashes=["a", "b", "c", "d"])
    two = TaskData({"acc": values}, doc_hashes=["e", "f", "g", "h"])
    with pytest.raises(GrainsError, match="4 of 4 documents"):
        compare(*runs(tmp_path, one, two))


def test_margins_show_steering_below_the_threshold(tmp_path: Path) -> None:
    """Accuracy does not move, yet a third of the items were pushed the wrong way."""
    choices = [" yes", " no"]
    before = [[["-1.0", "False"], ["-2.0", "False"]]] * 6
    after = [[[str(s), "False"], ["-2.0", "False"]] for s in (-0.5, -0.6, -0.7, -0.8, -1.5, -1.2)]
    data = {"choices": choices, "targets": ["0"] * 6}
    one = TaskData({"acc": [1.0] * 6}, responses=before, **data)  # type: ignore[arg-type]
    two = TaskData({"acc": [1.0] * 6}, responses=after, **data)  # type: ignore[arg-type]
    (row,) = compare(*runs(tmp_path, one, two))
    assert (row.unchanged, row.anti_steered) == (6, pytest.approx(2 / 6))
    # Margins that do not explain the metric are not used.
    strange = replace(two, values={"acc": [0.0] * 6})
    (row,) = compare(*runs(tmp_path / "again", one, strange))
    assert row.anti_steered == 1.0


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


def test_corpus_metrics_that_did_not_move_are_not_known_exactly(tmp_path: Path) -> None:
    pairs = [[1, 1], [0, 1], [1, 0], [0, 0]] * 25
    data = TaskData({"f1": pairs}, reported={"f1": 0.5}, aggregation={"f1": "f1"})
    (row,) = compare(*runs(tmp_path, data, data))
    assert 0.01 < row.interval[1] == -row.interval[0] < 0.05
    assert judge(row).answer == "cannot tell"
    assert math.isnan(row.minimum_detectable_effect)


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
    rows, notes = compare_pair(
        read_run(one), read_run(two), alpha=0.05, exclude=(), tasks=None, metrics=None, clusters={},
        subtasks=False, prompts_may_differ=False, seed=0,
    )  # fmt: skip
    assert len(rows) == 3
    assert any("weights could not be told" in note for note in notes)


def texts(right: float, seed: int) -> list[list[str]]:
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "mat",
        "and",
        "looked",
        "at",
        "one",
        "big",
        "red",
        "house",
        "by",
        "river",
    ]
    references = np.random.default_rng(0)
    generator = np.random.default_rng(seed)
    items = []
    for _ in range(60):
        reference = references.choice(words, 9)
        guess = [w if generator.random() < right else generator.choice(words) for w in reference]
        items.append([" ".join(reference), " ".join(guess)])
    return items


def test_bleu_by_bootstrap(tmp_path: Path) -> None:
    sides = [texts(0.6, 1), texts(0.85, 2)]
    scores = [sacrebleu.corpus_bleu([g for _, g in side], [[r for r, _ in side]]).score for side in sides]
    tasks = [
        TaskData({"bleu": side}, reported={"bleu": score}, aggregation={"bleu": "bleu"})
        for side, score in zip(sides, scores, strict=True)
    ]
    (row,) = compare(*runs(tmp_path, *tasks))
    assert (row.baseline, row.steered) == pytest.approx(tuple(scores), abs=1e-9)
    assert row.interval[0] < row.difference < row.interval[1]
    assert row.p < 0.01
    assert "bootstrap" in row.test
    assert row.scale == 100
    assert row.helped > row.harmed
    assert compare(*runs(tmp_path / "same", tasks[0], tasks[0]))[0].p == 1.0


@pytest.mark.parametrize("name", ["chrf", "chrf++", "ter"])
def test_other_text_metrics_are_sacrebleus(name: str) -> None:
    metric = corpus_metric(name)
    assert metric is not None
    first, second = metric.statistics(texts(0.6, 1), texts(0.8, 2))
    scorer = {
        "chrf": sacrebleu.corpus_chrf,
        "chrf++": lambda *a: sacrebleu.corpus_chrf(*a, word_order=2),
        "ter": sacrebleu.corpus_ter,
    }[name]
    for table, side in ((first, texts(0.6, 1)), (second, texts(0.8, 2))):
        theirs = scorer([g for _, g in side], [[r for r, _ in side]]).score
        assert metric.score(table.sum(axis=0)) == pytest.approx(theirs, abs=1e-9)


def test_classification_metrics_are_sklearns() -> None:
    generator = np.random.default_rng(3)
    gold = generator.integers(0, 3, 200)
    guess = np.where(generator.random(200) < 0.6, gold, generator.integers(0, 3, 200))
    items = [(int(a), int(b)) for a, b in zip(gold, guess, strict=True)]
    binary = [(int(a > 0), int(b > 0)) for a, b in items]
    for name, data, theirs in (
        ("matthews_corrcoef", items, matthews_corrcoef),
        ("balanced_accuracy", items, balanced_accuracy_score),
        ("f1", binary, f1_score),
    ):
        metric = corpus_metric(name)
        assert metric is not None
        table, _ = metric.statistics(data, data)
        right, guessed = zip(*data, strict=True)
        assert metric.score(table.sum(axis=0)) == pytest.approx(theirs(right, guessed), abs=1e-12)


def test_likelihood_metrics_by_hand() -> None:
    perplexity = corpus_metric("perplexity")
    weighted = corpus_metric("weighted_perplexity")
    bits_per_byte = corpus_metric("bits_per_byte")
    brier = corpus_metric("brier_score")
    assert perplexity and weighted and bits_per_byte and brier
    table, _ = perplexity.statistics([-1.0, -3.0], [-1.0, -3.0])
    assert perplexity.score(table.sum(axis=0)) == pytest.approx(math.exp(2))
    table, _ = weighted.statistics([[-4.0, 2], [-2.0, 4]], [[-4.0, 2], [-2.0, 4]])
    assert weighted.score(table.sum(axis=0)) == pytest.approx(math.e)
    assert bits_per_byte.score(table.sum(axis=0)) == pytest.approx(1 / math.log(2))
    table, _ = brier.statistics([[1, [0.2, 0.8]]], [[1, [0.2, 0.8]]])
    assert brier.score(table.sum(axis=0)) == pytest.approx(0.08)


def test_metrics_that_cannot_be_compared_are_noted(tmp_path: Path) -> None:
    values = bits(20, 0.5, 8)
    task = TaskData(
        {"acc": values, "median": [float(i) for i in range(20)], "words": values, "bypass": values},
        reported={"median": 10.0, "words": 0.0, "bypass": 999.0},
        aggregation={"bypass": "bypass", "bleu": "bleu"},
    )
    broken = replace(task, values={**task.values, "words": [float("nan")] * 20, "bleu": [1.0] * 20})
    first, second = runs(tmp_path, broken, broken)
    rows, notes = compare_pair(
        read_run(first), read_run(second), alpha=0.05, exclude=(), tasks=None, metrics=None, clusters={},
        subtasks=False, prompts_may_differ=False, seed=0,
    )  # fmt: skip
    assert [row.comparison.metric for row in rows] == ["acc"]
    assert any("'median' is left out, it is no mean" in note for note in notes)
    assert any("'words' is left out: not all finite" in note for note in notes)
    assert any("'bleu' is left out: its samples hold no bleu" in note for note in notes)
    assert compare(first, second, metrics=["acc"])[0].metric == "acc"
    with pytest.raises(GrainsError, match="nothing to compare"):
        compare(first, second, metrics=["words"])


def test_filters_become_part_of_the_metric(tmp_path: Path) -> None:
    task = TaskData({"exact_match": bits(20, 0.5, 9)}, filter="strict-match")
    (row,) = compare(*runs(tmp_path, task, task))
    assert row.metric == "exact_match,strict-match"


def test_other_scoring_path_is_noted(tmp_path: Path) -> None:
    task = TaskData({"acc": bits(20, 0.5, 10)})
    write_run(tmp_path / "a", {"t": task})
    write_run(tmp_path / "b", {"t": task}, config={"scoring_path": "shared_context"})
    _, notes = compare_pair(
        read_run(tmp_path / "a"), read_run(tmp_path / "b"), alpha=0.05, exclude=(), tasks=None, metrics=None,
        clusters={}, subtasks=False, prompts_may_differ=False, seed=0,
    )  # fmt: skip
    assert any("plain path" in note and "shared_context path" in note for note in notes)
