"""Toy processors for vision-language families: the family's own classes with a tokenizer and pictures of toy size."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import transformers as hf
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from tests.tiny import images_only, tokenizer

# what a picture and its surroundings are called where a family's own code spells it out
_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_NAMES: Mapping[str, Mapping[str, str]] = {
    "gemma3": {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl_moe"), _QWEN),
}
_USUAL = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<audio>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<context>",
    "image_break_token": "<break>",
    "image_end_token": "<end>",
    "vision_start_token": "<vision>",
    "vision_end_token": "</vision>",
}
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
_MORE = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *_TILES]


class NoProcessor(Exception):
    """There is no processor that could be built here."""


def names(model_type: str) -> Mapping[str, str]:
    """Special tokens of a family by the attribute of its tokenizer."""
    return _NAMES.get(model_type, _USUAL)


def words(model_type: str) -> hf.PreTrainedTokenizerFast:
    """A tokenizer with the family's special tokens, and those that its processor's signature names."""
    kind = getattr(hf, PROCESSOR_MAPPING_NAMES.get(model_type) or "", None)
    given = inspect.signature(kind.__init__).parameters.values() if kind else []
    spelled = [one.default for one in given if isinstance(one.default, str) and one.default.startswith("<")]
    special = dict.fromkeys([*names(model_type).values(), *spelled, *_MORE])
    return tokenizer(list(special), extra_special_tokens=dict(names(model_type)))


def token_ids(model_type: str, fields: Mapping[str, Any]) -> dict[str, int]:
    """The ids of special tokens for a configuration's fields."""
    made = words(model_type)
    found = {}
    for name in fields:
        stem = name.removesuffix("_id").removesuffix("_index")
        if stem != name and stem in names(model_type):
            found[name] = made.convert_tokens_to_ids(names(model_type)[stem])
    return found


def processor(model_type: str, config: hf.PreTrainedConfig) -> hf.ProcessorMixin:
    """The family's own processor at toy size.

    Raises:
        NoProcessor: transformers has none, or it needs a package that is not here.
    """
    kind = getattr(hf, PROCESSOR_MAPPING_NAMES.get(model_type) or "", None)
    if kind is None:
        raise NoProcessor("transformers has no processor for it")
    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    named = named.get("pil") if isinstance(named, dict) else named
    if named is None:
        raise NoProcessor("its image processor needs torchvision")
    made = words(model_type)
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    patch = patch if isinstance(patch, int) else 14
    side = getattr(vision, "image_size", None)
    side = side if isinstance(side, int) else 4 * patch
    images = getattr(hf, named)(**_image_sizes(getattr(hf, named), side, patch, vision))
    tokens = (side // patch) ** 2
    images.image_seq_length = tokens  # PaliGemma's processor asks its image processor
    wanted = {
        "patch_size": patch,
        "image_seq_length": getattr(config, "mm_tokens_per_image", None) or tokens,
        "image_seq_len": tokens // int(getattr(config, "scale_factor", 1)) ** 2,
        "num_image_tokens": tokens,
        "num_query_tokens": getattr(config, "num_query_tokens", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "num_additional_image_tokens": 1,
        "image_token": names(model_type)["image_token"],
        "chat_template": made.chat_template,
        "qformer_tokenizer": made,
    }
    accepted = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in wanted.items() if name in accepted and value is not None}
    if "video_processor" in accepted:
        return images_only(kind, images, made, **given)
    return kind(image_processor=images, tokenizer=made, **given)


def _image_sizes(kind: Any, side: int, patch: int, vision: Any) -> dict[str, Any]:
    """Sizes for an image processor, in the terms in which its defaults are written."""
    default = kind()
    merge = getattr(vision, "spatial_merge_size", None) or getattr(default, "merge_size", None) or 1
    found: dict[str, Any] = {}
    size = dict(getattr(default, "size", None) or {})
    if set(size) >= {"height", "width"}:
        found["size"] = {"height": side, "width": side}
    elif set(size) == {"shortest_edge", "longest_edge"}:
        found["size"] = {"shortest_edge": (patch * merge) ** 2, "longest_edge": (4 * patch * merge) ** 2}
    elif set(size) == {"longest_edge"}:
        found["size"] = {"longest_edge": 2 * side}
    elif set(size) == {"shortest_edge"}:
        found["size"] = {"shortest_edge": side}
    if getattr(default, "crop_size", None):
        found["crop_size"] = {"height": side, "width": side}
    if getattr(default, "max_image_size", None):
        found["max_image_size"] = {"longest_edge": side}
    if isinstance(getattr(default, "patch_size", None), int):
        found["patch_size"] = patch
    if isinstance(getattr(default, "merge_size", None), int):
        found["merge_size"] = merge
    if getattr(default, "image_grid_pinpoints", None):
        found["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    return found
