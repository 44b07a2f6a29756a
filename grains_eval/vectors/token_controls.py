"""Virtual tokens that should not work as well as found ones: what their claim is shown beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from grains_eval.errors import GrainsError
from grains_eval.types import FoundTokens, TokenOrigin, TokenPool
from grains_eval.vectors.context import BuildContext
from grains_eval.vectors.found_tokens import BuiltTokens, Harmless, found_tokens
from grains_eval.vectors.registry import method
from grains_eval.virtual_tokens import layout, reading
from grains_eval.virtual_tokens.merging import merged


@method("blind_tokens", makes="tokens", is_control=True)
def blind_tokens(context: BuildContext, harmless: Harmless | None = None) -> BuiltTokens:
    """Found tokens drawn blindly, one an example, and not tested: what showing any token does."""
    return found_tokens(context, harmless, "random", tested=False)


@method("random_pool_tokens", makes="tokens", is_control=True)
def random_pool_tokens(context: BuildContext, harmless: Harmless | None = None) -> BuiltTokens:
    """Found tokens whose candidates are drawn at random: what transfer selects without attribution."""
    return found_tokens(context, harmless, "random")


@method("every_token", makes="tokens", is_control=True)
def every_token(context: BuildContext, harmless: Harmless | None = None) -> BuiltTokens:
    """Found tokens with every prompt token a candidate: needs no attribution and costs a pass per token."""
    return found_tokens(context, harmless, "every")


def other_side(found: FoundTokens) -> FoundTokens:
    """The tokens that favour `y-`: should do the opposite.

    Raises:
        GrainsError: none was found.
    """
    if found.negative is None:
        raise GrainsError("no token of the other side transferred, so there is none to show")
    count = min(found.recommended.tokens, len(found.negative.origins))
    setting = replace(found.recommended, tokens=count)
    # what was seen of the found tokens is no evidence for these
    origin = {**found.provenance, "transfer": {}}
    return replace(found, positive=found.negative, negative=found.positive, recommended=setting, provenance=origin)


def random_like(found: FoundTokens, seed: int, keys: bool = True) -> FoundTokens:
    """Random values, and random keys unless `keys` is false, of the merged token's norms, head by head."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: Tensor) -> Tensor:
        made = torch.randn(like.shape, generator=generator)
        return made * (like.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))

    return _with_states(found, drawn if keys else None, drawn)


@torch.no_grad()
def vocabulary(context: BuildContext, found: FoundTokens) -> FoundTokens:
    """Key and value of a soft token made of the answers' words alone, with the merged token's norms.

    Its embedding is the mean unembedding of the preferred answers minus that of the dispreferred ones, as long as the
    median input embedding, and stands after the first token of a prompt.

    Raises:
        GrainsError: the two sets of answers are the same words.
    """
    model = context.loaded.model
    head = cast(nn.Linear, model.get_output_embeddings()).weight.detach().float()
    chosen, rejected = (
        head[torch.cat([getattr(example, side) for example in context.examples])].mean(dim=0)
        for side in ("chosen", "rejected")
    )
    inputs = cast(nn.Embedding, model.get_input_embeddings())
    rows, width = inputs.weight.shape
    direction = chosen - rejected
    if not float(direction.norm()) > 1e-6 * float(chosen.norm()):
        raise GrainsError(
            "preferred and dispreferred answers are the same words, so no token is made of their difference"
        )
    # as the module gives them: Gemma scales its rows on the way
    some = torch.arange(0, rows, max(1, rows // 4096), device=inputs.weight.device)
    soft = direction * (inputs(some).float().norm(dim=-1).median().to(direction) / direction.norm())
    first = context.examples[0].embeddings[:1, :width]
    with reading(model, layout(model)) as read:
        model(inputs_embeds=torch.cat([first, soft[None].to(first)])[None], use_cache=False)

    def like(side: int) -> Callable[[Tensor, int], Tensor]:
        def scaled(own: Tensor, layer: int) -> Tensor:
            made = read[layer][side][0, :, 1].cpu().expand(len(own), -1, -1)
            return made * (own.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True).clamp_min(1e-9))

        return scaled

    tokens = merged(found.positive, found.recommended.tokens)
    keys, values = (
        {layer: like(side)(own, layer) for layer, own in part.items()}
        for side, part in enumerate((tokens.keys, tokens.values))
    )
    return _remade(found, keys, values)


def _with_states(
    found: FoundTokens, keys: Callable[[Tensor], Tensor] | None, values: Callable[[Tensor], Tensor]
) -> FoundTokens:
    tokens = merged(found.positive, found.recommended.tokens)
    own = tokens.keys if keys is None else {layer: keys(each) for layer, each in tokens.keys.items()}
    return _remade(found, own, {layer: values(each) for layer, each in tokens.values.items()})


def _remade(found: FoundTokens, keys: dict[int, Tensor], values: dict[int, Tensor]) -> FoundTokens:
    """The merged tokens with other states."""
    tokens = merged(found.positive, found.recommended.tokens)
    origins = tuple(TokenOrigin("", -1, 0, distance, "") for distance in tokens.distances)
    pool = TokenPool(keys, values, tokens.embeddings, origins)
    return replace(found, positive=pool, negative=None, provenance={**found.provenance, "transfer": {}})
