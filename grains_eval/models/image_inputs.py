"""Images and prompts into processor tensors, by the same rules for building and for evaluating."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER
from lm_eval.models.utils import has_bos_prefix, resize_image
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import BatchFeature

from grains_eval.errors import GrainsError
from grains_eval.models.families import FAMILIES
from grains_eval.types import Patch

# an `HFMultimodalLM`; lm-eval's registration hides the attributes of its classes from type checkers
ImageLM = Any


def check_images(lm: ImageLM, images: Sequence[Any], where: str, *, resize: bool = True) -> list[Image.Image]:
    """Decode images and resize them as lm-eval's image arguments ask.

    Args:
        lm: lm-eval's model object.
        images: What the task or file gave: images, or paths of image files.
        where: Names the example or request in errors.
        resize: Whether to resize and convert; otherwise they are only checked.

    Raises:
        GrainsError: a missing or damaged image, or more of them than `max_images`.
    """
    if lm.max_images is not None and len(images) > lm.max_images:
        raise GrainsError(
            f"{where} has {len(images)} images but the model takes max_images={lm.max_images}; "
            "raise max_images or leave the item out"
        )
    checked: list[Image.Image] = []
    for index, given in enumerate(images):
        try:
            image = Image.open(given) if isinstance(given, str | PathLike) else given
        except (OSError, ValueError) as error:
            raise GrainsError(f"{where}: image '{given}' cannot be read: {error}") from error
        if not isinstance(image, Image.Image):
            kind = "missing" if image is None else f"of type {type(image).__name__}, not a decoded image"
            raise GrainsError(f"{where}: image {index} is {kind}; every image must be readable")
        try:
            image.load()
            if not resize:
                checked.append(image)
                continue
            resized = resize_image(image, lm.image_width, lm.image_height, lm.image_max_side)
            checked.append(resized.convert("RGB") if lm.rgb else resized)
        except (OSError, SyntaxError, ValueError) as error:
            raise GrainsError(f"{where}: image {index} cannot be decoded ({error}); fetch it again") from error
    return checked


def placeholder(lm: ImageLM) -> str:
    """The text that stands for one image in this model's prompts.

    lm-eval decodes `image_token_id`, which in Gemma 3 is the token of a single patch; its processor wants
    `<start_of_image>`. `image_string=` of the user wins.
    """
    wanted = getattr(lm.processor, "image_token", None)
    return wanted if isinstance(wanted, str) and wanted not in lm.image_token else lm.image_token


def mark(lm: ImageLM) -> str:
    """The token that the processor counts, which `image_string=` may wrap (`<|vision_start|>...`)."""
    wanted = getattr(lm.processor, "image_token", None)
    return wanted if isinstance(wanted, str) else lm.image_token


def place_images(lm: ImageLM, text: str, count: int, where: str, *, in_front: bool = True) -> str:
    """Replace lm-eval's `<image>` by the model's own placeholder.

    Args:
        lm: lm-eval's model object.
        text: The prompt.
        count: Number of images.
        where: Names the example or request in errors.
        in_front: Put the images before a prompt that has no placeholder for them.

    Raises:
        GrainsError: the prompt holds more or fewer placeholders than there are images.
    """
    if in_front and DEFAULT_IMAGE_PLACEHOLDER not in text and mark(lm) not in text:
        text = DEFAULT_IMAGE_PLACEHOLDER * count + text
    placed = text.replace(DEFAULT_IMAGE_PLACEHOLDER, placeholder(lm))
    family = FAMILIES.get(str(lm.config.model_type))
    if family is not None and family.apart is not None and mark(lm) * 2 in placed:
        placed = text.replace(DEFAULT_IMAGE_PLACEHOLDER, family.apart)
    found = placed.count(mark(lm))
    patch = lm.tokenizer.decode([image_token_id(lm)], skip_special_tokens=False)
    if patch != mark(lm) and patch in placed:
        raise GrainsError(f"{where}: the prompt's text holds the model's image token '{patch}'; take it out")
    if found != count:
        raise GrainsError(
            f"{where}: the prompt holds {found} image placeholder(s) ('{mark(lm)}') for {count} image(s); "
            f"write '{DEFAULT_IMAGE_PLACEHOLDER}' once per image and no image token in the text"
        )
    return placed


def image_token_id(lm: ImageLM) -> int:
    """The id that every visual token has in the prompt's ids."""
    found = getattr(lm.config, "image_token_id", None)
    return int(found if found is not None else lm.config.image_token_index)


@contextmanager
def _padding_side(lm: ImageLM, side: str) -> Generator[None, None, None]:
    before = lm.tokenizer.padding_side
    lm.tokenizer.padding_side = side
    try:
        yield
    finally:
        lm.tokenizer.padding_side = before


def bos_options(lm: ImageLM, texts: Sequence[str]) -> dict[str, Any]:
    """Keep the tokenizer from adding a second BOS to prompts of a chat template that writes one."""
    written = all(has_bos_prefix(text, lm.tokenizer.bos_token) for text in texts)
    return {"add_special_tokens": False} if written else {}


def process(
    lm: ImageLM, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], where: str
) -> dict[str, Tensor]:
    """One right-padded processor call for a batch; all keys that it returns, on the model's device.

    Args:
        lm: lm-eval's model object.
        texts: `B` prompts with the model's own placeholders.
        images: Checked images of each prompt.
        where: Names the requests in errors.

    Raises:
        GrainsError: the processor refuses the text or the images.
    """
    features = dict(encode(lm, texts, images, where).to(lm.device, lm.model.dtype))
    features.pop("labels", None)  # PaliGemma's processor writes some for training
    return features


def encode(lm: ImageLM, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], where: str) -> BatchFeature:
    """As `process`, where the processor left its tensors; needs no model."""
    kind = str(lm.config.model_type)
    nested = [list(row) for row in images]
    flat = kind in FAMILIES and FAMILIES[kind].flat_images
    with _padding_side(lm, "right"):
        try:
            return lm.processor(
                text=list(texts),
                images=[image for row in nested for image in row] if flat else nested,
                padding="longest",
                return_tensors="pt",
                **bos_options(lm, texts),
            )
        except (ValueError, TypeError, IndexError, KeyError, OSError) as error:
            raise GrainsError(
                f"{where}: {type(lm.processor).__name__} refuses it: {' '.join(str(error).split())[:300]}"
            ) from error


def strip_context(context: str, continuation: str) -> tuple[str, str]:
    """Move trailing spaces of the context to the continuation, as lm-eval does."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def continuation_ids(
    lm: ImageLM, context: str, continuation: str, images: Sequence[Image.Image], where: str
) -> list[int] | None:
    """Token ids of a continuation whose context ids are a prefix of the whole's; None where they are not.

    Args:
        lm: lm-eval's model object.
        context: The prompt with the model's own placeholders, no trailing spaces.
        continuation: What follows.
        images: The context's images, needed only where the context ends with one.
        where: Names the request in errors.
    """
    if context.split(mark(lm))[-1].strip():
        # text after the last image: what the processor writes for images cannot reach its last tokens
        options = bos_options(lm, [context])
        start: list[int] = lm.tokenizer(context, **options)["input_ids"]
        whole: list[int] = lm.tokenizer(context + continuation, **options)["input_ids"]
    else:
        start = encode(lm, [context], [images], where)["input_ids"][0].tolist()
        whole = encode(lm, [context + continuation], [images], where)["input_ids"][0].tolist()
        end = _closing(start, whole)
        added = whole[len(start) - end : -end] if end else []
        if added and lm.tokenizer.decode(added, skip_special_tokens=True).strip() == continuation.strip():
            return added
    return whole[len(start) :] if whole[: len(start)] == start and len(whole) > len(start) else None


def _closing(start: Sequence[int], whole: Sequence[int]) -> int:
    """Number of tokens that a processor writes after any text (PaliGemma's line end); usually none."""
    common = next((i for i, (one, other) in enumerate(zip(start, whole, strict=False)) if one != other), len(start))
    end = len(start) - common
    return end if start[common:] == whole[len(whole) - end :] and len(whole) > len(start) else 0


def closes_prompts(lm: ImageLM, context: str, images: Sequence[Image.Image], where: str) -> bool:
    """Whether the processor writes tokens after a prompt that ends with text, as PaliGemma's writes a line end."""
    if not context.split(mark(lm))[-1].strip():
        return False
    text: list[int] = lm.tokenizer(context, add_special_tokens=False)["input_ids"]
    return text[-1] != int(encode(lm, [context], [images], where)["input_ids"][0, -1])


def lengthened(model: Any, inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """A prompt's forward keywords with an answer appended, by the rule that the model's own `generate` uses.

    That rule knows what kind of token each new one is: PaliGemma's attention is bidirectional in the prompt only.

    Args:
        model: The model.
        inputs: Keywords for one prompt, `input_ids [1, T]` among them.
        ids: Tokens of the answer.
    """
    grown = dict(inputs)
    for _ in ids:  # some models lengthen their masks by one, however many tokens are added
        grown = model._update_model_kwargs_for_generation({}, grown, is_encoder_decoder=False)
    answer = inputs["input_ids"].new_tensor([list(ids)])
    return {**grown, "input_ids": torch.cat([inputs["input_ids"], answer], dim=1)}


def blank_colour(processor: Any) -> tuple[int, int, int]:
    """The mean grey of the images that the vision tower was trained on: zero after normalisation."""
    mean = getattr(processor.image_processor, "image_mean", None)
    values = [float(mean)] * 3 if isinstance(mean, int | float) else list(mean or [0.5] * 3)
    red, green, blue = (round(255 * value) for value in values[:3])
    return red, green, blue


def blank(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A uniform image of the same size."""
    return Image.new("RGB", image.size, colour)


def greyed(images: Sequence[Image.Image], patches: Sequence[Patch], colour: tuple[int, int, int]) -> list[Image.Image]:
    """Copies of the images with the patches' boxes painted over."""
    copies = [image.convert("RGB") for image in images]
    for patch in patches:
        image = copies[patch.image]
        left, top, right, bottom = patch.box
        corners = (
            round(left * image.width),
            round(top * image.height),
            max(round(left * image.width), round(right * image.width) - 1),
            max(round(top * image.height), round(bottom * image.height) - 1),
        )
        ImageDraw.Draw(image).rectangle(corners, fill=colour)
    return copies


def shifted(image: Image.Image, right: int, down: int) -> Image.Image:
    """The image rolled by thirds of its width and height."""
    pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] * down // 3, pixels.shape[1] * right // 3
    return Image.fromarray(np.roll(pixels, (rows, columns), axis=(0, 1)))
