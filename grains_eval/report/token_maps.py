"""Token heat maps: made from attributions, read from an artifact folder, and prepared for the page. Needs no torch."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grains_eval.report.data import TokenMap

# Byte-level tokenizers write a space and a line break as these letters.
_LETTERS = {"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t"}
# Tokens that carry at least this share of the largest score are marked by sign.
VISIBLE = 0.05
_STRONGEST = 6  # tokens that are also named in words
_SIDE = 320  # of a drawn image


def token_map(
    attribution: Any,
    *,
    selected: Sequence[int] = (),
    images: Sequence[bytes] = (),
    title: str | None = None,
    doc_hash: str = "",
) -> TokenMap:
    """A heat map of an `Attribution`, or of anything with its attributes.

    Args:
        attribution: Object with `example_id`, `tokens`, `scores`, `is_image`, `value` and so on.
        selected: Positions that were masked.
        images: The prompt's images as PNG files.
        title: Heading; default: the example's id.
        doc_hash: lm-eval's hash of the document, where compared items may be shown with the map.
    """
    patches = list(getattr(attribution, "patches", ()) or ())
    error = float(getattr(attribution, "completeness_error", math.nan))
    value = float(getattr(attribution, "value", math.nan))
    start = float(getattr(attribution, "baseline_value", math.nan))
    parts = [f"F(x) = {value:.3f} nats"] if math.isfinite(value) else []
    if math.isfinite(start):
        parts.append(f"at the baseline {start:.3f} nats")
    if math.isfinite(error):
        parts.append(f"completeness error {error * 100:.2f} %")
    return TokenMap(
        title=title or str(attribution.example_id),
        tokens=tuple(attribution.tokens),
        scores=tuple(float(score) for score in attribution.scores),
        is_image=tuple(bool(flag) for flag in attribution.is_image),
        selected=frozenset(int(position) for position in selected),
        boxes=tuple(None if patch is None else (patch.image, tuple(patch.box)) for patch in patches),
        images=tuple(images),
        note=", ".join(parts),
        doc_hash=doc_hash,
    )


def read_token_maps(folder: Path, most: int = 3) -> list[TokenMap]:
    """The heat maps of the first examples of an artifact; none where it has no attributions.

    Args:
        folder: The artifact folder.
        most: How many examples.
    """
    file = folder / "attributions.parquet"
    if not file.is_file():
        return []
    import pyarrow.parquet as pq  # an artifact's; comparing runs needs none

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        examples.setdefault(row["example_id"], []).append(row)
    return [_read(folder, index, name, examples[name]) for index, name in enumerate(list(examples)[:most])]


def _read(folder: Path, index: int, name: str, rows: list[dict[str, Any]]) -> TokenMap:
    first = rows[0]
    patches = [
        None if row["image"] is None else SimpleNamespace(image=row["image"], box=tuple(row["box"])) for row in rows
    ]
    images = sorted((folder / "pictures").glob(f"{index}-*.png"), key=lambda file: int(file.stem.partition("-")[2]))
    return token_map(
        SimpleNamespace(
            example_id=name,
            tokens=[row["token"] for row in rows],
            scores=[row["score"] for row in rows],
            is_image=[row["is_image"] for row in rows],
            value=first["value"],
            baseline_value=first["baseline_value"],
            completeness_error=first["completeness_error"],
            patches=patches,
        ),
        selected=[row["position"] for row in rows if row["selected"]],
        images=[file.read_bytes() for file in images],
    )


def readable(token: str) -> str:
    """A token as a person reads it."""
    for letter, meaning in _LETTERS.items():
        token = token.replace(letter, meaning)
    return token


def shares(drawn: TokenMap) -> list[float]:
    """`[T]` strength of each token: its score's size, as a share of the largest."""
    largest = max((abs(score) for score in drawn.scores), default=0.0) or 1.0
    return [abs(score) / largest for score in drawn.scores]


def drawing(drawn: TokenMap) -> dict[str, Any]:
    """What `token_map.html` shows: text tokens in a row, visual tokens over their image, the strongest in words."""
    marks = [_mark(drawn, index, share) for index, share in enumerate(shares(drawn))]
    is_image = drawn.is_image or [False] * len(marks)
    images = sorted({box[0] for box in drawn.boxes if box is not None})
    return {
        "title": drawn.title,
        "note": drawn.note,
        "doc_hash": drawn.doc_hash,
        "tokens": [mark for mark, visual in zip(marks, is_image, strict=True) if not visual],
        "images": [_image(drawn, image, marks) for image in images],
        "side": _SIDE,
        "strongest": [
            mark for mark in sorted(marks, key=lambda mark: -abs(mark["score"]))[:_STRONGEST] if mark["visible"]
        ],
    }


def _mark(drawn: TokenMap, index: int, share: float) -> dict[str, Any]:
    score, text = drawn.scores[index], readable(drawn.tokens[index])
    return {
        "score": score,
        "share": share,
        "visible": share >= VISIBLE,
        "side": "pos" if score > 0 else "neg",
        "sign": "+" if score > 0 else "−",
        "chosen": index in drawn.selected,
        "text": text.replace("\n", "↵") if text.strip(" ") else text.replace(" ", "\N{NO-BREAK SPACE}") or "∅",
        "lines": text.count("\n"),
        "name": _name(drawn, index),
    }


def _image(drawn: TokenMap, image: int, marks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One image, as data where there is any, and its tokens' places in pixels of the drawing."""
    patches: list[dict[str, Any]] = []
    for mark, box in zip(marks, drawn.boxes, strict=True):
        if box is not None and box[0] == image:
            left, top, right, bottom = (edge * _SIDE for edge in box[1])
            patches.append({**mark, "x": left, "y": top, "width": right - left, "height": bottom - top})
    data = base64.b64encode(drawn.images[image]).decode() if image < len(drawn.images) else ""
    return {"number": image + 1, "data": data, "patches": patches}


def _name(drawn: TokenMap, index: int) -> str:
    if index < len(drawn.is_image) and drawn.is_image[index]:
        box = drawn.boxes[index] if index < len(drawn.boxes) else None
        if box is None:
            return f"visual token {index}"
        left, top, right, bottom = box[1]
        return f"image {box[0] + 1}, {(left + right) * 50:.0f} % across, {(top + bottom) * 50:.0f} % down"
    return f"{index}: {readable(drawn.tokens[index])!r}"
