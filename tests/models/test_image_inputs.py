"""Images and prompts as a processor takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.models import image_inputs
from tests.tiny import picture


def test_pictures_may_be_paths(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from grains_eval.models.image_inputs import check_images

    Image.new("RGB", (4, 4)).save(tmp_path / "dot.png")
    lm = SimpleNamespace(max_images=None, image_width=None, image_height=None, image_max_side=None, rgb=True)
    assert check_images(lm, [str(tmp_path / "dot.png")], "item")[0].size == (4, 4)
    with pytest.raises(GrainsError, match=r"item: image '.*none\.png' cannot be read"):
        check_images(lm, [str(tmp_path / "none.png")], "item")


def test_the_blank_picture_is_zero_after_normalisation(loaded_vision):
    for family, colour in (("llava", (123, 117, 104)), ("gemma3", (128, 128, 128))):
        loaded = loaded_vision(family)
        assert image_inputs.blank_colour(loaded.processor) == colour
        blank = image_inputs.blank(picture(), colour)
        values = image_inputs.process(loaded.lm, [image_inputs.placeholder(loaded.lm)], [[blank]], "it")["pixel_values"]
        assert values.abs().max() < 0.01
