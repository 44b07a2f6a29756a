"""Examples with images of several sizes."""

from __future__ import annotations

from grains_eval.types import PreferenceExample
from tests.tiny import picture

SIZES = [(80, 56), (50, 90), (64, 64)]
QUESTION = "<image>\nWhat is the picture?"


def example(images: int = 1, prompt=QUESTION, seed: int = 0) -> PreferenceExample:
    shown = tuple(picture(seed + index, SIZES[index]) for index in range(images))
    if images > 1 and prompt == QUESTION:
        prompt = QUESTION + " and <image>" * (images - 1) + " world?"
    return PreferenceExample("e", "h", prompt, " red square", " no", images=shown)
