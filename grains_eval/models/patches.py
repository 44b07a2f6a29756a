"""Where visual tokens look: the patch grid of each family, as boxes in the image the user gave.

Boxes are fractions of the image's width and height, clipped to it; padding that a processor adds lies
outside. Every layout lists one entry per visual token in prompt order; None is a visual token without a place
(a line break).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.image_processing_utils import select_best_resolution

from grains_eval.types import Patch

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class VisionInput:
    """What a layout may look at.

    Attributes:
        config: The model's configuration.
        processor: Its processor.
        sizes: `(width, height)` of each image in pixels.
        features: Everything the processor returned.
        tokens: `[T]` token strings of the prompt.
        visual: Positions of the visual tokens.
    """

    config: Any
    processor: Any
    sizes: Sequence[tuple[int, int]]
    features: Mapping[str, Any]
    tokens: Sequence[str]
    visual: Sequence[int]


def grid(image: int, rows: int, columns: int, region: Box = WHOLE) -> list[Patch]:
    """Row-major patches of a grid that covers `region` of image `image`."""
    left, top, right, bottom = region
    width, height = (right - left) / columns, (bottom - top) / rows

    def clip(value: float) -> float:
        return min(1.0, max(0.0, value))

    return [
        Patch(
            image,
            row,
            column,
            (
                clip(left + column * width),
                clip(top + row * height),
                clip(left + (column + 1) * width),
                clip(top + (row + 1) * height),
            ),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _edges(size: Any) -> tuple[int | None, int | None, int | None]:
    """Height, width and shortest edge of a processor's size."""

    def read(name: str) -> int | None:
        value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
        return int(value) if value else None

    return read("height"), read("width"), read("shortest_edge")


def seen_region(processor: Any, width: int, height: int) -> tuple[Box, int, int]:
    """The part of an image that a CLIP-like processor shows, and the height and width it is shown at."""
    images = processor.image_processor
    left, top, seen_width, seen_height = 0.0, 0.0, float(width), float(height)
    if getattr(images, "do_pad", False):  # to a square, before resizing
        side = max(width, height)
        left, top = float((width - side) // 2), float((height - side) // 2)
        seen_width = seen_height = float(side)
    tall, wide, shortest = _edges(images.size)
    if not (tall and wide):
        scale = (shortest or min(seen_width, seen_height)) / min(seen_width, seen_height)
        tall, wide = round(seen_height * scale), round(seen_width * scale)
    if getattr(images, "do_center_crop", False):
        crop_height, crop_width, _ = _edges(images.crop_size)
        if crop_height and crop_width:
            per_x, per_y = seen_width / wide, seen_height / tall
            left += (wide - crop_width) / 2 * per_x
            top += (tall - crop_height) / 2 * per_y
            seen_width, seen_height = crop_width * per_x, crop_height * per_y
            tall, wide = crop_height, crop_width
    region = (left / width, top / height, (left + seen_width) / width, (top + seen_height) / height)
    return region, tall, wide


def single_grid(given: VisionInput) -> list[Patch | None]:
    """LLaVA-1.5: a grid per image, cropped or padded to a square; under `full` a class token first."""
    patch = int(given.config.vision_config.patch_size)
    summary = [None] if given.config.vision_feature_select_strategy == "full" else []
    found: list[Patch | None] = []
    for index, (width, height) in enumerate(given.sizes):
        region, tall, wide = seen_region(given.processor, width, height)
        found += [*summary, *grid(index, tall // patch, wide // patch, region)]
    return found


def tiles_and_newlines(given: VisionInput) -> list[Patch | None]:
    """LLaVA-Next: the whole image, then unpadded tiles at the best resolution, a newline after each row."""
    side, patch = int(given.config.vision_config.image_size), int(given.config.vision_config.patch_size)
    per_side = side // patch
    found: list[Patch | None] = []
    for index, (width, height) in enumerate(given.sizes):
        found += grid(index, per_side, per_side)
        tall, wide = select_best_resolution((height, width), given.config.image_grid_pinpoints)
        rows, columns = tall // side * per_side, wide // side * per_side
        # the image keeps its proportions on a canvas of tall x wide pixels, in the middle
        if wide / width < tall / height:
            shown_width, shown_height = wide, min(math.ceil(height * wide / width), tall)
        else:
            shown_width, shown_height = min(math.ceil(width * tall / height), wide), tall
        left, top = (wide - shown_width) // 2, (tall - shown_height) // 2
        canvas = grid(
            index,
            rows,
            columns,
            (
                -left / shown_width,
                -top / shown_height,
                (wide - left) / shown_width,
                (tall - top) / shown_height,
            ),
        )
        # the model drops whole rows or columns of padding by the rule of its `unpad_image`
        spare_rows = spare_columns = 0
        if width / height > columns / rows:
            spare_rows = (rows - int(round(height * (columns / width), 7))) // 2
        else:
            spare_columns = (columns - int(round(width * (rows / height), 7))) // 2
        for row in range(spare_rows, rows - spare_rows):
            kept = canvas[row * columns + spare_columns : (row + 1) * columns - spare_columns]
            found += [Patch(index, row - spare_rows, column, patch.box) for column, patch in enumerate(kept)]
            found.append(None)
    return found


def merged_grid(given: VisionInput) -> list[Patch | None]:
    """Qwen-VL: `image_grid_thw` patches per image, merged in squares; stretched, never cropped."""
    merge = int(given.config.vision_config.spatial_merge_size)
    found: list[Patch | None] = []
    for index, (_, rows, columns) in enumerate(given.features["image_grid_thw"].tolist()):
        found += grid(index, rows // merge, columns // merge)
    return found


def pooled_square(given: VisionInput) -> list[Patch | None]:
    """Gemma 3: every image is stretched to a square and pooled to `mm_tokens_per_image` tokens."""
    side = math.isqrt(int(given.config.mm_tokens_per_image))
    return [patch for index in range(len(given.sizes)) for patch in grid(index, side, side)]


def marked_tiles(given: VisionInput) -> list[Patch | None]:
    """Idefics3 and SmolVLM: tiles announced by `<row_i_col_j>`, then the whole image."""
    per_tile = int(given.processor.image_seq_len)
    side = math.isqrt(per_tile)
    starts = list(given.visual[::per_tile])
    marks = [re.fullmatch(r"<row_(\d+)_col_(\d+)>", given.tokens[start - 1]) for start in starts]
    places = [(int(mark[1]), int(mark[2])) if mark else None for mark in marks]
    found: list[Patch | None] = []
    image, pending = 0, list[tuple[int, int]]()
    for place in places:
        if place is not None:
            pending.append(place)
            continue
        rows, columns = (max(axis) for axis in zip(*pending, strict=True)) if pending else (1, 1)
        for row, column in pending:
            region = ((column - 1) / columns, (row - 1) / rows, column / columns, row / rows)
            found += [
                Patch(image, patch.row + (row - 1) * side, patch.column + (column - 1) * side, patch.box)
                for patch in grid(image, side, side, region)
            ]
        found += grid(image, side, side)
        image, pending = image + 1, []
    return found
