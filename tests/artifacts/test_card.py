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


def test_the_card_shows_the_fidelity_of_attributions(tmp_path):
    row = {"attributed": 1.5, "random": 0.25, "difference": 1.25, "low": 1.0, "high": 1.5, "examples": 16}
    measures = dict.fromkeys(("comprehensiveness", "sufficiency", "leave_one_out"), row)
    held = replace(vectors(), provenance={**vectors().provenance, "fidelity": {"image": measures}})
    text = (save_vectors(held, tmp_path / "v") / "README.md").read_text()
    assert "image tokens of 16 build examples" in text
    assert "| 1.5 | 0.25 | 1.25 (1 to 1.5) |" in text
    assert "Fidelity" not in (save_vectors(vectors(), tmp_path / "w") / "README.md").read_text()
