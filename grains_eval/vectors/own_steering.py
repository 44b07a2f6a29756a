"""How a method that is neither GrAInS nor one of its controls is applied: as in its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grains_eval.recipes import Recipe, SteeringSection, parse_section
from grains_eval.types import SteeringConfig, SteeringVectors

_MOST_LAYERS = 8


@dataclass(frozen=True)
class OwnSteering:
    """A method's own way of steering; without one the recipe's `steering` section says how.

    Attributes:
        source: The setting of the method's source, used where there is nothing to tune on.
        tuned: How it is tuned: unit, operator, positions, and the strength that the recipe's
            `steering.strengths` multiply.
        depth: How far up the source's single steered layer is, as a share of the depth; None steers every
            layer at once.
    """

    source: SteeringConfig
    tuned: SteeringConfig
    depth: float | None = None

    def untuned(self, vectors: SteeringVectors) -> SteeringConfig:
        """The source's setting for given vectors."""
        if self.depth is None:
            return self.source
        layer = min(vectors.layers, key=lambda known: abs(known - (self.depth or 0) * len(vectors.layers)))
        return replace(self.source, layers=(layer,))


def section_for(recipe: Recipe, own: OwnSteering | None) -> SteeringSection:
    """The steering section that the recipe's method obeys.

    For a method with its own steering, layer and strength are open to tuning, whatever the recipe fixes for
    GrAInS; operator, unit, positions and whether one layer or all are steered are the method's.
    `vectors.options.steering` overrides any of it.

    Raises:
        GrainsError: `vectors.options.steering` has an unknown key or a bad value.
    """
    shared = recipe.steering
    if own is None:
        return shared
    section = {
        "layers": "all" if own.depth is None else "auto",
        "strength": "auto",
        "unit": own.tuned.unit,
        "operator": own.tuned.operator,
        "positions": own.tuned.positions,
        "strengths": [own.tuned.strength * factor for factor in shared.strengths],
        "candidate_layers": shared.candidate_layers,
    }
    given: Mapping[str, object] = recipe.vectors.options.get("steering") or {}
    return parse_section(SteeringSection, {**section, **given}, "vectors.options.steering")


def evenly_spaced(layers: Sequence[int], most: int = _MOST_LAYERS) -> list[int]:
    """Layers that are tried where a recipe names none: all of them, or `most` of them, evenly spaced."""
    if len(layers) <= most:
        return list(layers)
    spaced = (round(index * (len(layers) - 1) / (most - 1)) for index in range(most))
    return [layers[index] for index in dict.fromkeys(spaced)]
