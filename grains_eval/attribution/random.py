"""Scores drawn blindly: the control that selects tokens by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from grains_eval.attribution.registry import Problem, attribution_method


@attribution_method("random")
def random_scores(problem: Problem) -> Tensor:
    """Standard normal scores, `[T]` float32; the same for an example on every run."""
    generator = torch.Generator().manual_seed(problem.seed)
    return torch.randn(len(problem.inputs), generator=generator).to(problem.inputs.device)
