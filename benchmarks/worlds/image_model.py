"""The image world's model: LLaVA's architecture at about a million parameters, with processor and tokenizer.

One visual token per cell. The vision tower is read before its only layer mixes cells
(`vision_feature_layer=-2`), so a visual token knows nothing of its neighbours and masking it equals removing
the cell's pixels. In real towers features mix, and a masked patch lives on in the tokens around it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.worlds.image_words import SPECIAL_TOKENS
from benchmarks.worlds.image_world import ImageWorld, Item, read_scene
from grains_eval.demo.scenes import BACKGROUND, CELL, CELLS, SIZE, Mark, draw

Source = Literal["own", "blank", "swapped"]

PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIAL_TOKENS))
HIDDEN, FEED_FORWARD, HEADS, VISION_HIDDEN = 128, 344, 4, 96
CHAT_TEMPLATE = (  # the model knows no roles: a chat is its turns' text, one after the other
    "{% for message in messages %}{% if not loop.first %} {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def make_model(vocabulary_size: int, layers: int) -> LlavaForConditionalGeneration:
    """A fresh model; call `torch.manual_seed` first."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=16,  # the layer is never read
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=CELL,
        projection_dim=VISION_HIDDEN,
    )
    text = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.08,  # 0.02 does not learn at this size
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    settings: dict[str, Any] = dict(  # not all of them are declared parameters
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=CELLS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    model = LlavaForConditionalGeneration(LlavaConfig(**settings))
    weights = dict(model.named_parameters())
    patches, places = (
        next(weight for name, weight in weights.items() if name.endswith(f"{part}_embedding.weight"))
        for part in ("patch", "position")
    )
    first, second = (weights[f"model.multi_modal_projector.linear_{number}.weight"] for number in (1, 2))
    with torch.no_grad():  # a larger projector drowns the words: its tokens grow to fifty times their norm
        patches.normal_(0, (3 * CELL * CELL) ** -0.5)
        places.normal_(0, 0.3)  # an empty cell is its place, not its noise blown up by the layer norm
        first.normal_(0, 0.5 * VISION_HIDDEN**-0.5)
        second.normal_(0, 0.3 * HIDDEN**-0.5)
    return model


def make_processor(words: Sequence[str]) -> LlavaProcessor:
    """Word-level tokenizer over `words` (special tokens first) and images taken at their own size."""
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[UNK]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    bos = SPECIAL_TOKENS[BOS]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL_TOKENS[PAD],
        bos_token=bos,
        eos_token=SPECIAL_TOKENS[EOS],
        unk_token=SPECIAL_TOKENS[UNK],
        extra_special_tokens={"image_token": SPECIAL_TOKENS[IMAGE]},
        model_max_length=128,
        padding_side="left",
    )
    half = [0.5, 0.5, 0.5]
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(size=size, crop_size=size, image_mean=half, image_std=half)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's class token, which "default" drops again
        chat_template=CHAT_TEMPLATE,
    )


def pixel_values(scenes: Sequence[tuple[Sequence[Mark], int | None]], background: int = BACKGROUND) -> Tensor:
    """What the processor makes of drawn scenes: `[n, 3, 32, 32]` in -1 .. 1."""
    levels = np.stack([draw(scene, noise, background) for scene, noise in scenes])
    return (torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def prompt_ids(world: ImageWorld, words: Sequence[str], pictured: bool) -> list[int]:
    """Token ids of a prompt given in words, with the image's places in front."""
    index = {word: number for number, word in enumerate(world.words)}
    return [BOS, *([IMAGE] * CELLS if pictured else []), *(index[word] for word in words)]


@torch.no_grad()
def choice_log_probs(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    items: Sequence[Item],
    source: Source = "own",
    background: int = BACKGROUND,
) -> list[list[float]]:
    """`log p(choice | image, prompt)` of every choice, with the item's image, none or the next item's."""
    tokenizer: Any = processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    rows: list[list[int]] = tokenizer([item["prompt"] for item in items])["input_ids"]
    rows = [[ids[0], *[IMAGE] * CELLS * bool(item["scene"]), *ids[1:]] for ids, item in zip(rows, items, strict=True)]
    results: list[list[float]] = [[]] * len(items)
    for length in {len(ids) for ids in rows}:  # prompts of one length need no padding
        same = [number for number, ids in enumerate(rows) if len(ids) == length]
        scenes: list[tuple[Sequence[Mark], int | None]] = []
        for number in same:
            one = items[(number + 1) % len(items)] if source == "swapped" else items[number]
            scenes.append(([] if source == "blank" else read_scene(one), one["noise"]))
        pixels = pixel_values(scenes, background) if IMAGE in rows[same[0]] else None
        ids = torch.tensor([rows[number] for number in same])
        logits = model(input_ids=ids, pixel_values=pixels, logits_to_keep=1).logits[:, -1]
        for number, log_probs in zip(same, logits.float().log_softmax(-1), strict=True):
            choices = tokenizer.convert_tokens_to_ids(items[number]["choices"])
            results[number] = log_probs[choices].tolist()
    return results


def accuracy(log_probs: Sequence[Sequence[float]], items: Sequence[Item]) -> float:
    """Share of items whose right choice is the likeliest."""
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in log_probs]
    return sum(index == item["gold"] for index, item in zip(likeliest, items, strict=True)) / len(items)


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write a Hugging Face folder: half-precision weights, to be computed with in float32."""
    model.half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
