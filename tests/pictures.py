"""A task with images, for those who evaluate it."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lm_eval.tasks import TaskManager

from tests.tiny import picture

PICTURES = [picture(index, size) for index, size in enumerate([(80, 56), (50, 90), (64, 64)])]


def task(folder: Path) -> TaskManager:
    """The multiple-choice task `pictures` as any user would write it, with its data in `folder`."""
    rows = {
        "question": [f"What is the picture{'?' * number}" for number in range(1, 5)],
        "choices": [[" red", " green square"], [" dog", " cat"], [" yes", " no"], [" paris", " rome"]],
        "label": [0, 1, 0, 1],
        "image": [shown.copy() for shown in (*PICTURES, PICTURES[0])],
    }
    features = Features(
        {
            "question": Value("string"),
            "choices": [Value("string")],
            "label": Value("int64"),
            "image": ImageFeature(),
        }
    )
    Dataset.from_dict(rows, features=features).to_parquet(folder / "rows.parquet")
    (folder / "pictures.yaml").write_text(
        "\n".join(
            [
                "task: pictures",
                "dataset_path: parquet",
                f"dataset_kwargs: {json.dumps({'data_files': {'test': str(folder / 'rows.parquet')}})}",
                "test_split: test",
                "output_type: multiple_choice",
                "doc_to_text: '<image>{{question}}'",
                "doc_to_image: [image]",
                "doc_to_choice: choices",
                "doc_to_target: label",
                "target_delimiter: ''",
            ]
        )
    )
    return TaskManager(include_path=str(folder), include_defaults=False)
