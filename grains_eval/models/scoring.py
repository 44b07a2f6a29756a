"""Log-probabilities of given tokens, with one tensor of the logits' size forward and none backward.

`log_softmax` and `gather` would allocate four tensors of that size in the backward pass alone, which costs as
much as the vocabulary projection of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Picked(torch.autograd.Function):
    """`logits [N, V] -> log p [K]` at pairs of row and token."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:  # pyright: ignore
        full = logits.float()
        probabilities = full.softmax(dim=-1)
        # the likeliest token's probability is at least 1/V, so its logarithm is exact to rounding
        normaliser = full.amax(dim=-1) - probabilities.amax(dim=-1).log()
        ctx.save_for_backward(rows, tokens)
        ctx.probabilities, ctx.dtype = probabilities, logits.dtype
        return full[rows, tokens] - normaliser[rows]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        if ctx.probabilities is None:
            raise RuntimeError("picked_logprobs keeps nothing for a second backward pass")
        rows, tokens = ctx.saved_tensors
        # nothing reads this tensor again, so the gradient takes its place
        gradient, ctx.probabilities = ctx.probabilities, None
        per_row = upstream.new_zeros(len(gradient)).index_add_(0, rows, upstream)
        gradient.mul_(-per_row[:, None]).index_put_((rows, tokens), upstream, accumulate=True)
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


def response_sums(pick: Callable[[Tensor, Tensor], Tensor], reads: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum log-probabilities of token sequences.

    Args:
        pick: `rows [K], tokens [K] -> log p [K]`, for all sequences at once.
        reads: `R` pairs of rows `[B, n]` and tokens `[n]`: `B` sequences whose tokens are read at these rows.

    Returns:
        `[R, B]` float32, nats.
    """
    rows = torch.cat([places.flatten() for places, _ in reads])
    tokens = torch.cat([each.repeat(len(places)) for places, each in reads])
    parts = pick(rows, tokens).split([places.numel() for places, _ in reads])
    return torch.stack([part.view_as(places).sum(dim=-1) for part, (places, _) in zip(parts, reads, strict=True)])
