"""Which requests run together under which settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.vllm.settings import Setting

_MOST_TOKENS = 2**19  # whose log-probabilities are held at a time: some hundred bytes each


@dataclass(frozen=True)
class Batch:
    """Requests of one call, all of which may run under several settings.

    Attributes:
        keys: What each asks, see `keys_of`.
        prompt: Of a request, by its number, as `LLM.generate` takes it; made when it is sent.
        sizes: Tokens of each, an estimate where it shows images.
        parameters: `SamplingParams` of each.
        lengths: Of how many tokens the prompt of each consists, an image counted as its placeholder.
    """

    keys: Sequence[Hashable]
    prompt: Callable[[int], Mapping[str, Any]]
    sizes: Sequence[int]
    parameters: Sequence[Any]
    lengths: Sequence[int]


def keys_of(rows: Sequence[Sequence[int]], kinds: Sequence[str]) -> list[Hashable]:
    """Requests by content; those that are asked twice in one call are two."""
    seen: Counter[Hashable] = Counter()
    keys: list[Hashable] = []
    for row, kind in zip(rows, kinds, strict=True):
        key = (tuple(row), kind)
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def groups(settings: Sequence[Setting], size: int) -> list[list[Setting]]:
    """As many settings at a time as an engine has rows; the plain model needs none."""
    plain = [setting for setting in settings if not setting.stages]
    moving = [setting for setting in settings if setting.stages]
    found = [moving[start : start + size] for start in range(0, len(moving), size)] or [[]]
    return [[*plain, *found[0]], *found[1:]]


def parts(indices: Sequence[int], sizes: Sequence[int], settings: int) -> Generator[list[int], None, None]:
    """Requests in parts whose answers fit into memory."""
    part: list[int] = []
    size = 0
    for index in indices:
        part.append(index)
        size += sizes[index] * settings
        if size >= _MOST_TOKENS:
            yield part
            part, size = [], 0
    if part:
        yield part
