"""Run a model from merged prompt embeddings: response log-probabilities and the states behind them.

The model's own forward is used throughout, so that masks, position schemes and logit post-processing are its own.
Two hooks bend it: one hands the decoder the keywords it received when the whole prompt was encoded (image masks,
multimodal positions), one drops the positions whose logits nobody reads before the vocabulary projection.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.models.blocks import find_decoder, text_config
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.scoring import picked_logprobs, response_sums


@contextmanager
def logits_from(model: PreTrainedModel, start: int) -> Generator[None, None, None]:
    """Compute logits only from position `start` on (negative counts from the end)."""

    def slice_hidden(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        # strided rows would be multiplied one batch at a time
        return (arguments[0][:, start:].contiguous(), *arguments[1:])

    head: nn.Module = model.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
    handle = head.register_forward_pre_hook(slice_hidden)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def decoder_receives(model: PreTrainedModel, keywords: Mapping[str, Any], rows: int) -> Generator[None, None, None]:
    """Replace the decoder's keywords by captured ones, repeated for `rows` rows."""
    if not keywords:
        yield
        return
    expanded = {name: repeat_rows(value, rows, name) for name, value in keywords.items()}

    def override(module: nn.Module, arguments: tuple[Any, ...], received: dict[str, Any]) -> Any:
        del module
        return arguments, {**received, **expanded}

    handle = find_decoder(model).register_forward_pre_hook(override, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


# the keyword of image features that are added after the first blocks: a list of `[visual tokens, H]`
DEEPSTACK = "deepstack_visual_embeds"


def decoder_inputs(encoded: EncodedExample, prompt: Tensor) -> tuple[Tensor, Mapping[str, Any]]:
    """Split prompts `[B, T, H]`, or `[B, T, (1 + D) H]` with deepstack features.

    Returns:
        Embeddings `[B, T, H]`, and the captured keywords with the deepstack features of these very prompts.
    """
    keywords = encoded.decoder_keywords
    levels = len(keywords.get(DEEPSTACK, ()))
    if not levels:
        return prompt, keywords
    embeddings, *injected = prompt.chunk(1 + levels, dim=-1)
    visual = keywords["visual_pos_masks"][0].to(prompt.device)
    # rows follow one another, as the decoder's mask of visual positions reads them
    return embeddings, {**keywords, DEEPSTACK: [level[:, visual].flatten(0, 1) for level in injected]}


def forget_positions(model: PreTrainedModel) -> None:
    """Drop the position offset that Qwen-VL models keep from the last prompt, whatever its images and size."""
    inner = getattr(model, "model", None)
    if getattr(inner, "rope_deltas", None) is not None:
        inner.rope_deltas = None  # pyright: ignore


def repeat_rows(value: Any, rows: int, name: str = "") -> Any:
    """Repeat a captured batch-1 keyword for `rows` identical rows (multimodal position ids are `[axes, 1, T]`)."""
    if name == DEEPSTACK:  # holds all rows already
        return value
    if isinstance(value, Tensor):
        batch_axis = 1 if name == "position_ids" and value.ndim == 3 else 0
        if value.ndim == 0 or value.shape[batch_axis] != 1:
            return value
        return value.expand(*(rows if axis == batch_axis else -1 for axis in range(value.ndim)))
    if isinstance(value, Mapping):
        return {key: repeat_rows(item, rows) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(repeat_rows(item, rows, name) for item in value)
    return value


def prefill(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor) -> tuple[Tensor, Any]:
    """Run prompt embeddings `[B, T, H]` (wider with deepstack features, see `decoder_inputs`).

    Returns:
        Logits at the last prompt token `[B, V]`, and the cache of keys and values (with gradient if prompt has one).
    """
    forget_positions(model)
    embeddings, keywords = decoder_inputs(encoded, prompt)
    with logits_from(model, -1), decoder_receives(model, keywords, len(prompt)):
        output = model(inputs_embeds=embeddings, use_cache=True)
    return output.logits[:, -1], output.past_key_values


def extend(model: PreTrainedModel, encoded: EncodedExample, cache: Any, tokens: Tensor) -> Tensor:
    """Run `[n]` response tokens after a cached prompt of `B` rows; the cache itself is left as it was.

    Returns:
        Logits `[B, n, V]`.
    """
    rows = cache.layers[-1].keys.shape[0]
    embeddings = model.get_input_embeddings()(tokens)[None].expand(rows, -1, -1)
    keywords: dict[str, Any] = {}
    if encoded.next_position is not None:
        captured = encoded.decoder_keywords.get("position_ids")
        positions = torch.arange(len(tokens), device=tokens.device) + encoded.next_position
        axes = (*captured.shape[:-2], rows) if isinstance(captured, Tensor) else (rows,)
        keywords["position_ids"] = positions.expand(*axes, -1)
    with decoder_receives(model, keywords, rows):
        return model(inputs_embeds=embeddings, past_key_values=fork(cache), use_cache=True).logits


def fork(cache: Any) -> Any:
    """A cache that grows without touching the original (layers rebind their tensors when they grow)."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def response_logprobs(
    model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, *, share_prefix: bool = True
) -> Tensor:
    """Summed log-probabilities of `y+` and `y-` given prompt embeddings (method step 1); differentiable.

    Args:
        model: The model.
        encoded: The example whose responses are scored.
        prompt: `[B, T, H]` prompt embeddings, in the model's dtype.
        share_prefix: Compute the prompt once for both responses; otherwise once for each.

    Returns:
        `[B, 2]` float32, nats: column 0 is `log p(y+ | x)`, column 1 `log p(y- | x)`.
    """
    responses = (encoded.chosen, encoded.rejected)
    if not share_prefix or not shares_prefix(model):
        return torch.stack([_whole(model, encoded, prompt, response) for response in responses], dim=-1)
    first, cache = prefill(model, encoded, prompt)
    # one softmax over the last prompt token's logits serves the first token of both responses
    rows = torch.arange(len(prompt)).repeat(2)
    tokens = torch.stack([response[0] for response in responses]).repeat_interleave(len(prompt))
    scores = list(picked_logprobs(first, rows, tokens).view(2, -1))
    for index, response in enumerate(responses):
        if len(response) > 1:
            rest = response_sums(extend(model, encoded, cache, response[:-1]), response[1:])
            scores[index] = scores[index] + rest
    return torch.stack(scores, dim=-1)


def shares_prefix(model: PreTrainedModel) -> bool:
    """Whether a prompt's cache can be continued twice: it holds plain keys and values, which grow by rebinding.

    State-space and linear-attention layers update their states in place, and encoders hold a cache of another kind;
    such families take the plain path.
    """
    config = text_config(model)
    if model.config.is_encoder_decoder or "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    return {type(layer) for layer in DynamicCache(config=config).layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def _whole(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, response: Tensor) -> Tensor:
    """One response, with its prompt in a single pass without cache; prompts with images share their prefix always."""
    if encoded.decoder_keywords:
        first, cache = prefill(model, encoded, prompt)
        score = response_sums(first[:, None], response[:1])
        if len(response) > 1:
            score = score + response_sums(extend(model, encoded, cache, response[:-1]), response[1:])
        return score
    forget_positions(model)
    tail = model.get_input_embeddings()(response[:-1])[None].expand(len(prompt), -1, -1)
    with logits_from(model, prompt.shape[1] - 1):
        logits = model(inputs_embeds=torch.cat([prompt, tail.to(prompt.dtype)], dim=1), use_cache=False).logits
    return response_sums(logits, response)
