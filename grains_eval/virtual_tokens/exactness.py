"""Whether a model shows virtual tokens exactly: seen on the model itself, by its own plain forward pass.

A real token that is taken out of the cache and shown instead, by its own keys and values at its own distance, must
leave every number as it was. That covers rotary variants, grouped heads, logit caps, sinks and normalised keys without
knowing a model by its name; what fails is refused.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.errors import GrainsError
from grains_eval.models.hooks import forget_positions
from grains_eval.models.layers import find_layers, text_config
from grains_eval.models.rounding import rounding
from grains_eval.virtual_tokens.attention import WATCHERS
from grains_eval.virtual_tokens.columns import ResolvedTokens, together
from grains_eval.virtual_tokens.rotary import rotation_of
from grains_eval.virtual_tokens.showing import Layout, attached, configurations, implementation, reading, seen_by

_LENGTH = 6  # tokens of the probe: shorter than any window that a model would have
_SHIFT = 3  # positions by which rotary angles must not matter

# by model and attention implementation; a text says why there is none
_known: WeakKeyDictionary[PreTrainedModel, dict[str, Layout | str]] = WeakKeyDictionary()


def layout(model: PreTrainedModel) -> Layout:
    """Where the model attends, once it was seen that virtual tokens are shown to it exactly; found on first use.

    Raises:
        GrainsError: they are not, or this cannot be seen.
    """
    name = implementation(model)
    known = _known.setdefault(model, {})
    if name not in known:
        try:
            known[name] = _certified(model)
        except GrainsError as error:
            known[name] = str(error)
        except Exception as error:  # an unknown family may fail anywhere; then it is refused
            lines = str(error).splitlines()
            known[name] = f"its attention could not be followed ({type(error).__name__}: {lines[0] if lines else ''})"
    found = known[name]
    if isinstance(found, str):
        raise GrainsError(
            f"{type(model).__name__} ({name} attention) shows no virtual tokens: {found}; use form=embedding or "
            "form=text, or another model"
        )
    return found


def _certified(model: PreTrainedModel) -> Layout:
    if model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise GrainsError("it is not a decoder with output embeddings")
    kinds = {type(layer) for layer in DynamicCache(config=text_config(model)).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise GrainsError("its cache holds more than keys and values")
    forget_positions(model)
    try:
        with torch.no_grad():
            probe = _Probe(model)
            places = _places(probe)
            _compare(probe, places)
    finally:
        forget_positions(model)
    return places


@dataclass
class _Probe:
    """A short row of tokens run in parts.

    Attributes:
        model: The model.
        ids: `[1, T]`.
    """

    model: PreTrainedModel
    ids: Tensor

    def __init__(self, model: PreTrainedModel) -> None:
        device = next((each.device for each in model.parameters() if not each.is_meta), torch.device("cpu"))
        vocabulary = int(text_config(model).vocab_size)
        generator = torch.Generator().manual_seed(0)
        self.model = model
        self.ids = torch.randint(vocabulary, (1, _LENGTH), generator=generator).to(device)

    def run(self, start: int, stop: int, cache: DynamicCache | None = None, shift: int = 0) -> Any:
        """Run tokens `start` to `stop`."""
        positions = torch.arange(start, stop, device=self.ids.device)[None] + shift
        return self.model(
            input_ids=self.ids[:, start:stop], position_ids=positions, past_key_values=cache, use_cache=True
        )

    def without(self, token: int, stop: int, shift: int) -> DynamicCache:
        """The cache of the first `stop` tokens less one."""
        cache: Any = self.run(0, stop, DynamicCache(), shift).past_key_values
        for layer in cache.layers:
            for name in ("keys", "values"):
                held: Tensor = getattr(layer, name)
                setattr(layer, name, torch.cat([held[:, :, :token], held[:, :, token + 1 :]], dim=2))
        return cache


def _places(probe: _Probe) -> Layout:
    """Run a pass and see which modules attend with what."""
    model = probe.model
    layers = find_layers(model)
    owner = {module: index for index, layer in enumerate(layers) for module in layer.modules()}
    found: dict[int, tuple[nn.Module, tuple[int, int, int]]] = {}
    angles: dict[nn.Module, Any] = {}

    def watch(module: nn.Module, key: Tensor, value: Tensor) -> None:
        index = owner.get(module)
        if index is None:
            raise GrainsError("it attends outside its layers")
        if index in found:
            raise GrainsError(f"layer {index} attends more than once")
        found[index] = module, (key.shape[1], key.shape[3], value.shape[3])

    def receive(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        for given in (*keywords.values(), *arguments):
            if isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, Tensor) for each in given):
                angles.setdefault(module, []).append(given[0])

    calls: dict[nn.Module, int | None] = {}
    with ExitStack() as stack:
        turn = stack.enter_context(attached(model, configurations(model, ()), None))
        for module in owner:
            stack.callback(module.register_forward_pre_hook(receive, with_kwargs=True).remove)
        WATCHERS.append(watch)
        stack.callback(WATCHERS.remove, watch)
        probe.run(0, _LENGTH)
        for module, given in angles.items():
            matches = [index for index, own in enumerate(turn.own) if any(own[0] is each for each in given)]
            calls[module] = matches[0] if matches else None
    missing = [index for index in range(len(layers)) if index not in found]
    if missing:
        raise GrainsError(f"layer {missing[0]} does not attend through transformers' attention interface")
    attentions = tuple(found[index][0] for index in range(len(layers)))
    rotary = tuple(calls.get(module) for module in attentions)
    if len({call is None for call in rotary}) != 1:
        raise GrainsError("only some of its layers rotate keys by position")
    if rotary[0] is not None and any(rotation_of(module) is None for module in attentions):
        raise GrainsError("the function that rotates its keys was not found")
    if rotary[0] is None and not _learned_positions(probe):
        raise GrainsError("its positions act where they cannot be followed")
    return Layout(attentions, rotary, tuple(found[index][1] for index in range(len(layers))))


def _learned_positions(probe: _Probe) -> bool:
    """Whether positions are added to what enters the first layer."""
    seen: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        del module
        seen.append((arguments[0] if arguments else keywords["hidden_states"]).detach().clone())

    handle = find_layers(probe.model)[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        probe.run(0, _LENGTH)
        probe.run(0, _LENGTH, shift=_SHIFT)
    finally:
        handle.remove()
    return not torch.allclose(seen[0], seen[1])


def _compare(probe: _Probe, places: Layout) -> None:
    """Take one token out and show it: alone to the last token, and to the last but one as two run together.

    Raises:
        GrainsError: a number moved, or no token matters enough to tell.
    """
    model, allowed = probe.model, rounding(probe.model, 1)
    plain = probe.run(0, _LENGTH).logits[0].float().log_softmax(-1)
    with reading(model, places) as read:
        probe.run(0, _LENGTH)
    shift = _SHIFT if places.is_rotary else 0
    effect, far = 0.0, 0.0
    for token in range(1, _LENGTH - 2):
        for last, width in ((_LENGTH - 1, 1), (_LENGTH - 2, 2)):
            cache = probe.without(token, last, shift)
            tokens = ResolvedTokens(
                {layer: keys[0, :, token][None] for layer, (keys, _) in read.items()},
                {layer: values[0, :, token][None] for layer, (_, values) in read.items()},
                (last - token,),
                (0.0,),
            )
            columns = together([[tokens]])
            assert columns is not None
            with seen_by(model, places, columns):
                given = probe.run(last, last + width, cache, shift).logits[0, 0].float().log_softmax(-1)
            missing = probe.run(last, last + width, probe.without(token, last, shift), shift).logits[0, 0]
            reference = plain[last]
            effect = max(effect, float((missing.float().log_softmax(-1) - reference).abs().max()))
            far = max(far, float((given - reference).abs().max()))
    if not far <= allowed:
        raise GrainsError(
            f"a real token that was shown as a virtual one moved log-probabilities by {far:.1e} nats, more than "
            "rounding"
        )
    if not effect > 2 * allowed:
        raise GrainsError(
            f"no token that was taken out moved a log-probability by more than {effect:.1e} nats, too little to tell "
            "whether it would be shown exactly"
        )
