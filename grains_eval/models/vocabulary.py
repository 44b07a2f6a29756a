"""Log-probabilities straight from hidden states, without logits of the whole vocabulary.

The vocabulary is walked through in parts: the normaliser (Milakov & Gimelshein 2018, arXiv 1805.02867) and the expected
output embedding, which is all that the gradient needs, are kept up to date from part to part. A part stays in the
processor's cache, and memory does not grow with the vocabulary.
"""

from __future__ import annotations

from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

# logits that are there at a time: what a processor's cache holds, or what keeps an accelerator busy
_LOGITS_CPU, _LOGITS_ACCELERATOR = 2**21, 2**26

_linear: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def linear_head(model: PreTrainedModel) -> nn.Linear | None:
    """The output embeddings where logits are what they give and nothing more, tried once per model on one token.

    None where the model caps or scales its logits (Gemma 2, Cohere, Granite), where the head is quantised, adapted or
    offloaded, and where the head itself asks for a gradient.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.is_meta or (torch.is_grad_enabled() and head.weight.requires_grad):
        return None
    if model not in _linear:
        _linear[model] = _makes_all_logits(model, head)
    return head if _linear[model] else None


@torch.no_grad()
def _makes_all_logits(model: PreTrainedModel, head: nn.Linear) -> bool:
    given: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    embedded = model.get_input_embeddings()(torch.tensor([[head.out_features // 2]], device=_device(model)))
    try:
        logits = model(inputs_embeds=embedded, use_cache=False).logits
    finally:
        handle.remove()
    expected = functional.linear(given[0].to(head.weight.device), head.weight, head.bias)
    return torch.equal(logits.float().to(expected.device), expected.float())


def _device(model: PreTrainedModel) -> torch.device:
    return next(model.get_input_embeddings().parameters()).device


class _Read(torch.autograd.Function):
    """`hidden [N, H] -> log p [K]` at pairs of row and token."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Linear, rows: Tensor, tokens: Tensor) -> Tensor:  # pyright: ignore
        weight, bias = head.weight, cast(Tensor | None, head.bias)
        slope = ctx.needs_input_grad[0]
        budget = _LOGITS_CPU if hidden.device.type == "cpu" else _LOGITS_ACCELERATOR
        width = max(1, budget // len(hidden))
        top = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
        total = torch.zeros_like(top)
        expected = torch.zeros(hidden.shape if slope else (0,), device=hidden.device)
        picked = torch.zeros(len(rows), device=hidden.device)
        for start in range(0, len(weight), width):
            part = weight[start : start + width]
            logits = functional.linear(hidden, part, None if bias is None else bias[start : start + width]).float()
            # the last part that begins no later than a token is its own
            own = logits[rows, (tokens - start).clamp(0, len(part) - 1)]
            picked = torch.where(tokens >= start, own, picked)
            risen = torch.maximum(top, logits.amax(dim=-1, keepdim=True))
            shrunk = (top - risen).exp_()
            likely = logits.sub_(risen).exp_()
            total = total.mul_(shrunk).add_(likely.sum(dim=-1, keepdim=True))
            if slope:
                expected = expected.mul_(shrunk).add_(likely.to(part.dtype) @ part)
            top = risen
        ctx.save_for_backward(rows, tokens, weight, expected.div_(total) if slope else expected)
        return picked - (top + total.log())[rows, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        rows, tokens, weight, expected = ctx.saved_tensors
        gradient = torch.zeros_like(expected)
        gradient.index_add_(0, rows, upstream[:, None] * (weight[tokens].float() - expected[rows]))
        return gradient.to(weight.dtype), None, None, None


def logprobs_through_head(hidden: Tensor, head: nn.Linear, rows: Tensor, tokens: Tensor) -> Tensor:
    """`log softmax(head(hidden))[rows, tokens]`, differentiable once, in the hidden states.

    Args:
        hidden: `[N, H]` what the output embeddings are given.
        head: The output embeddings, see `linear_head`.
        rows: `[K]` row of each wanted token; rows may repeat.
        tokens: `[K]` token ids.

    Returns:
        `[K]` float32, nats.
    """
    device = head.weight.device
    found: Tensor = _Read.apply(hidden.to(device), head, rows.to(device), tokens.to(device))  # pyright: ignore
    return found
