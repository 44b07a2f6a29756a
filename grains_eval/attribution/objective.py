"""What is attributed: the preference of a prompt, as a function of its embeddings (method step 1)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grains_eval.models.encoded import EncodedExample
from grains_eval.models.forward import response_logprobs
from grains_eval.recipes import AttributionConfig

Objective = Callable[[Tensor], Tensor]


def objective(model: PreTrainedModel, encoded: EncodedExample, config: AttributionConfig) -> Objective:
    """`F(x) = log p(y+ | x) - log p(y- | x)`, or `log p(y+ | x)` alone (`likelihood`).

    Returns:
        A differentiable function from prompt embeddings `[B, T, H]` float32 to `[B]` float32, nats; per token of each
        response with `length_normalised`.
    """
    lengths = torch.tensor([len(encoded.chosen), len(encoded.rejected)]) if config.length_normalised else torch.ones(2)
    weights = torch.tensor([1.0, -1.0 if config.objective == "preference" else 0.0]) / lengths

    def evaluate(embeddings: Tensor) -> Tensor:
        prompt = embeddings.to(encoded.embeddings.dtype)
        logprobs = response_logprobs(model, encoded, prompt, share_prefix=config.share_prefix)
        return logprobs @ weights.to(logprobs.device)

    return evaluate


@contextmanager
def frozen(model: PreTrainedModel) -> Generator[None, None, None]:
    """Switch parameter gradients off for the block, so that only embeddings carry one, and restore them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
