"""The classifier of toxicity: its toxic class, and one that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.errors import GrainsError
from grains_eval.task_support import toxicity


def test_the_toxic_class_is_found_by_name():
    assert toxicity.toxic_label({0: "LABEL_0", 1: "LABEL_1"}) == 1
    assert toxicity.toxic_label({0: "nothate", 1: "hate"}) == 1
    assert toxicity.toxic_label({0: "Toxic", 1: "Neutral"}) == 0
    for labels in ({0: "yes", 1: "no"}, {0: "toxic", 1: "severe_toxic"}):
        with pytest.raises(GrainsError, match="which one is toxic"):
            toxicity.toxic_label(labels)


def test_a_missing_classifier_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAINS_EVAL_TOXICITY_CLASSIFIER", str(tmp_path / "none"))
    toxicity._load.cache_clear()
    with pytest.raises(GrainsError) as error:
        toxicity.toxicity_metrics("hello")
    assert "GRAINS_EVAL_TOXICITY_CLASSIFIER" in str(error.value) and "\n" not in str(error.value)
