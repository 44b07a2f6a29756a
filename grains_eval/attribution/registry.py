"""The tables of attribution methods and of token selections, and the decorators that fill them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from grains_eval.attribution.objective import Objective
from grains_eval.attribution.transfer import Transfer
from grains_eval.models.encoded import EncodedExample
from grains_eval.recipes import AttributionConfig
from grains_eval.registry import Registry
from grains_eval.types import Attribution, TokenSelection


@dataclass(frozen=True)
class Problem:
    """What an attribution method sees of one example.

    Attributes:
        objective: `F`, `[B, T, H]` float32 to `[B]`.
        inputs: `[T, H]` float32, `x`.
        baseline: `[T, H]` float32, `x'`.
        config: The recipe's section.
        seed: Differs between examples, the same on every run.
        steps: Quadrature nodes, for a method that has them.
        rows: Rows `B` that fit into one pass.
    """

    objective: Objective
    inputs: Tensor
    baseline: Tensor
    config: AttributionConfig
    seed: int
    steps: int
    rows: int


# -> [T] float32 scores
Scores = Callable[[Problem], Tensor]

# (example index, token positions) -> [n, L, H]: what masking each token alone takes from the last prompt token's state
TokenDeltas = Callable[[int, Sequence[int]], Tensor]
Selection = Callable[
    [Sequence[Attribution], Sequence[EncodedExample], AttributionConfig, TokenDeltas, Transfer],
    list[TokenSelection],
]


@dataclass(frozen=True)
class AttributionMethod:
    """An entry of the table.

    Attributes:
        scores: The method.
        is_complete: Whether its scores promise to sum to `F(x) - F(x')`; `steps` are doubled until they do.
    """

    scores: Scores
    is_complete: bool = False


ATTRIBUTION_METHODS: Registry[AttributionMethod] = Registry("attribution method", "grains_eval.attribution")
SELECTIONS: Registry[Selection] = Registry("selection", "grains_eval.attribution")


def attribution_method(name: str, *, is_complete: bool = False) -> Callable[[Scores], Scores]:
    """Register a function as the attribution method `name` of a recipe's `attribution.method`.

    Args:
        name: What a recipe calls it.
        is_complete: See `AttributionMethod`.

    Raises:
        GrainsError: the name is taken.
    """

    def register(scores: Scores) -> Scores:
        ATTRIBUTION_METHODS.add(name, AttributionMethod(scores, is_complete), scores.__module__)
        return scores

    return register


def selection(name: str) -> Callable[[Selection], Selection]:
    """Register a function as the selection `name` of a recipe's `attribution.selection`.

    Raises:
        GrainsError: the name is taken.
    """

    def register(function: Selection) -> Selection:
        SELECTIONS.add(name, function, function.__module__)
        return function

    return register
