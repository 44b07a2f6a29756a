"""The card explains what it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grains_eval.artifacts.save import save_vectors
from grains_eval.vectors.direction import direction
from tests.artifacts.samples import vectors

SIDED = {f"{side}.{name}" for side in ("positive", "negative") for name in direction(torch.eye(3), "mean").statistics}


@pytest.mark.parametrize(
    "names",
    [
        SIDED,
        {*direction(torch.eye(3), "mean").statistics, "share"},
        {"heads", "probe_accuracy", "best_probe_accuracy"},
        set(),
    ],
    ids=["grains", "icv", "iti", "none"],
)
def test_the_card_explains_every_column_of_its_table(names, tmp_path):
    held = replace(vectors(), statistics={1: dict.fromkeys(names, 0.5), 4: {}})
    text = (save_vectors(held, tmp_path / "v") / "README.md").read_text()
    (header,) = [line for line in text.splitlines() if line.startswith("| layer |")]
    columns = [cell.strip() for cell in header.strip("| ").split("|")]
    (legend,) = [line for line in text.splitlines() if line.startswith("`layer`:")]
    assert all(f"`{column.removesuffix(' +/−')}`:" in legend for column in columns)
    assert legend.count("`:") == len(columns)
    assert ("+ and −:" in legend) is any("+/−" in column for column in columns)
