"""The bundled text demo does what its recipe promises: it steers, its controls do not, its skills stay."""

from __future__ import annotations

from statistics import mean

import pytest

from benchmarks.demo_seeds import Trial, built, measure, open_trial
from grains_eval.demo import model_path
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringVectors
from grains_eval.vectors.controls import negate, random_like


@pytest.fixture(scope="module")
def split() -> Trial:
    return open_trial("split", 0, model_path("text_split"), task_directory() / "demo" / "text_split" / "data")


@pytest.fixture(scope="module")
def vectors(split: Trial) -> SteeringVectors:
    return built(split)


def test_truth_wins_on_unseen_towns_and_skills_stay(split: Trial, vectors: SteeringVectors) -> None:
    before, after = (mean(measure(split, applied, split.setting, split.test)) for applied in (None, vectors))
    assert after - before >= 0.40
    kept, had = (mean(measure(split, applied, split.setting, split.skills)) for applied in (vectors, None))
    assert had - kept <= 0.03


def test_random_vectors_gain_less_than_a_quarter_and_the_negated_one_loses(
    split: Trial, vectors: SteeringVectors
) -> None:
    base = mean(measure(split, None, split.setting, split.test))
    gain = mean(measure(split, vectors, split.setting, split.test)) - base
    random = [random_like(vectors, draw) for draw in range(10)]
    assert mean(mean(measure(split, one, split.setting, split.test)) - base for one in random) < gain / 4
    assert mean(measure(split, negate(vectors), split.setting, split.test)) < base


def test_the_paper_s_centred_pca_throws_the_mean_shift_away(split: Trial, vectors: SteeringVectors) -> None:
    centred = built(split, direction="pca")
    ours, theirs = (mean(measure(split, one, split.setting, split.test)) for one in (vectors, centred))
    assert ours - theirs >= 0.2
