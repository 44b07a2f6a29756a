"""Gradient x input through captum (Simonyan et al. 2013, arXiv 1312.6034)."""

from __future__ import annotations

from captum.attr import InputXGradient
from torch import Tensor

from grains_eval.attribution.registry import Problem, attribution_method


@attribution_method("gradient")
def gradient_x_input(problem: Problem) -> Tensor:
    """`x_i . dF/dx_i` at the prompt itself, summed over the hidden dimension; returns `[T]` float32."""
    leaf = problem.inputs[None].clone().requires_grad_(True)
    scores: Tensor = InputXGradient(problem.objective).attribute(leaf)  # pyright: ignore
    return scores[0].detach().float().sum(dim=-1)
