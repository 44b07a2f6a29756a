"""Which tokens of a forward pass are moved by `positions=prompt`, `generated` or `last`.

During `generate` the answer comes from `generate` itself: it is handed the prompt, and before every forward pass
`prepare_inputs_for_generation` is handed the sequence so far and returns the tokens that are run. Caches are not asked,
since many cannot tell (state-space layers, no cache at all, a prompt that arrives in chunks). Outside `generate` the
arguments of the forward pass decide. A pass that can be placed neither way is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationMixin, PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.models.layers import find_decoder
from grains_eval.types import Positions

# keywords under which models of transformers take what they have computed of earlier tokens
_CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")


@dataclass
class _Generation:
    """A call of `generate` in flight; columns count from its first token, padding included.

    Attributes:
        model: The model whose `generate` was called.
        arguments: What it was called with.
        prompt: Columns of the prompt; None until an encoder-decoder has made its start token.
        before: Columns in front of the token ids that it grows (a prompt given as embeddings).
        consumed: Columns run so far of a prompt that arrives in chunks.
        announced: Whether the next forward pass has been placed.
    """

    model: nn.Module
    arguments: Mapping[str, Any]
    prompt: int | None
    before: int = 0
    consumed: int = 0
    announced: bool = False


@dataclass
class _Pass:
    """The forward pass in flight.

    Attributes:
        start: Column of its first token.
        prompt: Columns of the prompt; None is everything up to the end of this pass.
        width: Tokens that the layers must see; None where that is unknown.
        real: `[B, start + width]` mask of real tokens; None where all are.
        found: Which tokens are moved, once a layer has asked.
    """

    start: int
    prompt: int | None
    width: int | None = None
    real: Tensor | None = None
    found: Tensor | bool | None = None


class Progress:
    """Follows a model through its forward passes and tells each layer which tokens a position rule moves.

    Args:
        positions: `prompt`, `generated` or `last` (the last token of the prompt).
        prompt_lengths: `[B]` real tokens of each row that belong to the prompt, `[1]` for all rows alike; None where
            the first pass, or what `generate` is given, is the prompt.
        first_pass_is_prompt: Whether it is; False refuses passes outside `generate` that no lengths explain.

    Raises:
        GrainsError: `prompt_lengths` is no row of whole numbers.
    """

    def __init__(
        self, positions: Positions, prompt_lengths: Tensor | None = None, first_pass_is_prompt: bool = True
    ) -> None:
        if prompt_lengths is not None and (prompt_lengths.ndim != 1 or prompt_lengths.is_floating_point()):
            raise GrainsError("prompt_lengths holds one whole number of tokens per row; give a tensor [B] of integers")
        self.positions = positions
        self.prompt_lengths = prompt_lengths
        self.first_pass_is_prompt = first_pass_is_prompt
        self._generation: _Generation | None = None
        self._pass: _Pass | None = None

    @contextmanager
    def following(self, model: PreTrainedModel) -> Generator[None, None, None]:
        """Watch the forward passes of `model`, and of the models inside it that may generate on their own.

        Raises:
            GrainsError: the model puts virtual tokens in front of every prompt.
        """
        adapter: Any = getattr(model, "active_peft_config", None)
        if getattr(adapter, "is_prompt_learning", False):
            raise self._refusal(f"the virtual tokens of {adapter.peft_type.value} are neither prompt nor answer")
        with ExitStack() as stack:
            for stage in _stages(model):
                stack.callback(stage.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                stack.callback(stage.register_forward_hook(self._after).remove)
                if isinstance(stage, GenerationMixin):
                    stack.enter_context(self._generating(stage))
            yield

    def moved(self, hidden: Tensor) -> Tensor | bool:
        """`[B or 1, n]` moved tokens of hidden states `[B, n, ..., H]`; True or False where that is all or none.

        Raises:
            GrainsError: the pass was not placed, or has other tokens than were announced.
        """
        now = self._pass
        if now is None:
            raise self._refusal("a layer ran outside the model's own forward; call the model or its generate")
        rows, width = hidden.shape[:2]
        if now.width is not None and now.width != width:
            raise self._refusal(f"generate announced {now.width} tokens but the layers run {width}")
        if hidden.ndim > 3 and (now.width is None or width in hidden.shape[2:-1]):
            raise self._refusal("the layers' streams cannot be told from tokens")  # Gemma 3n's stand before the batch
        if now.found is None:
            now.found = self._find(now, rows, width, hidden.device)
        return now.found

    def _find(self, now: _Pass, rows: int, width: int, device: torch.device) -> Tensor | bool:
        end, stop = self._end(now, rows, width), now.start + width
        if isinstance(end, int):
            if now.start >= end or stop < end or (stop == end and self.positions != "last"):
                # wholly after the prompt, or wholly in it
                return (self.positions == "generated") if now.start >= end else self.positions == "prompt"
        else:
            end = end.to(device)
        columns = torch.arange(now.start, stop, device=device)[None]
        if self.positions == "last":
            return columns == end - 1
        return columns < end if self.positions == "prompt" else columns >= end

    def _end(self, now: _Pass, rows: int, width: int) -> int | Tensor:
        """The column after the prompt's last token, per row `[B, 1]` where rows differ."""
        stop = now.start + width
        end = stop if now.prompt is None else now.prompt
        counted = None if self.prompt_lengths is None else _per_row(self.prompt_lengths, rows)[:, None]
        if now.real is None or (counted is None and not (self.positions == "last" and now.start < end <= stop)):
            return end if counted is None else counted
        if now.real.ndim != 2 or now.real.shape[1] != stop:
            shape = tuple(now.real.shape)
            raise self._refusal(f"the attention mask has shape {shape} where [B, {stop}] says which tokens are real")
        real = now.real != 0
        if counted is None:
            columns = torch.arange(1, end + 1, device=real.device)
            return (columns * real[:, :end]).amax(dim=1, keepdim=True)
        return (real.cumsum(dim=1) < counted.to(real.device)).sum(dim=1, keepdim=True) + 1

    def _before(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        generation = self._generation
        if generation is None:
            self._pass = self._plain(module, _named(module, arguments, keywords))
        elif generation.model is module:
            if not generation.announced:
                raise self._refusal("this way of decoding does not say which tokens it runs")
            generation.announced = False

    def _after(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        del module, arguments, output
        self._pass = None

    def _plain(self, module: nn.Module, given: Mapping[str, Any]) -> _Pass:
        """Place a pass outside `generate` by what it is given."""
        if self.prompt_lengths is None and not self.first_pass_is_prompt:
            raise self._refusal("they run together in one forward pass")
        if given.get("cu_seq_lens_q") is not None:
            raise self._refusal("several sequences are packed into one row")
        real = given.get("decoder_attention_mask" if _is_encoder_decoder(module) else "attention_mask")
        cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
        past = 0 if cache is None else _seen(cache)
        if past is None:
            raise self._refusal(f"{type(cache).__name__} does not tell how many tokens it holds; use generate")
        if past and self.prompt_lengths is None:
            return _Pass(past, 0)  # the prompt was the first pass
        return _Pass(past, None, real=real)

    @contextmanager
    def _generating(self, model: Any) -> Generator[None, None, None]:
        """Learn the prompt from `model.generate`, and every pass from `model.prepare_inputs_for_generation`."""
        inner, prepare = model.generate, model.prepare_inputs_for_generation

        @wraps(inner)
        def generate(*arguments: Any, **keywords: Any) -> Any:
            outer = self._generation
            if outer is None or outer.model is not model:  # not a draft of its own answer
                given = {**dict(zip(("inputs",), arguments, strict=False)), **keywords}
                self._generation = _Generation(model, given, _prompt_columns(model, given))
            try:
                return inner(*arguments, **keywords)
            finally:
                self._generation = outer

        @wraps(prepare)
        def announce(input_ids: Tensor, *arguments: Any, **keywords: Any) -> Any:
            inputs = prepare(input_ids, *arguments, **keywords)
            generation = self._generation
            if generation is not None and generation.model is model:
                self._pass = self._announced(generation, input_ids, inputs, keywords)
                generation.announced = True
            return inputs

        own = {name: model.__dict__[name] for name in ("generate", announce.__name__) if name in model.__dict__}
        model.generate, model.prepare_inputs_for_generation = generate, announce
        try:
            yield
        finally:
            for name in ("generate", announce.__name__):
                model.__dict__.pop(name, None)
            model.__dict__.update(own)

    def _announced(
        self, generation: _Generation, ids: Tensor, inputs: Mapping[str, Any], keywords: Mapping[str, Any]
    ) -> _Pass:
        """Place a pass of `generate`: of the sequence `ids` so far it runs the tokens in `inputs`."""
        decoder = "decoder_" if _is_encoder_decoder(generation.model) else ""
        embeddings = inputs.get(decoder + "inputs_embeds")
        width = (inputs[decoder + "input_ids"] if embeddings is None else embeddings).shape[1]
        if generation.prompt is None:
            generation.prompt = _decoder_prompt(generation.arguments[decoder + "input_ids"], ids)
        if embeddings is not None:
            generation.before = generation.prompt - ids.shape[1]
        stop, prompt = generation.before + ids.shape[1], generation.prompt
        real = keywords.get(decoder + "attention_mask")
        if stop < prompt:  # generate hands over the prompt in chunks
            if generation.arguments.get("past_key_values") is not None or decoder:
                raise self._refusal("prefill_chunk_size with a cache or decoder tokens from before")
            generation.consumed += width
            stop = generation.consumed
            if stop == prompt and real is not None and self.positions == "last" and not bool(real[:, -1].all()):
                raise self._refusal("prefill_chunk_size with prompts padded on the right; pad on the left")
        if width > stop:
            raise self._refusal(f"{type(generation.model).__name__} decodes with tokens of its own making")
        if real is not None and self.prompt_lengths is None:
            real = real[:, -stop:]  # a cache from before is masked too
        return _Pass(stop - width, prompt, width, real)

    def _refusal(self, reason: str) -> GrainsError:
        return GrainsError(f"positions={self.positions}: prompt and answer cannot be told apart, {reason}; or move all")


def _stages(model: nn.Module) -> list[nn.Module]:
    """The model and, on the way to its decoder, the models inside it that can generate (under PEFT, in BLIP-2)."""
    decoder = find_decoder(model)  # pyright: ignore[reportArgumentType]
    stages, current = [model], model
    while current is not decoder:
        inside = next((child for child in current.children() if any(m is decoder for m in child.modules())), None)
        if inside is None:
            break
        current = inside
        if isinstance(current, GenerationMixin):
            stages.append(current)
    return stages


def _is_encoder_decoder(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _per_row(lengths: Tensor, rows: int) -> Tensor:
    """`[b]` prompts as `[B]` rows, where beams repeat each prompt."""
    if rows % len(lengths):
        raise GrainsError(f"prompt_lengths has {len(lengths)} rows for a batch of {rows}; give one number per row")
    return lengths.repeat_interleave(rows // len(lengths))


def _named(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of a forward by name."""
    if len(arguments) < 2:  # a first argument is always the tokens
        return keywords
    return {**inspect.signature(module.forward).bind_partial(*arguments).arguments, **keywords}


def _prompt_columns(model: nn.Module, given: Mapping[str, Any]) -> int | None:
    """Columns of the prompt that `generate` is given; None where only decoding shows it."""
    if _is_encoder_decoder(model):
        return 1 if given.get("decoder_input_ids") is None else None
    for name in ("inputs_embeds", "input_ids", "inputs"):
        tokens = given.get(name)
        if tokens is not None:
            return int(tokens.shape[1])
    return 1  # a start token


def _decoder_prompt(given: Tensor, ids: Tensor) -> int:
    """Columns of the given decoder tokens in `ids`, which may begin with a start token of the model's."""
    width = given.shape[1]
    return width + int(not torch.equal(given[:1].to(ids.device), ids[:1, :width]))


def _seen(cache: Any) -> int | None:
    """Tokens that a cache holds; None where it does not say."""
    if isinstance(cache, EncoderDecoderCache):
        return _seen(cache.self_attention_cache)
    if not isinstance(cache, Cache):
        return None if len(cache) else 0
    layers: list[Any] = cache.layers
    count = max((int(layer.get_seq_length()) for layer in layers if hasattr(layer, "get_seq_length")), default=0)
    if count:
        return count
    # a state holds no count, and a cache of a model's own making may keep some of its state elsewhere
    kinds = ("is_recurrent_states_initialized", "is_conv_states_initialized")
    states = any(any(getattr(layer, kind, {}).values()) for layer in layers for kind in kinds)
    return None if states or type(cache).__module__ != Cache.__module__ else 0
