"""Attributions and images beside the vectors."""

from __future__ import annotations

import torch
from PIL import Image

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.save import save_artifact
from grains_eval.report.token_maps import read_token_maps
from grains_eval.types import Attribution, Patch, TokenSelection
from tests.artifacts.samples import vectors


def test_attributions_and_pictures_travel_with_the_vectors(tmp_path):
    attribution = Attribution(
        "e:0", ("a", "<img>"), torch.tensor([0.5, -1.0]), torch.tensor([False, True]), torch.tensor([True, True]),
        2.0, 2.5, 0.01, 20, (None, Patch(0, 1, 2, (0.5, 0.25, 0.75, 0.5))),
    )  # fmt: skip
    contents = ArtifactContents(
        vectors(), attributions=[attribution], selections=[TokenSelection((0,), (1,))],
        images=[[Image.new("RGB", (4, 4), (9, 8, 7))]],
    )  # fmt: skip
    folder = save_artifact(contents, tmp_path / "v")
    (drawn,) = read_token_maps(folder)
    assert drawn.tokens == ("a", "<img>")
    assert drawn.scores == (0.5, -1.0)
    assert drawn.selected == {0, 1}
    assert drawn.boxes == (None, (0, (0.5, 0.25, 0.75, 0.5)))
    assert len(drawn.images) == 1
    assert drawn.images[0].startswith(b"\x89PNG")
    assert "completeness error 1.00 %" in drawn.note
