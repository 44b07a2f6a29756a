"""Rows of the text worlds' lm-eval tasks, from the JSONL files beside their YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from grains_eval.errors import GrainsError
from grains_eval.tasks_path import task_directory

SPLITS = ("train", "validation", "test")


def load(world: str, part: str | None = None, items: str | None = None, **_: Any) -> DatasetDict:
    """Read a world's items as datasets; a task's YAML names this function as its `custom_dataset`.

    Args:
        world: Folder below `tasks/demo`, such as `text_split`.
        part: Read this file alone, as the test split (`skills`, `closed_book`); default: one file per split.
        items: Read the files of this folder instead, such as those of a freshly trained world
            (`lm_eval --metadata '{"items": "FOLDER"}'`).

    Raises:
        GrainsError: a file is missing.
    """
    folder = Path(items).expanduser() if items else task_directory() / "demo" / world / "data"
    files = {"test": f"{part}.jsonl"} if part else {split: f"{split}.jsonl" for split in SPLITS}
    return DatasetDict({split: Dataset.from_list(read_items(folder / name)) for split, name in files.items()})


def read_items(path: Path) -> list[dict[str, Any]]:
    """Read one JSONL file.

    Raises:
        GrainsError: there is none.
    """
    if not path.is_file():
        raise GrainsError(f"no items '{path}'; give a folder that benchmarks.worlds.train_text wrote")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


__all__ = ["load", "read_items"]
