"""Vectors that should not work as well; every claim is shown beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from grains_eval.models.activations import PromptStates, median_norms, prompt_states
from grains_eval.recipes import Section, method_options
from grains_eval.types import SteeringVectors
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.grains import grains
from grains_eval.vectors.registry import vector_method


def _prompt_states(context: BuildContext, description: str) -> list[PromptStates]:
    return [
        prompt_states(context.loaded.model, example, example.embeddings[None])
        for example in context.progress(context.examples, description)
    ]


class RandomOptions(Section):
    """Options of `random`."""

    draw: Annotated[int, Field(ge=0)] = 0


@vector_method("random", is_control=True)
def random(context: BuildContext) -> BuiltVectors:
    """Isotropic random directions; `vectors.options.draw` numbers the draw."""
    draw = method_options(context.recipe, RandomOptions).draw
    states = _prompt_states(context, "token norms")
    scales = median_norms(states)
    template = SteeringVectors({layer: states[0].last[0, layer] for layer in scales}, scales)
    return BuiltVectors(random_like(template, seed=context.recipe.seed + draw))


def random_like(vectors: SteeringVectors, seed: int) -> SteeringVectors:
    """Random directions of each layer's norm."""
    generator = torch.Generator().manual_seed(seed)
    directions: dict[int, Tensor] = {}
    for layer in vectors.layers:
        drawn = torch.randn(vectors.directions[layer].shape, generator=generator)
        directions[layer] = drawn * (vectors.directions[layer].norm() / drawn.norm())
    return replace(vectors, directions=directions, statistics={})


@vector_method("negated", is_attributing=True, is_control=True)
def negated(context: BuildContext) -> BuiltVectors:
    """GrAInS with the opposite sign: should do the opposite."""
    built = grains(context)
    return replace(built, vectors=negate(built.vectors))


def negate(vectors: SteeringVectors) -> SteeringVectors:
    """The same vectors with the opposite sign."""
    return replace(vectors, directions={layer: -v for layer, v in vectors.directions.items()})


@vector_method("random_tokens", is_control=True)
def random_tokens(context: BuildContext) -> BuiltVectors:
    """GrAInS with tokens chosen blindly: what masking alone does."""
    return grains(context.with_attribution(method="random", selection="top_k"))


@vector_method("vocabulary", is_control=True)
def vocabulary(context: BuildContext) -> BuiltVectors:
    """Mean unembedding of the preferred responses minus that of the dispreferred ones, at every layer.

    Made with no attribution at all: where preferred and dispreferred answers use different words it explains a gain.
    """
    method_options(context.recipe, Section)  # it has none
    head = cast(nn.Linear, context.loaded.model.get_output_embeddings())
    unembedding = head.weight.detach().float()
    chosen = torch.cat([example.chosen for example in context.examples])
    rejected = torch.cat([example.rejected for example in context.examples])
    direction = (unembedding[chosen].mean(dim=0) - unembedding[rejected].mean(dim=0)).cpu()
    scales = median_norms(_prompt_states(context, "token norms"))
    return BuiltVectors(SteeringVectors({layer: direction.clone() for layer in scales}, scales))


def project_out(vectors: SteeringVectors, other: SteeringVectors) -> SteeringVectors:
    """What is left of each direction orthogonal to another vector's direction at the same layer."""
    directions: dict[int, Tensor] = {}
    for layer in vectors.layers:
        unit = torch.nn.functional.normalize(other.directions[layer].float(), dim=0)
        directions[layer] = vectors.directions[layer] - (vectors.directions[layer] @ unit) * unit
    return replace(vectors, directions=directions)
