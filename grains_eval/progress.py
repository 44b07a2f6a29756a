"""How long loops show how far they are: a function that goes through items, with what is done with them in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Goes through items one by one and shows how far it is."""

    def __call__(self, items: Sequence[T], description: str, /) -> Iterable[T]:
        """The items; `description` says what is done with them."""
        ...


def silent(items: Sequence[T], description: str) -> Iterable[T]:
    """Goes through items and shows nothing."""
    del description
    return items
