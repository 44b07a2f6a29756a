"""lm-eval's document hash, the key that keeps build, development and test items apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string
from PIL.Image import Image


def has_image(value: Any) -> bool:
    """Whether a value is an image or holds one."""
    if isinstance(value, Image):
        return True
    if isinstance(value, Mapping):
        return any(has_image(item) for item in value.values())
    return isinstance(value, list | tuple) and any(has_image(item) for item in value)


def image_hash(image: Image) -> str:
    """SHA-256 of what an image shows: pixels, size, mode and palette."""
    described = f"{image.mode} {image.size} {image.getpalette()} {image.info.get('transparency')!r}"
    return hashlib.sha256(described.encode() + image.tobytes()).hexdigest()


def doc_hash(doc: Any) -> str:
    """The `doc_hash` that lm-eval writes into `samples_*.jsonl`.

    Fields that hold images are left out: lm-eval would hash their memory address.
    """
    if isinstance(doc, Mapping):
        doc = {key: value for key, value in doc.items() if not has_image(value)}
    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


def identity(doc: Any) -> str:
    """Tells documents apart within a draw: as `doc_hash`, with the pixels of their images.

    It is never written: lm-eval's own hash of an image is a memory address, which nothing could match.
    """
    doc = dict(doc) if isinstance(doc, Mapping) else doc
    return hash_string(json.dumps(doc, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    return image_hash(value) if isinstance(value, Image) else handle_non_serializable(value)
