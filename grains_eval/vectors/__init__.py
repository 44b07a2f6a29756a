"""From preference examples to one direction per layer: GrAInS, other methods and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grains_eval.errors import GrainsError, pick
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe, SteeringSection
from grains_eval.types import PreferenceExample, SteeringVectors
from grains_eval.vectors import caa, controls, icv, iti
from grains_eval.vectors.context import BuildContext, Built, VectorMethod, build_context
from grains_eval.vectors.grains import grains
from grains_eval.vectors.own_steering import OwnSteering, section_for

VECTOR_METHODS: Mapping[str, VectorMethod] = {
    "grains": grains,
    "random": controls.random,
    "random_tokens": controls.random_tokens,
    "negated": controls.negated,
    "vocabulary": controls.vocabulary,
    "caa": caa.caa,
    "icv": icv.icv,
    "iti": iti.iti,
    "nl_iti": iti.nl_iti,
}

# methods that nothing is claimed for
CONTROL_METHODS = frozenset({"random", "random_tokens", "negated", "vocabulary"})

# methods that are applied as in their source; all others as the recipe's `steering` section says
METHOD_STEERING: Mapping[str, OwnSteering] = {
    "caa": caa.STEERING,
    "icv": icv.STEERING,
    "iti": iti.STEERING,
    "nl_iti": iti.STEERING,
}


def steering_section(recipe: Recipe) -> SteeringSection:
    """How the recipe's method is to be applied and what is open to tuning; see `settings.section_for`."""
    return section_for(recipe, METHOD_STEERING.get(recipe.vectors.method))


def run_method(context: BuildContext) -> Built:
    """Run the recipe's vector method.

    Raises:
        GrainsError: an unknown method, no examples, or directions that are not finite.
    """
    method = pick(VECTOR_METHODS, context.recipe.vectors.method, "vector method")
    if not context.examples:
        raise GrainsError("there are no examples to build from")
    built = method(context)
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
    "CONTROL_METHODS",
    "METHOD_STEERING",
    "VECTOR_METHODS",
    "BuildContext",
    "Built",
    "build",
    "build_context",
    "run_method",
    "steering_section",
]
