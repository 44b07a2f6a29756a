"""How long loops show their progress: a function that yields items, given a description of what is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Yields items one by one and shows the progress."""

    def __call__(self, items: Sequence[T], description: str, /) -> Iterable[T]:
        """The items; `description` says what is done with them."""
        ...


def silent(items: Sequence[T], description: str) -> Iterable[T]:
    """Yields items and shows nothing."""
    del description
    return items
