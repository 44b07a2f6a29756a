"""Families of vision-language models: those that are not known are refused."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.models import encode
from grains_eval.types import PreferenceExample
from tests.tiny import picture

SIZES = [(80, 56), (50, 90), (64, 64)]


QUESTION = "<image>\nWhat is the picture?"


def example(images: int = 1, prompt=QUESTION, seed: int = 0) -> PreferenceExample:
    shown = tuple(picture(seed + index, SIZES[index]) for index in range(images))
    if images > 1 and prompt == QUESTION:
        prompt = QUESTION + " and <image>" * (images - 1) + " world?"
    return PreferenceExample("e", "h", prompt, " red square", " no", images=shown)


@pytest.mark.parametrize(("kind", "reason"), [("mllama", "cross-attention"), ("internvl", "is not known")])
def test_other_architectures_are_refused(kind, reason, loaded_vision):
    loaded = loaded_vision("llava")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model.config, "model_type", kind)
        with pytest.raises(GrainsError, match=reason):
            encode(loaded, example())
