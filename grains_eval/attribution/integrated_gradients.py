"""Integrated Gradients through captum (Sundararajan et al. 2017, arXiv 1703.01365; method step 2)."""

from __future__ import annotations

from captum.attr import IntegratedGradients
from torch import Tensor

from grains_eval.attribution.registry import Problem, attribution_method


@attribution_method("integrated_gradients", is_complete=True)
def integrated_gradients(problem: Problem) -> Tensor:
    """Attribute with Gauss-Legendre nodes.

    `IG_i = (x_i - x'_i) . integral of dF(x' + a(x - x'))/dx_i over a in [0, 1]`, summed over the hidden dimension.

    Returns:
        `[T]` float32 scores.
    """
    # captum 0.9 ships no type information
    scores: Tensor = IntegratedGradients(problem.objective, multiply_by_inputs=True).attribute(  # pyright: ignore
        problem.inputs[None],
        baselines=problem.baseline[None],
        n_steps=problem.steps,
        method="gausslegendre",
        internal_batch_size=problem.rows,
    )
    return scores[0].detach().float().sum(dim=-1)
