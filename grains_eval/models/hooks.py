"""Hooks into a model's own forward: hidden states at a site, what the decoder receives, where logits are computed.

The decoder is handed the keywords that it received when the whole prompt was encoded (image masks, multimodal
positions); positions whose logits are not read are dropped before the vocabulary projection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from grains_eval.models.encoded import EncodedExample
from grains_eval.models.layers import find_attention_outputs, find_decoder, find_layers, hidden_of, with_hidden
from grains_eval.types import Site

# from hidden states [B, n, H] at a site to what the model goes on with; None leaves them as they are
Change = Callable[[Tensor], Tensor | None]


def site_modules(model: PreTrainedModel, site: Site) -> list[nn.Module]:
    """Per layer, the module at whose output (`block_output`) or input (`attention_heads`) the site lies.

    Raises:
        GrainsError: see `layers.find_layers` and `layers.find_attention_outputs`.
    """
    return list(find_layers(model)) if site == "block_output" else find_attention_outputs(model)


def hook_site(module: nn.Module, site: Site, change: Change) -> RemovableHandle:
    """Hand the hidden states at a module of `site_modules` to a function in every forward pass."""

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        del module, arguments
        hidden = change(hidden_of(output))
        return None if hidden is None else with_hidden(output, hidden)

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        del module
        hidden = change(arguments[0])
        return None if hidden is None else (hidden, *arguments[1:])

    return module.register_forward_hook(after) if site == "block_output" else module.register_forward_pre_hook(before)


@contextmanager
def logits_at(model: PreTrainedModel, pick: Callable[[Tensor], Tensor]) -> Generator[list[Tensor], None, None]:
    """Compute logits only of some hidden states.

    Args:
        model: The model.
        pick: From what the output embeddings would be given, `[B, T, H]`, to what they are given, `[b, n, H]`.

    Yields:
        What they would have been given, once they have run.
    """
    given: list[Tensor] = []

    def replace(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        given.append(arguments[0])
        # strided rows would be multiplied one batch at a time
        return (pick(arguments[0]).contiguous(), *arguments[1:])

    head: nn.Module = model.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
    handle = head.register_forward_pre_hook(replace)
    try:
        yield given
    finally:
        handle.remove()


def logits_from(model: PreTrainedModel, start: int) -> AbstractContextManager[list[Tensor]]:
    """Compute logits only from position `start` on (negative counts from the end); see `logits_at`."""
    return logits_at(model, lambda hidden: hidden[:, start:])


@contextmanager
def noting_decoder(model: PreTrainedModel, received: dict[str, Any]) -> Generator[None, None, None]:
    """Note the keywords that the decoder is called with inside the block."""

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        del module, arguments
        received.update(keywords)

    handle = find_decoder(model).register_forward_pre_hook(note, with_kwargs=True)
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


# the keyword of image features that are added after the first layers: a list of `[visual tokens, H]`
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
    """Drop what a model remembers of earlier prompts: Qwen-VL a position offset, `dynamic` RoPE the longest length.

    A prompt then gives the same as in a model that was just loaded, whatever ran before.
    """
    inner = getattr(model, "model", None)
    if getattr(inner, "rope_deltas", None) is not None:
        inner.rope_deltas = None  # pyright: ignore
    rotary: Any = getattr(find_decoder(model), "rotary_emb", None)
    if getattr(rotary, "rope_type", None) == "dynamic":
        rotary.inv_freq = rotary.original_inv_freq.to(rotary.inv_freq.device)
        rotary.max_seq_len_cached = rotary.original_max_seq_len


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
