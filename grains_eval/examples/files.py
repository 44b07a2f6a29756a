"""Preference examples from a file or a hub dataset with field names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, load_dataset
from PIL import Image

from grains_eval.errors import GrainsError, first_line
from grains_eval.examples.contexts import context_of
from grains_eval.examples.documents import doc_hash
from grains_eval.examples.fields import field
from grains_eval.questions import question_hashes
from grains_eval.recipes import Data
from grains_eval.types import Message, PreferenceExample

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read_rows(data: Data, split: str | None) -> Dataset:
    """The rows of `data.path`.

    Raises:
        GrainsError: no such file, a file type that is not read, or a dataset that cannot be loaded.
    """
    path = Path(str(data.path))
    try:
        if path.suffix in _READERS or path.is_file():
            if path.suffix not in _READERS:
                raise GrainsError(f"data.path '{path}' is not among {', '.join(_READERS)}")
            if not path.is_file():
                raise GrainsError(f"data.path '{path}' does not exist")
            if not path.stat().st_size:
                raise GrainsError(f"data.path '{path}' is empty")
            return load_dataset(_READERS[path.suffix], data_files=str(path), split="train")
        return load_dataset(str(data.path), data.name, split=split or "train")
    except GrainsError:
        raise
    except Exception as error:  # datasets raises many kinds for offline hubs, bad JSON and bad schemas
        reason = first_line(error)
        raise GrainsError(f"data.path '{data.path}' cannot be loaded: {reason}") from error


def examples_from_rows(rows: Iterable[tuple[int, dict[str, Any]]], data: Data) -> Iterator[PreferenceExample]:
    """Turn rows, each with its index, into preference examples.

    Raises:
        GrainsError: a field that is missing or empty, or an image that cannot be read.
    """
    for index, row in rows:
        name = f"{Path(str(data.path)).name}:{index}"
        responses = [field(row, data.chosen), field(row, data.rejected or "rejected")]
        for key, response in zip(("chosen", "rejected"), responses, strict=True):
            if not isinstance(response, str) or not response.strip():
                raise GrainsError(f"{name}: the {key} response is {response!r}; it must be text that is not empty")
        prompt = _prompt(field(row, data.prompt), data, name)
        shown = prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
        yield PreferenceExample(
            id=name,
            doc_hash=doc_hash(row),
            prompt=prompt,
            chosen=f"{data.delimiter}{responses[0]}",
            rejected=f"{data.delimiter}{responses[1]}",
            images=_images(field(row, data.images), name, data.folder) if data.images else (),
            cluster=str(field(row, data.cluster)) if data.cluster else None,
            question=question_hashes(row, shown),
            context=context_of(data.context, row) if data.context else None,
        )


def _prompt(value: Any, data: Data, name: str) -> str | tuple[Message, ...]:
    if isinstance(value, list):
        try:
            return tuple(Message(turn["role"], turn["content"]) for turn in cast("list[dict[str, str]]", value))
        except (KeyError, TypeError) as error:
            raise GrainsError(f"{name}: a chat prompt is a list of {{role, content}}") from error
    if not isinstance(value, str) or not value.strip():
        raise GrainsError(f"{name}: the prompt is {value!r}; it must be text, or a list of chat messages")
    return (Message("user", value),) if data.chat_template else value


def _images(value: Any, name: str, folder: Path | None) -> tuple[Image.Image, ...]:
    images: list[Image.Image] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Image.Image):
            images.append(item)
            continue
        try:
            beside = folder / str(item) if folder is not None else Path(str(item))
            images.append(Image.open(beside if beside.exists() else str(item)).convert("RGB"))
        except OSError as error:
            raise GrainsError(f"{name}: image '{item}' cannot be read: {error}") from error
    return tuple(images)
