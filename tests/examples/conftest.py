"""A task over local files."""

from __future__ import annotations

import json

import pytest
import yaml

TASK = {
    "task": "test_capitals",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "training_split": "train",
    "test_split": "test",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 1.0, "cluster_key": "region"},
}


@pytest.fixture
def tasks(tmp_path):
    def make(**changes):
        rows = [
            {
                "q": f"capital {i}",
                "choices": [f"no{i}", f"yes{i}", f"not{i}"],
                "gold": 1,
                "worse": 2,
                "region": f"r{i % 2}",
            }
            for i in range(12)
        ]
        for split in ("train", "test"):
            text = "".join(json.dumps({**row, "split": split}) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(text)
        files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
        config = {**TASK, "dataset_kwargs": {"data_files": files}, **changes}
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
        return [str(tmp_path)]

    return make
