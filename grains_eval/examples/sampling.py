"""Seeded draws that never take a document twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from grains_eval.examples.documents import identity


def draw(docs: Sequence[Any], count: int, seed: int, taken: frozenset[str]) -> list[int]:
    """Indices of `count` documents in seeded random order, none twice and none whose `identity` is taken."""
    order = list(range(len(docs)))
    random.Random(seed).shuffle(order)
    seen, drawn = set(taken), list[int]()
    for index in order:
        if len(drawn) == count:
            break
        key = identity(docs[index])
        if key not in seen:
            seen.add(key)
            drawn.append(index)
    return drawn
