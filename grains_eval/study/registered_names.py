"""Everything that a recipe may name, read from the registries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grains_eval.attribution import ATTRIBUTION_METHODS, SELECTIONS
from grains_eval.steering import OPERATORS
from grains_eval.vectors import METHODS


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        name: What a recipe calls it.
        summary: The first line of its docstring.
        module: The module that defines it.
    """

    name: str
    summary: str
    module: str


def registered_names() -> dict[str, list[Entry]]:
    """Entries by the recipe's key that names them."""
    tables: dict[str, dict[str, Callable[..., Any]]] = {
        "vectors.method": {name: entry.function for name, entry in METHODS.items()},
        "attribution.method": {name: entry.scores for name, entry in ATTRIBUTION_METHODS.items()},
        "attribution.selection": dict(SELECTIONS.items()),
        "steering.operator": dict(OPERATORS.items()),
    }
    return {
        key: [Entry(name, _summary(function), function.__module__) for name, function in table.items()]
        for key, table in tables.items()
    }


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
