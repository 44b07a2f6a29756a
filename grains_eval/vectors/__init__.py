"""From preference examples to one direction per layer: GrAInS, other methods and controls."""

from __future__ import annotations

from collections.abc import Sequence

from grains_eval.errors import GrainsError, pick
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe, SteeringSection
from grains_eval.types import PreferenceExample, SteeringVectors
from grains_eval.vectors.context import BuildContext, BuiltVectors, build_context
from grains_eval.vectors.own_steering import OwnSteering, section_for
from grains_eval.vectors.registry import METHODS, vector_method


def own_steering(recipe: Recipe) -> OwnSteering | None:
    """How the recipe's method is applied, where its source says otherwise than the recipe.

    Raises:
        GrainsError: an unknown method.
    """
    return pick(METHODS, recipe.vectors.method, METHODS.what).steering


def steering_section(recipe: Recipe) -> SteeringSection:
    """How the recipe's method is to be applied and what is open to tuning; see `own_steering.section_for`."""
    return section_for(recipe, own_steering(recipe))


def run_method(context: BuildContext) -> BuiltVectors:
    """Run the recipe's vector method.

    Raises:
        GrainsError: an unknown method, one that makes no vectors, no examples, or directions that are not finite.
    """
    name = context.recipe.vectors.method
    method = pick(METHODS, name, METHODS.what)
    if method.makes != "vectors":
        raise GrainsError(f"method '{name}' makes no vectors; `grains-eval build` makes its {method.makes}")
    if not context.examples:
        raise GrainsError("there are no examples to build from")
    built: BuiltVectors = method.function(context)
    for layer, direction in built.vectors.directions.items():
        if not direction.isfinite().all():
            raise GrainsError(f"the direction of layer {layer} is not finite; load the model in float32")
    return built


def build(loaded: LoadedModel, examples: Sequence[PreferenceExample], recipe: Recipe) -> SteeringVectors:
    """Build steering vectors from preference examples.

    Args:
        loaded: The model.
        examples: About 50 examples.
        recipe: Its `attribution` and `vectors` sections say how.

    Raises:
        GrainsError: an unknown method, an example that cannot be encoded, or numbers that are not finite.
    """
    return run_method(build_context(loaded, examples, recipe)).vectors


__all__ = [
    "METHODS",
    "BuildContext",
    "BuiltVectors",
    "OwnSteering",
    "build",
    "build_context",
    "own_steering",
    "run_method",
    "steering_section",
    "vector_method",
]
