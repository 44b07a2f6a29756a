"""Log-probabilities straight from hidden states, without logits of the whole vocabulary at once.

The vocabulary is walked through in parts. Two things are kept up to date from part to part: the normaliser (Milakov and
Gimelshein 2018, arXiv 1805.02867) and the expected output embedding; a token's own embedding less that is its gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError

# elements of one part's logits, of which two are there at a time; a part is one token of the vocabulary at least
PART_CPU, PART_ACCELERATOR = 2**21, 2**25


def plain_head(model: PreTrainedModel, hidden: Tensor, logits: Tensor) -> nn.Linear | None:
    """The output embeddings if they make `logits` of `hidden` and nothing else does anything to them.

    Args:
        model: The model.
        hidden: `[..., H]` what the output embeddings were given.
        logits: `[..., V]` what the model returned for it.

    Returns:
        None where the model caps or scales its logits (Gemma 2, Cohere, Granite) or a hook changes them, where the
        head is quantised, adapted, offloaded or sharded, and where it asks for a gradient itself.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or type(head.weight.data) is not Tensor or head.weight.is_meta:
        return None
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in head.parameters()):
        return None
    if not bool(logits.any()):  # zeros stay zeros, capped or scaled, so they show nothing
        return None
    with torch.no_grad():
        expected = functional.linear(hidden.to(head.weight.device), head.weight, head.bias)
        return head if torch.equal(logits.float().to(expected.device), expected.float()) else None


class _Read(torch.autograd.Function):
    """`hidden [N, H] -> log p [K]` at pairs of row and token."""

    @staticmethod
    def forward(  # pyright: ignore
        ctx: Any, hidden: Tensor, head: nn.Linear, rows: Tensor, tokens: Tensor, slope: bool
    ) -> Tensor:
        weight, bias = head.weight, cast(Tensor | None, head.bias)
        elements = PART_CPU if hidden.device.type == "cpu" else PART_ACCELERATOR
        width = max(1, elements // len(hidden))
        lowest = torch.finfo(torch.float32).min
        top = torch.full((len(hidden), 1), lowest, device=hidden.device)
        total = torch.zeros_like(top)
        expected = torch.zeros(hidden.shape if slope else (0,), device=hidden.device)
        picked = torch.zeros(len(rows), device=hidden.device)
        for start in range(0, len(weight), width):
            part = weight[start : start + width]
            logits = functional.linear(hidden, part, None if bias is None else bias[start : start + width])
            logits = logits.float().clamp_min_(lowest)  # a part whose tokens are all impossible has no softmax
            # the last part that begins no later than a token is its own
            own = logits[rows, (tokens - start).clamp(0, len(part) - 1)]
            picked = torch.where(tokens >= start, own, picked)
            highest, likeliest = logits.max(dim=-1, keepdim=True)
            risen = torch.maximum(top, highest)
            probabilities = logits.softmax(dim=-1)
            del logits
            share = probabilities.gather(1, likeliest)
            mass, shrunk = (highest - risen).exp_() / share, (top - risen).exp_()
            total, top = total.mul_(shrunk).add_(mass), risen
            if slope:
                # the likeliest token apart: rounded to half precision with it, the others would be lost
                others = probabilities.scatter_(1, likeliest, 0.0).to(part.dtype) @ part
                mean = torch.addcmul(others.float(), share, part[likeliest[:, 0]].float())
                expected = expected.mul_(shrunk).addcmul_(mass, mean)
            del probabilities
        ctx.save_for_backward(rows, tokens, weight, expected.div_(total) if slope else expected)
        return picked - (top + total.log())[rows, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore
        rows, tokens, weight, expected = ctx.saved_tensors
        gradient = torch.zeros_like(expected)
        gradient.index_add_(0, rows, upstream[:, None] * (weight[tokens].float() - expected[rows]))
        return gradient.to(weight.dtype), None, None, None, None


def logprobs_through_head(hidden: Tensor, head: nn.Linear, rows: Tensor, tokens: Tensor) -> Tensor:
    """`log softmax(head(hidden))[rows, tokens]`, differentiable once, in the hidden states.

    Args:
        hidden: `[N, H]` what the output embeddings are given; rows that are not read cost nothing.
        head: The output embeddings, see `plain_head`.
        rows: `[K]` row of each wanted token; rows may repeat.
        tokens: `[K]` token ids.

    Returns:
        `[K]` float32, nats.

    Raises:
        GrainsError: a token that the head has no row for.
    """
    device = head.weight.device
    if len(tokens) and int(tokens.max()) >= len(head.weight):
        raise GrainsError(
            f"token {int(tokens.max())} is outside the model's vocabulary of {len(head.weight)}; "
            "the tokenizer belongs to another model"
        )
    read, rows = rows.unique(return_inverse=True)
    given = hidden[read.to(hidden.device)].to(device)
    slope = torch.is_grad_enabled() and hidden.requires_grad
    found: Tensor = _Read.apply(given, head, rows.to(device), tokens.to(device), slope)  # pyright: ignore
    return found
