"""What is special about each vision-language family; a family that is not here is refused, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from grains_eval.errors import GrainsError
from grains_eval.models import patches
from grains_eval.models.patches import VisionInput
from grains_eval.types import Patch

Layout = Callable[[VisionInput], list[Patch | None]]


@dataclass(frozen=True)
class Family:
    """One architecture, by its config's `model_type`.

    Attributes:
        layout: The place of every visual token.
        flat_images: Whether its processor wants one list of images for a whole batch.
        apart: Placeholder with markers between neighbouring images, which the bare one would merge.
    """

    layout: Layout
    flat_images: bool = False
    apart: str | None = None


_QWEN = Family(patches.merged_grid, apart="<|vision_start|><|image_pad|><|vision_end|>")

FAMILIES: Mapping[str, Family] = {
    "llava": Family(patches.single_grid, flat_images=True),
    "llava_next": Family(patches.tiles_and_newlines),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "gemma3": Family(patches.pooled_square),
    "idefics3": Family(patches.marked_tiles),
    "smolvlm": Family(patches.marked_tiles),
}

# architectures whose images are not a part of the token sequence, and why attribution cannot work there
REFUSED: Mapping[str, str] = {
    "mllama": "its images enter through cross-attention, so that there are no visual tokens to attribute",
    "blip-2": "its images enter through learned queries, which have no place in the image",
    "instructblip": "its images enter through learned queries, which have no place in the image",
    "idefics2": "its images enter through learned queries, which have no place in the image",
}


def find_family(model_type: str) -> Family:
    """Look an architecture up.

    Raises:
        GrainsError: it is not known, or known to have no attributable visual tokens.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        reason = REFUSED.get(model_type, "where its visual tokens look is not known")
        raise GrainsError(
            f"images of model type '{model_type}' cannot be attributed: {reason}; "
            f"supported are {', '.join(FAMILIES)}; drop data.images for prompts of text alone"
        )
    return family
