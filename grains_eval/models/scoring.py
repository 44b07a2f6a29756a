"""Log-probabilities of given tokens, with two passes over the logits forward and two backward.

`log_softmax` and `gather` would make and fill four tensors of logits size in the backward pass alone, which costs as
much as the vocabulary projection of a small model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Picked(torch.autograd.Function):
    """`logits [N, V] -> log p [K]` at pairs of row and token."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:  # pyright: ignore
        logprobs = logits.float().log_softmax(dim=-1)
        ctx.save_for_backward(logprobs, rows, tokens)
        ctx.dtype = logits.dtype
        return logprobs[rows, tokens]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        logprobs, rows, tokens = ctx.saved_tensors
        per_row = upstream.new_zeros(len(logprobs)).index_add_(0, rows, upstream)
        gradient = logprobs.exp().mul_(-per_row[:, None])
        gradient.index_put_((rows, tokens), upstream, accumulate=True)
        return gradient.to(ctx.dtype), None, None


def picked_logprobs(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """`log softmax(logits)[rows, tokens]`, differentiable once.

    Args:
        logits: `[N, V]`.
        rows: `[K]` row of each wanted token; rows may repeat.
        tokens: `[K]` token ids.

    Returns:
        `[K]` float32, nats.
    """
    picked: Tensor = _Picked.apply(logits, rows.to(logits.device), tokens.to(logits.device))  # pyright: ignore
    return picked


def response_sums(logits: Tensor, response: Tensor) -> Tensor:
    """`[B, n, V]` logits and `[n]` targets to `[B]` summed log-probabilities, float32, nats."""
    batch, length, vocabulary = logits.shape
    rows = torch.arange(batch * length, device=logits.device)
    return picked_logprobs(logits.reshape(-1, vocabulary), rows, response.repeat(batch)).view(batch, length).sum(dim=-1)
