"""Run a model from merged prompt embeddings: response log-probabilities and the states behind them.

The model's own forward is used throughout, so that masks, position schemes and logit post-processing are its own.
Two hooks bend it: one hands the decoder the keywords it received when the whole prompt was encoded (image masks,
multimodal positions), one drops the positions whose logits nobody reads before the vocabulary projection.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.models.blocks import find_decoder, text_config
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.scoring import picked_logprobs, response_sums
from grains_eval.models.vocabulary import linear_head, logprobs_through_head


@contextmanager
def logits_from(
    model: PreTrainedModel, start: int, before: Tensor | None = None
) -> Generator[list[Tensor], None, None]:
    """Compute logits only from position `start` on (negative counts from the end).

    Args:
        model: The model.
        start: The first position.
        before: `[N, H]` inputs of the output embeddings from an earlier pass that are read in this one too: logits
            become `[1, N + B * n, V]`.

    Yields:
        What the output embeddings would have been given, `[B, T, H]`, once they have run.
    """
    given: list[Tensor] = []

    def slice_hidden(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        given.append(arguments[0])
        hidden = arguments[0][:, start:]
        if before is not None:
            hidden = torch.cat([before, hidden.flatten(0, 1)])[None]
        # strided rows would be multiplied one batch at a time
        return (hidden.contiguous(), *arguments[1:])

    head: nn.Module = model.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
    handle = head.register_forward_pre_hook(slice_hidden)
    try:
        yield given
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
        What the output embeddings are given at the last prompt token, `[B, H]`, and the cache of keys and values (both
        with gradient if prompt has one).
    """
    # no logits: those of the last token are read together with the response's
    output, given = _run_prompt(model, encoded, prompt, prompt.shape[1])
    return given[:, -1], output.past_key_values


def _run_prompt(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, start: int) -> tuple[Any, Tensor]:
    """The model's output with logits from `start` on, and what the output embeddings were given."""
    forget_positions(model)
    embeddings, keywords = decoder_inputs(encoded, prompt)
    with logits_from(model, start) as given, decoder_receives(model, keywords, len(prompt)):
        output = model(inputs_embeds=embeddings, use_cache=True)
    return output, given[0]


def extend(
    model: PreTrainedModel, encoded: EncodedExample, cache: Any, tokens: Tensor, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run response tokens after a cached prompt of `B` rows; the cache itself is left as it was.

    Args:
        model: The model.
        encoded: The example.
        cache: What `prefill` returned.
        tokens: `[R, n]`: each row follows all rows of the prompt.
        before: `[N, H]`, see `logits_from`; None makes no logits at all.

    Returns:
        Logits `[N + R * B * n, V]`, or `[0, V]`, and what the output embeddings were given, `[R * B * n, H]`.
    """
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
    start = length if before is None else 0
    with logits_from(model, start, before) as given, decoder_receives(model, keywords, rows):
        logits = model(inputs_embeds=embeddings, past_key_values=fork(cache, responses), use_cache=True).logits
    return logits.flatten(0, 1), given[0].flatten(0, 1)


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
        share_prefix: Compute the prompt once for both responses; otherwise once for each.

    Returns:
        `[B, 2]` float32, nats: column 0 is `log p(y+ | x)`, column 1 `log p(y- | x)`.
    """
    responses = (encoded.chosen, encoded.rejected)
    if not share_prefix or not shares_prefix(model):
        return torch.stack([_whole(model, encoded, prompt, response) for response in responses], dim=-1)
    return _branching(model, encoded, prompt, responses).T


def _branching(model: PreTrainedModel, encoded: EncodedExample, prompt: Tensor, responses: Sequence[Tensor]) -> Tensor:
    """`[R, B]` log-probabilities of `R` responses that branch off one pass over the prompt."""
    batch, head = len(prompt), linear_head(model)
    # one softmax over the last prompt token's logits serves the first token of every response
    reads = [(torch.arange(batch)[:, None], response[:1]) for response in responses]
    if head is None and max(map(len, responses)) == 1:
        logits = _run_prompt(model, encoded, prompt, -1)[0].logits[:, -1]
        return response_sums(partial(picked_logprobs, logits), reads)
    last, cache = prefill(model, encoded, prompt)
    if head is not None and max(map(len, responses)) == 1:
        return response_sums(partial(logprobs_through_head, last, head), reads)
    owners = list(range(len(responses)))
    scores = torch.zeros(len(responses), batch, device=last.device)
    for together in _together(responses):
        width = max(len(responses[i]) for i in together) - 1
        # padded on the right, where no token that counts sees it
        fed = [functional.pad(each[:-1], (0, width - len(each) + 1)) for each in (responses[i] for i in together)]
        places = len(last) + torch.arange(len(together) * batch * width).view(len(together), batch, width)
        reads += [(places[n, :, : len(responses[i]) - 1], responses[i][1:]) for n, i in enumerate(together)]
        logits, hidden = extend(model, encoded, cache, torch.stack(fed), last if head is None else None)
        pick = partial(picked_logprobs, logits)
        if head is not None:
            pick = partial(logprobs_through_head, torch.cat([last, hidden]), head)
        found = response_sums(pick, reads)
        scores = scores.index_add(0, torch.tensor(owners + together, device=scores.device), found.to(scores.device))
        last, reads, owners = last[:0], [], []
    return scores


def _together(responses: Sequence[Tensor]) -> list[list[int]]:
    """Responses of more than one token: all in one pass, unless padding costs more than a fifth of it."""
    lengths = {index: len(response) - 1 for index, response in enumerate(responses) if len(response) > 1}
    if sum(lengths.values()) < 0.8 * len(lengths) * max(lengths.values()):
        return [[index] for index in lengths]
    return [list(lengths)]


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
        return _branching(model, encoded, prompt, [response])[0]
    forget_positions(model)
    tail = model.get_input_embeddings()(response[:-1])[None].expand(len(prompt), -1, -1)
    with logits_from(model, prompt.shape[1] - 1):
        logits = model(inputs_embeds=torch.cat([prompt, tail.to(prompt.dtype)], dim=1), use_cache=False).logits
    places = torch.arange(len(prompt) * len(response)).view(len(prompt), -1)
    return response_sums(partial(picked_logprobs, logits.flatten(0, 1)), [(places, response)])[0]
