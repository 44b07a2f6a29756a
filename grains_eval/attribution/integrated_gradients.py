"""Integrated Gradients through captum (Sundararajan et al. 2017, arXiv 1703.01365; method step 2)."""

from __future__ import annotations

from captum.attr import IntegratedGradients
from torch import Tensor

from grains_eval.attribution.objective import Objective


def integrated_gradients(
    objective: Objective, inputs: Tensor, baseline: Tensor, steps: int, internal_batch_size: int
) -> Tensor:
    """Attribute with Gauss-Legendre nodes.

    `IG_i = (x_i - x'_i) . integral of dF(x' + a(x - x'))/dx_i over a in [0, 1]`, summed over the hidden dimension.

    Args:
        objective: `[B, T, H]` to `[B]`.
        inputs: `[T, H]` float32, `x`.
        baseline: `[T, H]` float32, `x'`.
        steps: Quadrature nodes.
        internal_batch_size: Nodes per forward and backward pass.

    Returns:
        `[T]` float32 scores.
    """
    # captum 0.9 ships no type information
    scores: Tensor = IntegratedGradients(objective, multiply_by_inputs=True).attribute(  # pyright: ignore
        inputs[None],
        baselines=baseline[None],
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=internal_batch_size,
    )
    return scores[0].detach().float().sum(dim=-1)
