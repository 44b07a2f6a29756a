"""Metrics of a whole corpus: as sacrebleu and sklearn compute them, and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from grains_eval.comparison import compare
from grains_eval.comparison.corpus_metrics import corpus_metric, numbers
from grains_eval.comparison.noninferiority import judge
from tests.comparison.folders import TaskData, runs


def test_corpus_metrics_that_did_not_move_are_not_known_exactly(tmp_path: Path) -> None:
    pairs = [[1, 1], [0, 1], [1, 0], [0, 0]] * 25
    data = TaskData({"f1": pairs}, reported={"f1": 0.5}, aggregation={"f1": "f1"})
    (row,) = compare(*runs(tmp_path, data, data))
    assert 0.01 < row.interval[1] == -row.interval[0] < 0.05
    assert judge(row).answer == "cannot tell"
    assert math.isnan(row.minimum_detectable_effect)


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


def test_integers_that_no_float_holds_are_no_scores() -> None:
    assert numbers([1, 10**400]) is None
