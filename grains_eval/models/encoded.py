"""An example as the model receives it: token ids, merged embeddings, and what the decoder needs besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from grains_eval.types import Patch, PreferenceExample


@dataclass(frozen=True)
class EncodedExample:
    """One prompt with both responses, unpadded; `T` prompt tokens, hidden size `H`.

    Attributes:
        example: Where it came from.
        input_ids: `[T]` prompt token ids.
        tokens: `[T]` token strings as the tokenizer writes them.
        embeddings: `[T, H]` merged input embeddings, image features included, detached. Where a model injects
            image features after its first `D` layers too (deepstack), they follow the embedding:
            `[T, (1 + D) H]`, zero at text tokens, so that attribution, baselines and masks treat a visual token
            as the one input that it is.
        is_image: `[T]` bool, visual tokens, the image's line breaks (LLaVA-Next) included.
        is_candidate: `[T]` bool: neither special nor chat-template token (method step 3).
        chosen: `[A]` ids of `y+`.
        rejected: `[B]` ids of `y-`.
        patches: `[T]` where each visual token looks, None for text and for line breaks.
        decoder_keywords: What the text decoder receives besides embeddings when the prompt runs alone, batch size 1;
            empty for text models, where the decoder's own defaults are exact.
        next_position: First position id after the prompt (not `T` where image tokens share positions).
        visual_baseline: `[T, H]` rows of the visual baseline and mask at visual tokens; None for text prompts.
        share_prefix: Whether the prompt may be run once for both responses; otherwise it runs with each.
        response_keywords: By length of the response, what the decoder receives when a prompt with images runs with
            it; only where the prompt is not shared.
    """

    example: PreferenceExample
    input_ids: Tensor
    tokens: tuple[str, ...]
    embeddings: Tensor
    is_image: Tensor
    is_candidate: Tensor
    chosen: Tensor
    rejected: Tensor
    patches: tuple[Patch | None, ...] = ()
    decoder_keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])
    next_position: int | None = None
    visual_baseline: Tensor | None = None
    share_prefix: bool = True
    response_keywords: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])

    @property
    def has_images(self) -> bool:
        """Whether the prompt holds images; decoder keywords do not tell, since LLaVA's decoder needs none."""
        return bool(self.example.images)
