"""Where visual tokens look."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.models import encode
from grains_eval.models.vision import pixel_masked
from tests.models.examples import example
from tests.tiny import VISION, picture

FAMILIES = list(VISION)


def boxes(encoded, image: int = 0):
    return [patch.box for patch in encoded.patches if patch is not None and patch.image == image]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_is_where_the_picture_moves_its_token(family, loaded_vision):
    loaded = loaded_vision(family)
    given = replace(example(), images=(picture(3, (112, 112)),))
    encoded = encode(loaded, given)
    places = [(index, patch) for index, patch in enumerate(encoded.patches) if patch is not None]
    for position, patch in places[:: max(1, len(places) // 6)]:
        moved = pixel_masked(loaded, encoded, [patch]).embeddings
        change = (moved - encoded.embeddings).norm(dim=-1)
        left, top, right, bottom = encoded.patches[int(change.argmax())].box
        own_left, own_top, own_right, own_bottom = patch.box
        assert left < own_right and own_left < right and top < own_bottom and own_top < bottom, position
        assert change[position] > 0.2 * change.max()


def test_llava_sees_the_middle_square(loaded_vision):
    encoded = encode(loaded_vision("llava"), example())  # 80 x 56: the middle 56 of 80 columns
    found = boxes(encoded)
    assert len(found) == 16
    assert found[0] == pytest.approx((0.15, 0.0, 0.325, 0.25))
    assert found[-1] == pytest.approx((0.675, 0.75, 0.85, 1.0))


def test_llava_next_lists_base_then_unpadded_rows_with_newlines(loaded_vision):
    encoded = encode(loaded_vision("llava_next"), example())
    visual = [patch for patch, seen in zip(encoded.patches, encoded.is_image.tolist(), strict=True) if seen]
    base, tiles = visual[:16], visual[16:]
    assert [(patch.row, patch.column) for patch in base] == [(row, column) for row in range(4) for column in range(4)]
    # 80 x 56 on a 56 x 56 canvas: 8 columns, 40 of 56 pixel rows, 5.7 patch rows, of which the model keeps 6
    assert len(tiles) == 6 * 9
    assert [index for index, patch in enumerate(tiles) if patch is None] == list(range(8, 54, 9))
    assert tiles[0].box == pytest.approx((0.0, 0.0, 0.125, 0.15))
    assert tiles[9].box == pytest.approx((0.0, 0.15, 0.125, 0.325))
    assert tiles[-2].box == pytest.approx((0.875, 0.85, 1.0, 1.0))
    newlines = encoded.is_image & ~encoded.is_candidate
    assert int(newlines.sum()) == 6
    torch.testing.assert_close(encoded.visual_baseline[newlines], encoded.embeddings[newlines])


def test_idefics3_tiles_cover_the_picture_before_the_whole(loaded_vision):
    encoded = encode(loaded_vision("idefics3"), example())
    visual = [patch for patch in encoded.patches if patch is not None]
    assert len(visual) == 5 * 16  # 2 x 2 tiles and the whole picture
    assert visual[16].box == pytest.approx((0.5, 0.0, 0.625, 0.125))
    assert (visual[16].row, visual[16].column) == (0, 4)
    assert visual[64].box == pytest.approx((0.0, 0.0, 0.25, 0.25))
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes(encoded)[:64])
    assert area == pytest.approx(1.0)


@pytest.mark.parametrize(("family", "rows", "columns"), [("qwen2_5_vl", 2, 3), ("qwen3_vl", 2, 2), ("gemma3", 4, 4)])
def test_stretched_pictures_are_covered_by_one_grid(family, rows, columns, loaded_vision):
    encoded = encode(loaded_vision(family), example())
    found = boxes(encoded)
    assert len(found) == rows * columns == int(encoded.is_image.sum())
    assert found[columns] == pytest.approx((0.0, 1 / rows, 1 / columns, 2 / rows))
    assert found[-1] == pytest.approx((1 - 1 / columns, 1 - 1 / rows, 1.0, 1.0))


def test_an_unknown_patch_layout_is_refused(loaded_vision):
    loaded = loaded_vision("gemma3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model.config, "mm_tokens_per_image", 9)
        with pytest.raises(GrainsError, match="16 visual tokens where the layout"):
            encode(loaded, example())
