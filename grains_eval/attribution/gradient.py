"""Gradient x input (Simonyan et al. 2013) and SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825) through captum."""

from __future__ import annotations

import torch
from captum.attr import InputXGradient, NoiseTunnel
from torch import Tensor

from grains_eval.attribution.objective import Objective


def gradient_x_input(objective: Objective, inputs: Tensor) -> Tensor:
    """`x_i . dF/dx_i` at the prompt itself; inputs `[T, H]` float32, returns `[T]` float32."""
    leaf = inputs[None].clone().requires_grad_(True)
    return InputXGradient(objective).attribute(leaf)[0].detach().float().sum(dim=-1)  # pyright: ignore


def smoothgrad(
    objective: Objective, inputs: Tensor, samples: int, noise: float, internal_batch_size: int, seed: int
) -> Tensor:
    """Gradient x input averaged over noisy copies of the prompt.

    Args:
        objective: `[B, T, H]` to `[B]`.
        inputs: `[T, H]` float32.
        samples: Noisy copies.
        noise: Standard deviation of the noise over that of the embeddings.
        internal_batch_size: Copies per pass.
        seed: Seeds the noise without touching the global generator.

    Returns:
        `[T]` float32 scores.
    """
    leaf = inputs[None].clone().requires_grad_(True)
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        scores: Tensor = NoiseTunnel(InputXGradient(objective)).attribute(  # pyright: ignore
            leaf,
            nt_type="smoothgrad",
            nt_samples=samples,
            nt_samples_batch_size=min(samples, internal_batch_size),
            stdevs=noise * float(inputs.std()),
        )
    return scores[0].detach().float().sum(dim=-1)
