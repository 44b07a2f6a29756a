"""Show virtual tokens to a model, or read the keys and values of real ones, inside a `with` block."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.models.layers import find_decoder, find_layers, text_config
from grains_eval.virtual_tokens.attention import PREFIX, SITES, SUPPORTED, Site, Turn
from grains_eval.virtual_tokens.columns import Columns, ResolvedTokens, together
from grains_eval.virtual_tokens.rotary import Angles, angles_at, called_positions, rotary_modules

_INTERNAL = "_attn_implementation_internal"  # the name that transformers itself reads; its setter goes to other parts


@dataclass(frozen=True)
class Layout:
    """Where a model attends.

    Attributes:
        attentions: The attention module of each layer.
        calls: Per layer, which of a pass's rotary calls its angles come from; None without rotary positions.
        heads: Per layer, number and width of its key-value heads, and the width of its values.
    """

    attentions: tuple[nn.Module, ...]
    calls: tuple[int | None, ...]
    heads: tuple[tuple[int, int, int], ...]

    @property
    def is_rotary(self) -> bool:
        """Whether keys are rotated by their position, so that a distance has a meaning."""
        return self.calls[0] is not None


@dataclass
class _Attached:
    """The functions of ours that a decoder runs now, and for whom."""

    turn: Turn
    active: list[Columns] = field(default_factory=list[Columns])
    users: int = 0
    undo: list[Any] = field(default_factory=list[Any])


_attached: WeakKeyDictionary[nn.Module, _Attached] = WeakKeyDictionary()


def implementation(model: PreTrainedModel) -> str:
    """The attention that the model was loaded with.

    Raises:
        GrainsError: it has no column for a virtual token.
    """
    name = str(getattr(text_config(model), _INTERNAL) or "eager").removeprefix(PREFIX)
    if name not in SUPPORTED:
        raise GrainsError(
            f"virtual tokens cannot be shown to attn_implementation={name}; load the model with "
            f"attn_implementation={' or '.join(reversed(SUPPORTED))}"
        )
    return name


@contextmanager
def attached(model: PreTrainedModel, configs: Sequence[Any], active: Columns | None) -> Generator[Turn, None, None]:
    """Let the model attend through our functions and note the angles of every pass; nests.

    Args:
        model: The model.
        configs: Configurations that name an attention implementation.
        active: Columns whose angles are wanted too.
    """
    decoder = find_decoder(model)
    state = _attached.get(decoder)
    if state is None:
        state = _attached[decoder] = _Attached(Turn())
        _attach(model, decoder, configs, state)
    state.users += 1
    if active is not None:
        state.active.append(active)
    try:
        yield state.turn
    finally:
        if active is not None:
            state.active.remove(active)
        state.users -= 1
        if not state.users:
            for undo in reversed(state.undo):
                undo()
            del _attached[decoder]


def _attach(model: PreTrainedModel, decoder: nn.Module, configs: Sequence[Any], state: _Attached) -> None:
    name = PREFIX + implementation(model)
    turn = state.turn

    def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        del module, arguments
        turn.own.clear()
        turn.shifted.clear()
        turn.masks.clear()
        turn.keys.clear()

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        turn.own.append(output)
        found = dict[int, Angles]()
        positions = called_positions(module, arguments, keywords) if state.active else None
        for columns in state.active if positions is not None else ():
            moved = _moved(positions, columns, arguments, keywords)  # pyright: ignore[reportArgumentType]
            found[id(columns)] = angles_at(module, arguments, keywords, moved)
        turn.shifted.append(found)

    for config in {id(each): each for each in configs}.values():
        previous = getattr(config, _INTERNAL)
        setattr(config, _INTERNAL, name)
        state.undo.append(lambda config=config, previous=previous: setattr(config, _INTERNAL, previous))
    state.undo.append(decoder.register_forward_pre_hook(begin).remove)
    for module in rotary_modules(decoder):
        state.undo.append(module.register_forward_hook(note, with_kwargs=True).remove)


def _moved(positions: Tensor, columns: Columns, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """Position ids `[axes..., B or 1, N * n]` at the columns' distances from `[axes..., B or 1, n]`."""
    distances = positions.new_tensor(columns.distances)  # [S, N]
    if columns.size > 1:
        states = arguments[0] if arguments else keywords["x"]
        batch = states.shape[0]
        distances = columns.rows(distances, batch)
        positions = positions.expand(*positions.shape[:-2], batch, -1)
    return (positions[..., None, :] - distances[..., None]).flatten(-2)


@contextmanager
def shown(
    model: PreTrainedModel, settings: Sequence[Sequence[ResolvedTokens]], *, alternate: bool = False
) -> Generator[None, None, None]:
    """Let every query after the first token of its row see virtual tokens; nest it to compose.

    Exact under batching with padding on either side and with a cache; the model's cache, positions and lengths stay as
    they are.

    Args:
        model: A decoder for which `exactness.layout` finds that tokens are shown exactly.
        settings: What the rows of a batch see: rows `s * R ... (s + 1) * R - 1` of `S * R` belong to setting `s`.
        alternate: Row `i` belongs to setting `i % S` instead.

    Raises:
        GrainsError: a model that shows no tokens exactly, or keys of another shape.
    """
    columns = together(settings, alternate)
    if columns is None:
        yield
        return
    from grains_eval.virtual_tokens.exactness import layout  # it runs the model with tokens shown

    places = layout(model)
    for each in settings:
        for one in each:
            check_fit(places, one)
    with seen_by(model, places, columns):
        yield


def check_fit(places: Layout, tokens: ResolvedTokens) -> None:
    """Refuse tokens that were read from another model.

    Raises:
        GrainsError: a layer that the model lacks, or heads of another number or width.
    """
    for layer, keys in tokens.keys.items():
        if layer >= len(places.heads):
            raise GrainsError(
                f"virtual tokens have keys for layer {layer}; the model has layers 0 to {len(places.heads) - 1}"
            )
        found = (*keys.shape[1:], tokens.values[layer].shape[-1])
        if found != places.heads[layer]:
            heads, width, own = places.heads[layer]
            raise GrainsError(
                f"virtual tokens have {found[0]} key-value heads of width {found[1]} at layer {layer}, values of width "
                f"{found[2]}; the model has {heads} of {width} and {own}: they were read from another model"
            )


@contextmanager
def seen_by(model: PreTrainedModel, places: Layout, columns: Columns) -> Generator[None, None, None]:
    """`shown`, on a model that is known."""
    with attached(model, configurations(model, places.attentions), columns) as turn:
        for layer in columns.layers:
            site = SITES.setdefault(places.attentions[layer], Site(layer, turn, places.calls[layer]))
            site.shown.append(columns)
        try:
            yield
        finally:
            for layer in columns.layers:
                site = SITES[places.attentions[layer]]
                site.shown.remove(columns)
                if not site.shown and site.read is None:
                    del SITES[places.attentions[layer]]


@contextmanager
def reading(model: PreTrainedModel, places: Layout) -> Generator[dict[int, tuple[Tensor, Tensor]], None, None]:
    """Collect `{layer: (keys, values)}` `[B, heads, n, width]` of the last pass, keys before rotary embedding, float32.

    The dictionary is filled when the block ends.
    """
    from grains_eval.virtual_tokens.rotary import rotate_back, rotation_of

    found: dict[int, tuple[Tensor, Tensor]] = {}
    with attached(model, configurations(model, places.attentions), None) as turn:
        fresh: list[nn.Module] = []
        for layer, attention in enumerate(places.attentions):
            if attention not in SITES:
                fresh.append(attention)
            site = SITES.setdefault(attention, Site(layer, turn, places.calls[layer]))
            if site.read is not None:
                raise GrainsError("keys and values are being read already")
            site.read = found
        try:
            yield found
            for layer, (keys, values) in list(found.items()):
                call, keys = places.calls[layer], keys.float()
                if call is not None:
                    function = rotation_of(places.attentions[layer])
                    assert function is not None
                    cos, sin = turn.own[call]
                    keys = rotate_back(function, keys, (cos.float().to(keys.device), sin.float().to(keys.device)))
                found[layer] = keys, values.float()
        finally:
            for attention in places.attentions:
                SITES[attention].read = None
            for attention in fresh:
                del SITES[attention]


def configurations(model: PreTrainedModel, attentions: Sequence[nn.Module]) -> list[Any]:
    """Configurations that decide on masks and attention: the decoder's and those of its attention modules."""
    found = [text_config(model), getattr(find_decoder(model), "config", None)]
    found += [getattr(each, "config", None) for each in attentions or find_layers(model).modules()]
    return [each for each in found if hasattr(each, _INTERNAL)]
