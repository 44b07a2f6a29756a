"""`attributions.parquet`: one row per example and prompt token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grains_eval.types import Attribution, TokenSelection

_COLUMNS = (
    "example_id", "position", "token", "score", "is_image", "is_candidate", "selected",
    "image", "row", "column", "box", "value", "baseline_value", "completeness_error", "steps",
)  # fmt: skip


def write_attributions(file: Path, attributions: Sequence[Attribution], selections: Sequence[TokenSelection]) -> None:
    """One row per prompt token: example, position, token, score, what was selected and where a visual token looks."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    chosen = list(selections) or [TokenSelection((), ())] * len(attributions)
    for attribution, selection in zip(attributions, chosen, strict=True):
        signs = {**dict.fromkeys(selection.positive, 1), **dict.fromkeys(selection.negative, -1)}
        for position, token in enumerate(attribution.tokens):
            patch = attribution.patches[position] if attribution.patches else None
            row = (
                attribution.example_id, position, token, float(attribution.scores[position]),
                bool(attribution.is_image[position]), bool(attribution.is_candidate[position]), signs.get(position, 0),
                patch and patch.image, patch and patch.row, patch and patch.column, patch and list(patch.box),
                attribution.value, attribution.baseline_value, attribution.completeness_error, attribution.steps,
            )  # fmt: skip
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    pq.write_table(pa.table(columns), file)
