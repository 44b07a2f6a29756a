"""Rows and pictures of the image world's tasks: scenes in JSONL, drawn when they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from PIL.Image import Image

from grains_eval.demo.scenes import BACKGROUND, Mark, image


def load(items: str | None = None, kind: str | None = None, **_: Any) -> DatasetDict:
    """Read the JSONL files of folder `items`, one split each; `kind` keeps the ids that begin with it."""
    folder = Path(items) if items else Path(__file__).parent / "data"
    splits: dict[str, Dataset] = {}
    for file in sorted(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        scenes = [json.dumps(row["scene"]) for row in rows]  # text, since a mark is of mixed types
        for number, row in enumerate(rows):
            row["scene"], row["other_scene"] = scenes[number], scenes[(number + 1) % len(scenes)]
        kept = [row for row in rows if kind is None or row["id"].startswith(kind)]
        if kept:
            splits[file.stem] = Dataset.from_list(kept)
    return DatasetDict(splits)


def picture(doc: dict[str, Any]) -> list[Image]:
    """The document's picture."""
    return _drawn(doc, json.loads(doc["scene"]))


def blank_picture(doc: dict[str, Any]) -> list[Image]:
    """Nothing but the background's noise."""
    return _drawn(doc, [])


def swapped_picture(doc: dict[str, Any]) -> list[Image]:
    """The picture of the next document."""
    return _drawn(doc, json.loads(doc["other_scene"]))


def _drawn(doc: dict[str, Any], scene: list[Any]) -> list[Image]:
    return [image([Mark(*mark) for mark in scene], doc["noise"], doc.get("background", BACKGROUND))]
