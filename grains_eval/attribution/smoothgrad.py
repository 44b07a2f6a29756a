"""SmoothGrad through captum (Smilkov et al. 2017, arXiv 1706.03825)."""

from __future__ import annotations

import torch
from captum.attr import InputXGradient, NoiseTunnel
from torch import Tensor

from grains_eval.attribution.registry import Problem, attribution_method


@attribution_method("smoothgrad")
def smoothgrad(problem: Problem) -> Tensor:
    """Gradient x input averaged over noisy copies of the prompt; returns `[T]` float32.

    `attribution.samples` copies, whose noise has `attribution.noise` times the embeddings' standard deviation. The
    global generator is left alone.
    """
    inputs, config = problem.inputs, problem.config
    leaf = inputs[None].clone().requires_grad_(True)
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(problem.seed)
        scores: Tensor = NoiseTunnel(InputXGradient(problem.objective)).attribute(  # pyright: ignore
            leaf,
            nt_type="smoothgrad",
            nt_samples=config.samples,
            nt_samples_batch_size=min(config.samples, problem.rows),
            stdevs=config.noise * float(inputs.std()),
        )
    return scores[0].detach().float().sum(dim=-1)
