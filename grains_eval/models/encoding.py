"""One entry for every kind of prompt."""

from __future__ import annotations

from grains_eval.errors import GrainsError
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.loading import LoadedModel
from grains_eval.models.text import encode_text
from grains_eval.types import PreferenceExample


def encode(loaded: LoadedModel, example: PreferenceExample, visual_baseline: str = "blank") -> EncodedExample:
    """Encode an example, with its images if it has any.

    Args:
        loaded: The model.
        example: Prompt, responses and images.
        visual_baseline: What stands for an absent picture; see `recipes.AttributionConfig`.

    Raises:
        GrainsError: images for a text-only model, or an example that cannot be encoded.
    """
    if not example.images:
        return encode_text(loaded, example)
    if not loaded.is_vision_language:
        raise GrainsError(
            f"example {example.id} has {len(example.images)} image(s) but {type(loaded.model).__name__} takes none; "
            "choose a vision-language checkpoint or drop data.images"
        )
    from grains_eval.models.vision import encode_vision

    return encode_vision(loaded, example, visual_baseline)
