"""Run a model from merged prompt embeddings: response log-probabilities and the states behind them.

The model's own forward is used throughout, so that masks, position schemes and logit post-processing are its own. Where
logits are nothing but the output embeddings applied to hidden states, they are never materialised: log-probabilities
are computed from the hidden states (`vocabulary`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.models.encoded import EncodedExample
from grains_eval.models.hooks import (
    DEEPSTACK,
    decoder_inputs,
    decoder_receives,
    forget_positions,
    logits_at,
    logits_from,
)
from grains_eval.models.layers import text_config
from grains_eval.models.scoring import picked_logprobs, response_sums
from grains_eval.models.vocabulary import logprobs_through_head, plain_head


@dataclass(frozen=True)
class Prefix:
    """A prompt of `B` rows that has been run; with gradient where its embeddings have one.

    Attributes:
        cache: Keys and values.
        last: `[B, H]` what the output embeddings are given at the last prompt token.
        head: The output embeddings where logits are theirs alone, see `plain_head`.
    """

    cache: Any
    last: Tensor
    head: nn.Linear | None


def prefill(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor) -> Prefix:
    """Run prompt embeddings `[B, T, H]` (wider with deepstack features, see `decoder_inputs`)."""
    # one row of logits shows how the model computes them; the other rows are read together with the response's
    with logits_at(model, lambda hidden: hidden[:1, -1:]) as given:
        output = run_prompt(model, encoded, prompt)
    last = given[0][:, -1]
    return Prefix(output.past_key_values, last, plain_head(model, last[None, :1], output.logits))


def run_prompt(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, *, use_cache: bool = True) -> Any:
    """The model's output for prompt embeddings `[B, T, H]` (wider with deepstack features)."""
    forget_positions(model)
    embeddings, keywords = decoder_inputs(encoded, prompt)
    with decoder_receives(model, keywords, len(prompt)):
        return model(inputs_embeds=embeddings.clone(), use_cache=use_cache)  # CTRL scales what it is given in place


def run_response(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, response: Tensor) -> None:
    """Run prompt embeddings `[B, T, H]` and then a response `[n]`, whose tokens are the last ones of the last pass."""
    if encoded.share_prefix:
        extend(model, encoded, prefill(model, encoded, prompt).cache, response[None])
    else:
        _run_whole(model, encoded, prompt, response)


def _run_whole(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, tokens: Tensor) -> Tensor:
    """`[B, 1 + n, V]` logits of the last prompt token and of `n` tokens after it, in a single pass without cache."""
    forget_positions(model)
    embeddings, keywords = decoder_inputs(encoded, prompt)
    if encoded.has_images:
        injected = {name: value for name, value in keywords.items() if name == DEEPSTACK}
        keywords = {**encoded.response_keywords.get(len(tokens), {}), **injected}
    tail = model.get_input_embeddings()(tokens)[None].expand(len(prompt), -1, -1)
    joined = torch.cat([embeddings, tail.to(prompt.dtype)], dim=1)
    with decoder_receives(model, keywords, len(prompt)), logits_from(model, prompt.shape[1] - 1):
        return model(inputs_embeds=joined, use_cache=False).logits


def extend(model: PreTrainedModel, encoded: EncodedExample, cache: Any, tokens: Tensor) -> Tensor:
    """Run response tokens after a cached prompt of `B` rows, without logits; the cache itself is left as it was.

    Args:
        model: The model.
        encoded: The example.
        cache: Of the prompt, see `prefill`.
        tokens: `[R, n]`: each row follows all rows of the prompt.

    Returns:
        What the output embeddings would have been given, `[R * B, n, H]`.
    """
    with logits_from(model, tokens.shape[1]) as given:
        _run_responses(model, encoded, cache, tokens)
    return given[0]


def _run_responses(model: PreTrainedModel, encoded: EncodedExample, cache: Any, tokens: Tensor) -> Tensor:
    responses, length = tokens.shape
    batch = cache.layers[-1].keys.shape[0]
    rows = responses * batch
    embeddings = model.get_input_embeddings()(tokens).repeat_interleave(batch, dim=0)
    keywords: dict[str, Any] = {}
    if encoded.next_position is not None:
        captured = encoded.decoder_keywords.get("position_ids")
        positions = torch.arange(length, device=tokens.device) + encoded.next_position
        axes = (*captured.shape[:-2], rows) if isinstance(captured, Tensor) else (rows,)
        keywords["position_ids"] = positions.expand(*axes, -1)
    with decoder_receives(model, keywords, rows):
        return model(inputs_embeds=embeddings, past_key_values=fork(cache, responses), use_cache=True).logits


def fork(cache: Any, copies: int = 1) -> Any:
    """A cache of `copies` times the rows that grows without touching the original.

    Layers rebind their tensors when they grow, so copying the layers is enough.
    """
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    if copies > 1:
        for layer in copied.layers:
            layer.keys, layer.values = (each.repeat(copies, 1, 1, 1) for each in (layer.keys, layer.values))
    return copied


def response_logprobs(
    model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, *, share_prefix: bool = True
) -> Tensor:
    """Summed log-probabilities of `y+` and `y-` given prompt embeddings (method step 1); differentiable.

    Args:
        model: The model.
        encoded: The example whose responses are scored.
        prompt: `[B, T, H]` prompt embeddings, in the model's dtype.
        share_prefix: Compute the prompt once for both responses, if `encoded` allows it; otherwise once for each.

    Returns:
        `[B, 2]` float32, nats: column 0 is `log p(y+ | x)`, column 1 `log p(y- | x)`.
    """
    responses = (encoded.chosen, encoded.rejected)
    if not share_prefix or not encoded.share_prefix:
        return torch.stack([_whole(model, encoded, prompt, response) for response in responses], dim=-1)
    return _branching(model, encoded, prompt, responses).T


def _branching(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, responses: Sequence[Tensor]) -> Tensor:
    """`[R, B]` log-probabilities of `R` responses that branch off one pass over the prompt."""
    batch = len(prompt)
    # the last prompt token serves the first token of every response
    reads = [(torch.arange(batch)[:, None], response[:1]) for response in responses]
    if max(map(len, responses)) == 1:
        with logits_from(model, -1):
            logits = run_prompt(model, encoded, prompt).logits[:, -1]
        return response_sums(partial(picked_logprobs, logits), reads)
    prefix = prefill(model, encoded, prompt)
    last, owners = prefix.last, list(range(len(responses)))
    scores = torch.zeros(len(responses), batch, device=last.device)
    for group in together(responses):
        width = max(len(responses[i]) for i in group) - 1
        # padded on the right, where no token that counts sees it
        fed = [functional.pad(each[:-1], (0, width - len(each) + 1)) for each in (responses[i] for i in group)]
        places = len(last) + torch.arange(len(group) * batch * width).view(len(group), batch, width)
        reads += [(places[n, :, : len(responses[i]) - 1], responses[i][1:]) for n, i in enumerate(group)]
        found = response_sums(_reader(model, encoded, prefix, last, torch.stack(fed)), reads)
        scores = scores.index_add(0, torch.tensor(owners + group, device=scores.device), found.to(scores.device))
        last, reads, owners = last[:0], [], []
    return scores


def _reader(
    model: PreTrainedModel, encoded: EncodedExample, prefix: Prefix, before: Tensor, tokens: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Picks log-probabilities at rows of `before [N, H]`, then of response tokens `[R, n]` after the prefix."""

    def joined(hidden: Tensor) -> Tensor:
        return torch.cat([before, hidden.flatten(0, 1)])[None]

    if prefix.head is not None:
        return partial(logprobs_through_head, joined(extend(model, encoded, prefix.cache, tokens))[0], prefix.head)
    with logits_at(model, joined):
        return partial(picked_logprobs, _run_responses(model, encoded, prefix.cache, tokens)[0])


def together(responses: Sequence[Sized]) -> list[list[int]]:
    """Indices of responses that run in one pass: all of more than one token, unless padding is over a fifth of it."""
    lengths = {index: len(response) - 1 for index, response in enumerate(responses) if len(response) > 1}
    if sum(lengths.values()) < 0.8 * len(lengths) * max(lengths.values()):
        return [[index] for index in lengths]
    return [list(lengths)]


def shares_prefix(model: PreTrainedModel) -> bool:
    """Whether a prompt's cache can be continued twice: it holds plain keys and values, which grow by rebinding.

    State-space and linear-attention layers update their states in place, and encoders hold a cache of another kind;
    such families take the plain path. `embedding_check` tries the remaining ones on the examples.
    """
    config = text_config(model)
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    if model.config.is_encoder_decoder or "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    return {type(layer) for layer in DynamicCache(config=config).layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def _whole(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, response: Tensor) -> Tensor:
    """One response with its prompt, without cache unless a prompt with images may be continued."""
    if encoded.decoder_keywords and encoded.share_prefix:
        return _branching(model, encoded, prompt, [response])[0]
    # the harness runs a text without its last token, and one with images whole
    logits = _run_whole(model, encoded, prompt, response if encoded.has_images else response[:-1])
    places = torch.arange(logits.shape[:2].numel()).view(len(prompt), -1)[:, : len(response)]
    return response_sums(partial(picked_logprobs, logits.flatten(0, 1)), [(places, response)])[0]
