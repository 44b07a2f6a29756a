"""Encode an example of any kind, text or images."""

from __future__ import annotations

from dataclasses import replace

from grains_eval.errors import GrainsError
from grains_eval.models.chat import render
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.forward import shares_prefix
from grains_eval.models.loading import LoadedModel
from grains_eval.models.text import encode_text
from grains_eval.types import PreferenceExample


def prompt_text(loaded: LoadedModel, example: PreferenceExample) -> str:
    """The prompt as the harness is given it: chat rendered, the model's placeholders where its images go.

    Raises:
        GrainsError: images for a text-only model, or images and placeholders that do not fit.
    """
    if not example.images:
        return render(loaded, example.prompt)[0]
    _check_sees(loaded, example)
    from grains_eval.models.vision import prompt_with_images

    return prompt_with_images(loaded, example)


def encode(loaded: LoadedModel, example: PreferenceExample, visual_baseline: str = "blank") -> EncodedExample:
    """Encode an example, with its images if it has any; `models.encode_all` also checks the model.

    Args:
        loaded: The model.
        example: Prompt, responses and images.
        visual_baseline: What stands for an absent image; see `recipes.AttributionConfig`.

    Raises:
        GrainsError: a model with an encoder, images for a text-only model, or an example that cannot be encoded.
    """
    if loaded.model.config.is_encoder_decoder:
        raise GrainsError(
            f"{type(loaded.model).__name__}: its encoder reads the prompt, and builds need a decoder that does; "
            "encoder-decoder models can be steered with vectors from elsewhere but not built from"
        )
    encoded = _encoded(loaded, example, visual_baseline)
    return encoded if shares_prefix(loaded.model) else without_sharing(loaded, encoded)


def without_sharing(loaded: LoadedModel, encoded: EncodedExample) -> EncodedExample:
    """The same example, whose prompt is run with each response."""
    if encoded.has_images and not encoded.response_keywords:
        from grains_eval.models.vision import response_keywords

        encoded = replace(encoded, response_keywords=response_keywords(loaded, encoded))
    return replace(encoded, share_prefix=False)


def _encoded(loaded: LoadedModel, example: PreferenceExample, visual_baseline: str) -> EncodedExample:
    if not example.images:
        return encode_text(loaded, example)
    _check_sees(loaded, example)
    from grains_eval.models.vision import encode_vision

    return encode_vision(loaded, example, visual_baseline)


def _check_sees(loaded: LoadedModel, example: PreferenceExample) -> None:
    if not loaded.is_vision_language:
        raise GrainsError(
            f"example {example.id} has {len(example.images)} image(s) but {type(loaded.model).__name__} takes none; "
            "choose a vision-language checkpoint or drop data.images"
        )
