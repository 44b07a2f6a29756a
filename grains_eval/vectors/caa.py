"""Contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681)."""

from __future__ import annotations

from grains_eval.recipes import Section, method_options
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.direction import direction
from grains_eval.vectors.own_steering import OwnSteering
from grains_eval.vectors.registry import vector_method
from grains_eval.vectors.response_states import read_responses

# the source adds the mean difference as it is at layer 13 of 32; how large that is relative to the residual stream
# differs by orders of magnitude between models, so it is tuned in relative units, over the same grid as GrAInS
STEERING = OwnSteering(
    source=SteeringConfig(strength=1.0, unit="absolute", operator="add"),
    tuned=SteeringConfig(strength=1.0, unit="relative", operator="add"),
    depth=13 / 32,
)


@vector_method("caa", steering=STEERING, is_baseline=True)
def caa(context: BuildContext) -> BuiltVectors:
    """CAA: mean over the pairs of `h_l(x, y+) - h_l(x, y-)` at the last response token (section 3)."""
    method_options(context.recipe, Section)  # there are none
    states = read_responses(context)
    deltas = states.deltas
    layers = range(deltas.shape[1])
    return BuiltVectors(
        SteeringVectors(
            {layer: deltas[:, layer].mean(dim=0) for layer in layers},
            states.scales,
            "block_output",
            {layer: direction(deltas[:, layer], "mean").statistics for layer in layers},
        )
    )
