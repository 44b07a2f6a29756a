"""Layer outputs at chosen positions, read with hooks at the very site where steering is applied.

`hidden_states[-1]` of Hugging Face is after the final norm and does not see an edit at the last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grains_eval.models import forward
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.hooks import hook_site, logits_from, site_modules
from grains_eval.types import Site


@contextmanager
def captured(model: PreTrainedModel, site: Site = "block_output") -> Generator[dict[int, Tensor], None, None]:
    """Collect `{layer: [B, T, H]}` of the last forward pass inside the block."""
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda hidden: states.update({layer: hidden})

    with ExitStack() as stack:
        for layer, module in enumerate(site_modules(model, site)):
            stack.callback(hook_site(module, site, keep(layer)).remove)
        yield states


@dataclass(frozen=True)
class PromptStates:
    """States of `B` variants of one prompt, float32 on the CPU.

    Attributes:
        last: `[B, L, H]` at the last token.
        norms: `[L, T - 1]` token norms of the first variant, without its first token (an attention sink in real
            models).
    """

    last: Tensor
    norms: Tensor


@torch.no_grad()
def prompt_states(
    model: PreTrainedModel, encoded: EncodedExample, prompts: Tensor, site: Site = "block_output"
) -> PromptStates:
    """Run `[B, T, H]` prompt embeddings and read every layer's output, `h_l(.)`, at the last prompt token."""
    with captured(model, site) as states, logits_from(model, -1):
        forward.run_prompt(model, encoded, prompts.to(encoded.embeddings.dtype), use_cache=False)
    layers = range(len(states))
    last = torch.stack([states[layer][:, -1].float().cpu() for layer in layers], dim=1)
    norms = torch.stack([states[layer][0, 1:].float().norm(dim=-1).cpu() for layer in layers])
    return PromptStates(last, norms)


@torch.no_grad()
def response_states(
    model: PreTrainedModel,
    encoded: EncodedExample,
    prompts: Tensor,
    response: Tensor,
    site: Site = "block_output",
    last_tokens: int = 1,
) -> Tensor:
    """States `[B, L, H]` at the end of a response that follows `[B, T, H]` prompt embeddings.

    The state of the response's last token, or the mean over its last `last_tokens`.
    """
    with captured(model, site) as states:
        forward.run_response(model, encoded, prompts.to(encoded.embeddings.dtype), response)
    ends = [states[layer][:, -last_tokens:].float().mean(dim=1).cpu() for layer in range(len(states))]
    return torch.stack(ends, dim=1)


def median_norms(states: list[PromptStates]) -> dict[int, float]:
    """`m_l`: the median token norm per layer over prompts, without their first tokens."""
    if not states:
        return {}
    stacked = torch.cat([state.norms for state in states], dim=1)
    return {layer: float(row.median()) for layer, row in enumerate(stacked)}
