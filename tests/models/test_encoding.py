"""Which examples a model can encode, and what is noted of how they run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grains_eval.errors import GrainsError
from grains_eval.models import encode, prompt_text
from grains_eval.models.encoding import without_sharing
from grains_eval.types import PreferenceExample
from tests.tiny import picture

TEXT = PreferenceExample("e", "h", "What is this", " a cat", " a dog")
SEEN = replace(TEXT, prompt="<image> What is this", images=(picture(0),))


def test_a_prompt_is_the_text_that_the_harness_is_given(loaded_text, loaded_vision):
    assert prompt_text(loaded_text("llama"), TEXT) == TEXT.prompt
    shown = prompt_text(loaded_vision("gemma3"), SEEN)
    assert "<image>" not in shown and shown.endswith("What is this")


def test_images_need_a_model_that_sees_and_a_decoder_that_reads_the_prompt(loaded_text):
    for asked in (encode, prompt_text):
        with pytest.raises(GrainsError, match="takes none"):
            asked(loaded_text("llama"), SEEN)
    with pytest.raises(GrainsError, match="its encoder reads the prompt"):
        encode(loaded_text("bart"), TEXT)


def test_a_prompt_that_is_not_shared_keeps_what_the_decoder_receives_with_each_response(loaded_text, loaded_vision):
    loaded = loaded_vision("gemma3")
    encoded = without_sharing(loaded, encode(loaded, SEEN))
    assert encoded.has_images and not encoded.share_prefix
    assert set(encoded.response_keywords) == {len(encoded.chosen), len(encoded.rejected)}
    text = without_sharing(loaded_text("llama"), encode(loaded_text("llama"), TEXT))
    assert not text.has_images and not text.share_prefix and not text.response_keywords
