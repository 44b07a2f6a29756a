"""States at the end of both responses of every example, from which CAA, ICV and ITI are built."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.models.activations import PromptStates, median_norms, prompt_states, response_states
from grains_eval.types import Site
from grains_eval.vectors.context import BuildContext


@dataclass(frozen=True)
class ResponseStates:
    """Float32 on the CPU; `W` is the site's width.

    Attributes:
        chosen: `[N, L, W]` states at the end of `y+`.
        rejected: `[N, L, W]` states at the end of `y-`.
        scales: `m_l`, the median token norm at the site over the prompts without their first token.
    """

    chosen: Tensor
    rejected: Tensor
    scales: dict[int, float]

    @property
    def deltas(self) -> Tensor:
        """`[N, L, W]`: `h_l(x, y+) - h_l(x, y-)`."""
        return self.chosen - self.rejected


def read_responses(context: BuildContext, site: Site = "block_output", last_tokens: int = 1) -> ResponseStates:
    """Run every example with either response and read the last response token.

    Args:
        context: The build.
        site: Where states are read.
        last_tokens: Average over up to this many last tokens of the response.

    Raises:
        GrainsError: a state is not finite, or the model has no such site.
    """
    model = context.loaded.model
    prompts, chosen, rejected = list[PromptStates](), list[Tensor](), list[Tensor]()
    for example in context.progress(context.examples, "responses"):
        rows = example.embeddings[None]
        prompts.append(prompt_states(model, example, rows, site))
        for found, response in ((chosen, example.chosen), (rejected, example.rejected)):
            state = response_states(model, example, rows, response, site, last_tokens)[0]
            if not torch.isfinite(state).all():
                raise GrainsError(f"example {example.example.id}: a state is not finite; load the model in float32")
            found.append(state)
    return ResponseStates(torch.stack(chosen), torch.stack(rejected), median_norms(prompts))
