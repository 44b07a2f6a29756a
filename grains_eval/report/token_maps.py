"""Heat maps from an artifact folder's `attributions.parquet`, without torch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from grains_eval.report.data import TokenMap
from grains_eval.report.heatmap import token_map


def read_token_maps(folder: Path, most: int = 3) -> list[TokenMap]:
    """The heat maps of the first examples of an artifact; none where it has no attributions.

    Args:
        folder: The artifact folder.
        most: How many examples.
    """
    file = folder / "attributions.parquet"
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        examples.setdefault(row["example_id"], []).append(row)
    return [_map(folder, index, name, examples[name]) for index, name in enumerate(list(examples)[:most])]


def _map(folder: Path, index: int, name: str, rows: list[dict[str, Any]]) -> TokenMap:
    first = rows[0]
    patches = [
        None if row["image"] is None else SimpleNamespace(image=row["image"], box=tuple(row["box"])) for row in rows
    ]
    pictures = sorted((folder / "pictures").glob(f"{index}-*.png"), key=lambda file: int(file.stem.partition("-")[2]))
    return token_map(
        SimpleNamespace(
            example_id=name,
            tokens=[row["token"] for row in rows],
            scores=[row["score"] for row in rows],
            is_image=[row["is_image"] for row in rows],
            value=first["value"],
            baseline_value=first["baseline_value"],
            completeness_error=first["completeness_error"],
            patches=patches,
        ),
        selected=[row["position"] for row in rows if row["selected"]],
        pictures=[file.read_bytes() for file in pictures],
    )
