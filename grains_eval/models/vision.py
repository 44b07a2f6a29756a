"""Encode an example with images: one path for every family.

The model runs once; a hook on its text decoder keeps the merged embeddings and every keyword the decoder
receives (multimodal positions, bidirectional image masks, deepstack features). Attribution and masking start
from there, so an image is encoded once per example, never once per quadrature node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import product
from typing import Any

import torch
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER
from PIL import Image
from torch import Tensor

from grains_eval.errors import GrainsError, pick
from grains_eval.models import image_inputs
from grains_eval.models.chat import render
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.families import find_family
from grains_eval.models.hooks import DEEPSTACK, logits_from, noting_decoder
from grains_eval.models.image_inputs import ImageLM
from grains_eval.models.loading import LoadedModel
from grains_eval.models.patches import VisionInput
from grains_eval.models.text import candidates
from grains_eval.types import Message, Patch, PreferenceExample

# set again on every pass
_NOT_KEPT = frozenset({"input_ids", "inputs_embeds", "past_key_values", "use_cache", "cache_position", "return_dict"})


@dataclass(frozen=True)
class _Prompt:
    """A prompt with images; its trailing spaces belong to the responses, as in lm-eval."""

    text: str
    trailing: str
    spans: list[tuple[int, int]]
    images: list[Image.Image]
    where: str


def _prepare(loaded: LoadedModel, example: PreferenceExample) -> tuple[ImageLM, _Prompt]:
    """Check the images and put their placeholders into the prompt."""
    lm: ImageLM = loaded.lm
    where = f"example {example.id}"
    checked = image_inputs.check_images(lm, example.images, where)
    prompt, count = example.prompt, len(checked)
    if isinstance(prompt, str):
        in_front = not lm.tokenizer.bos_token or not prompt.startswith(lm.tokenizer.bos_token)
        placed = image_inputs.place_images(lm, prompt, count, where, in_front=in_front)
        text, trailing = image_inputs.strip_context(placed, "")
        return lm, _Prompt(text, trailing, [(0, len(text))], checked, where)
    if not any(DEFAULT_IMAGE_PLACEHOLDER in message.content for message in prompt):
        first = next((i for i, message in enumerate(prompt) if message.role == "user"), 0)
        opening = Message(prompt[first].role, DEFAULT_IMAGE_PLACEHOLDER * count + prompt[first].content)
        prompt = (*prompt[:first], opening, *prompt[first + 1 :])
    rendered, spans = render(loaded, prompt, DEFAULT_IMAGE_PLACEHOLDER)
    image_inputs.place_images(lm, rendered, count, where, in_front=False)
    text, trailing = image_inputs.strip_context(rendered, "")
    return lm, _Prompt(text, trailing, spans, checked, where)


def prompt_with_images(loaded: LoadedModel, example: PreferenceExample) -> str:
    """The prompt with the model's own placeholders, trailing spaces included.

    Raises:
        GrainsError: images or placeholders that do not fit.
    """
    _, prompt = _prepare(loaded, example)
    return prompt.text + prompt.trailing


def _responses(lm: ImageLM, example: PreferenceExample, prompt: _Prompt) -> list[Tensor]:
    """Ids of `y+` and `y-`, each of which must extend the prompt."""
    found: list[Tensor] = []
    for name, response in (("chosen", example.chosen), ("rejected", example.rejected)):
        if not response.strip():
            raise GrainsError(f"{prompt.where}: the {name} response is empty")
        whole = prompt.trailing + response
        ids = image_inputs.continuation_ids(lm, prompt.text, whole, prompt.images, prompt.where)
        if ids is None:
            raise GrainsError(
                f"{prompt.where}: the {name} response '{response[:40]}' does not extend the prompt under "
                "this tokenizer (it changes the prompt's last token); start it with a space or end the "
                "prompt differently"
            )
        found.append(torch.tensor(ids))
    return found


@dataclass(frozen=True)
class _Received:
    """What the text decoder received: `[T, H]` embeddings, deepstack features beside them, and keywords."""

    embeddings: Tensor
    keywords: dict[str, Any]


def _idle(name: str, value: Any) -> bool:
    """Whether a keyword adds nothing for an unpadded prompt: None, or a padding mask of ones."""
    return value is None or (name == "attention_mask" and isinstance(value, Tensor) and value.ndim == 2)


@torch.no_grad()
def _run(loaded: LoadedModel, features: Mapping[str, Tensor]) -> _Received:
    """Run the whole model once on one prompt and keep what its decoder receives."""
    kept: dict[str, Any] = {}
    with noting_decoder(loaded.model, kept), logits_from(loaded.model, -1):
        loaded.model(**features, use_cache=False)
    keywords = {name: value for name, value in kept.items() if name not in _NOT_KEPT and not _idle(name, value)}
    embeddings: Tensor = kept["inputs_embeds"][0].detach()
    levels: Sequence[Tensor] = keywords.get(DEEPSTACK, ())
    if levels:
        visual = keywords["visual_pos_masks"][0]
        wide = embeddings.new_zeros(len(embeddings), embeddings.shape[1] * len(levels))
        wide[visual] = torch.cat([level.to(embeddings) for level in levels], dim=-1)
        embeddings = torch.cat([embeddings, wide], dim=-1)
    return _Received(embeddings, keywords)


def _aligned(plain: Sequence[int], allowed: Tensor, expanded: Sequence[int]) -> Tensor:
    """Carry `[P]` bool from the prompt's own tokens to the `[T]` expanded ones; the processor's are False."""
    found = torch.zeros(len(expanded), dtype=torch.bool)
    for block in SequenceMatcher(None, plain, expanded, autojunk=False).get_matching_blocks():
        found[block.b : block.b + block.size] = allowed[block.a : block.a + block.size]
    return found


def encode_vision(loaded: LoadedModel, example: PreferenceExample, visual_baseline: str = "blank") -> EncodedExample:
    """Encode an example with images; see `EncodedExample` for shapes.

    Args:
        loaded: A vision-language model.
        example: Its prompt holds lm-eval's `<image>` once per image; without any, the images come first.
        visual_baseline: A name in `VISUAL_BASELINES`.

    Raises:
        GrainsError: an unknown baseline, a family that cannot be attributed, images or placeholders that do
            not fit, a response that does not extend the prompt, or a prompt past `max_length`.
    """
    baseline = pick(VISUAL_BASELINES, visual_baseline, "visual baseline")
    family = find_family(str(loaded.model.config.model_type))
    lm, prompt = _prepare(loaded, example)
    features = image_inputs.process(lm, [prompt.text], [prompt.images], prompt.where)
    input_ids = features["input_ids"][0]
    chosen, rejected = _responses(lm, example, prompt)
    length = len(input_ids) + max(len(chosen), len(rejected))
    if length > lm.max_length:
        raise GrainsError(
            f"{prompt.where}: prompt, images and response have {length} tokens but max_length is "
            f"{lm.max_length} and images are never cut; use smaller images or raise max_length"
        )
    ids = input_ids.tolist()
    tokens = tuple(loaded.tokenizer.convert_ids_to_tokens(ids))
    is_image = (input_ids == image_inputs.image_token_id(lm)).cpu()
    visual = is_image.nonzero()[:, 0].tolist()
    sizes = [image.size for image in prompt.images]
    layout = family.layout(VisionInput(loaded.model.config, lm.processor, sizes, features, tokens, visual))
    if len(layout) != len(visual):
        raise GrainsError(
            f"{prompt.where}: {len(visual)} visual tokens where the layout of model type "
            f"'{loaded.model.config.model_type}' has {len(layout)}; the place of its patches is not known: "
            "use the family's usual image processor settings"
        )
    patches: list[Patch | None] = [None] * len(ids)
    for position, patch in zip(visual, layout, strict=True):
        patches[position] = patch
    options = image_inputs.bos_options(lm, [prompt.text])
    plain: list[int] = loaded.tokenizer(prompt.text, **options)["input_ids"]
    allowed = candidates(loaded, prompt.text, plain, prompt.spans)
    received = _run(loaded, features)
    positions: Any = received.keywords.get("position_ids")
    encoded = EncodedExample(
        example=example,
        input_ids=input_ids,
        tokens=tokens,
        embeddings=received.embeddings,
        is_image=is_image,
        is_candidate=_aligned(plain, allowed, ids) & ~is_image | torch.tensor([p is not None for p in patches]),
        chosen=chosen.to(input_ids.device),
        rejected=rejected.to(input_ids.device),
        patches=tuple(patches),
        decoder_keywords=received.keywords,
        next_position=int(positions.max()) + 1 if isinstance(positions, Tensor) else None,
    )
    return replace(encoded, visual_baseline=baseline(_Scene(loaded, lm, prompt, encoded)))


def _with_response(loaded: LoadedModel, encoded: EncodedExample, response: Tensor) -> dict[str, Tensor]:
    """What the processor makes of prompt and response, as the harness scores them; an empty response leaves the prompt.

    Raises:
        GrainsError: the processor writes other tokens than those that were encoded.
    """
    lm, prompt = _prepare(loaded, encoded.example)
    text = prompt.text
    if len(response):
        chosen = torch.equal(response, encoded.chosen)
        text += prompt.trailing + (encoded.example.chosen if chosen else encoded.example.rejected)
    features = image_inputs.process(lm, [text], [prompt.images], prompt.where)
    if not torch.equal(features["input_ids"][0], torch.cat([encoded.input_ids, response])):
        raise GrainsError(
            f"{prompt.where}: the processor writes other tokens around the response than after the prompt alone"
        )
    return features


def response_keywords(loaded: LoadedModel, encoded: EncodedExample) -> dict[int, Mapping[str, Any]]:
    """By length of the response, what the decoder receives when the prompt runs with it."""
    responses = (encoded.chosen, encoded.rejected)
    return {len(each): _run(loaded, _with_response(loaded, encoded, each)).keywords for each in responses}


@torch.no_grad()
def harness_logits(loaded: LoadedModel, encoded: EncodedExample, response: Tensor) -> Tensor:
    """`[n, V]`: logits of prompt and response from token ids and pixels, as `ImageLoglikelihoodMixin` computes them."""
    features = _with_response(loaded, encoded, response)
    precision = loaded.lm.mixed_precision_dtype
    with torch.autocast(loaded.lm.device.type, dtype=precision, enabled=precision is not None):
        return loaded.model(**features, use_cache=False).logits[0]


def pixel_masked(loaded: LoadedModel, example: EncodedExample, patches: Sequence[Patch]) -> EncodedExample:
    """The same prompt with the patches greyed in the image and the image encoded anew.

    A vision tower that mixes patches leaves a masked token's content in its neighbours; grey pixels do not.

    Args:
        loaded: The model.
        example: The example, encoded.
        patches: Boxes to paint with the blank image's colour.
    """
    lm, prompt = _prepare(loaded, example.example)
    painted = image_inputs.greyed(prompt.images, patches, image_inputs.blank_colour(lm.processor))
    received = _run(loaded, image_inputs.process(lm, [prompt.text], [painted], prompt.where))
    return replace(example, embeddings=received.embeddings, decoder_keywords=received.keywords)


@dataclass(frozen=True)
class _Scene:
    """An encoded prompt with the means to encode it again with other images of the same sizes."""

    loaded: LoadedModel
    lm: ImageLM
    prompt: _Prompt
    encoded: EncodedExample

    def with_images(self, changed: list[Image.Image]) -> Tensor:
        """`[T, H]` embeddings with these images instead."""
        features = image_inputs.process(self.lm, [self.prompt.text], [changed], self.prompt.where)
        return _run(self.loaded, features).embeddings


def _blank(scene: _Scene) -> Tensor:
    colour = image_inputs.blank_colour(scene.lm.processor)
    return scene.with_images([image_inputs.blank(image, colour) for image in scene.prompt.images])


def _position_mean(scene: _Scene) -> Tensor:
    """What each position shows on average over the eight cyclic shifts of the images by thirds.

    The unshifted images are left out, or the baseline would hold a ninth of what it is to be the absence of.
    """
    rows = [
        scene.with_images([image_inputs.shifted(image, right, down) for image in scene.prompt.images])
        for right, down in product(range(3), repeat=2)
        if right or down
    ]
    return torch.stack([row.float() for row in rows]).mean(dim=0).to(rows[0].dtype)


def _mean(scene: _Scene) -> Tensor:
    """The mean over this prompt's patches at every visual token."""
    encoded = scene.encoded
    placed = torch.tensor([patch is not None for patch in encoded.patches], device=encoded.embeddings.device)
    mean = encoded.embeddings[placed].float().mean(dim=0).to(encoded.embeddings.dtype)
    return mean.expand(len(encoded.input_ids), -1)


def _zero(scene: _Scene) -> Tensor:
    return torch.zeros_like(scene.encoded.embeddings)


def _as_text(scene: _Scene) -> None:
    """No rows of their own: visual tokens take the text baseline, the pad embedding by default."""
    del scene


VISUAL_BASELINES: Mapping[str, Callable[[_Scene], Tensor | None]] = {
    "blank": _blank,
    "position_mean": _position_mean,
    "mean": _mean,
    "pad": _as_text,
    "zero": _zero,
}
