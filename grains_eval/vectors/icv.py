"""In-context vectors (Liu et al. 2023, arXiv 2311.06668)."""

from __future__ import annotations

from torch import Tensor

from grains_eval.recipes import Section, method_options
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors.context import BuildContext, Built
from grains_eval.vectors.direction import DirectionKind, direction
from grains_eval.vectors.own_steering import OwnSteering
from grains_eval.vectors.registry import vector_method
from grains_eval.vectors.response_states import read_responses

# every layer at once, each token's norm kept; the source moves by 0.1 of the norm, models tried here need 0.2
STEERING = OwnSteering(
    source=SteeringConfig(strength=0.1, unit="relative", operator="add_renormalised"),
    tuned=SteeringConfig(strength=0.2, unit="relative", operator="add_renormalised"),
)


class Options(Section):
    """`vectors.options` of `icv`."""

    direction: DirectionKind = "uncentred_pca"


@vector_method("icv", steering=STEERING, is_baseline=True)
def icv(context: BuildContext) -> Built:
    """ICV: each layer's part of the first principal direction of the differences of all layers (section 3.2).

    The differences `h(x, y+) - h(x, y-)` at the last response token, all layers of an example in one vector,
    give one direction of length 1; it maximises the mean squared projection (uncentred), or the variance
    (`pca`).
    """
    options = method_options(context.recipe, Options)
    states = read_responses(context)
    deltas = states.deltas
    examples, depth, width = deltas.shape
    found = direction(deltas.reshape(examples, depth * width), options.direction)
    parts: Tensor = found.vector.reshape(depth, width)
    # a direction of all layers has statistics of all layers; a layer's own say how its part agrees with its
    # deltas
    statistics = {
        layer: {
            **direction(deltas[:, layer], "mean").statistics,
            "explained_variance": found.statistics["explained_variance"],
            "share": float(parts[layer].square().sum()),
        }
        for layer in range(depth)
    }
    return Built(
        SteeringVectors(
            {layer: parts[layer].clone() for layer in range(depth)}, states.scales, "block_output", statistics
        )
    )
