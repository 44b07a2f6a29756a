"""Apply steering vectors to a model: operators, position rules and the context manager `steered`.

How a vector was made is not known here (method step 6).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError, pick
from grains_eval.models.hooks import hook_site, site_modules
from grains_eval.models.layers import find_attention_outputs, find_layers
from grains_eval.models.positions import Progress
from grains_eval.registry import Registry
from grains_eval.types import Positions, Site, SteeringConfig, SteeringVectors
from grains_eval.virtual_tokens import ResolvedTokens, shown

Operator = Callable[[Tensor, Tensor], Tensor]
OPERATORS: Registry[Operator] = Registry("steering operator", "grains_eval.steering")


def steering_operator(name: str) -> Callable[[Operator], Operator]:
    """Register a function of hidden states `[..., H]` and a delta as the operator `name` of `steering.operator`.

    Raises:
        GrainsError: the name is taken.
    """

    def register(function: Operator) -> Operator:
        OPERATORS.add(name, function, function.__module__)
        return function

    return register


@steering_operator("add")
def add(hidden: Tensor, delta: Tensor) -> Tensor:
    """`h' = h + delta`; hidden `[..., H]`, delta broadcastable to it, float32."""
    return _as(hidden, hidden.float() + delta)


@steering_operator("add_renormalised")
def add_renormalised(hidden: Tensor, delta: Tensor) -> Tensor:
    """`h' = h~ * ||h|| / ||h~||` with `h~ = h + delta`, norms per token over `H` (method step 6).

    Arithmetic is float32 also inside a half-precision stream. A token of norm zero stays zero.
    """
    full = hidden.float()
    moved = full + delta
    # not Tensor.norm: its Python wrapper is a tenth of what steering one decoded token costs
    norm = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
    moved_norm = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
    if moved.requires_grad:
        return _as(hidden, moved * (norm / moved_norm.clamp_min(1e-12)))
    # in place: over many tokens, memory for the result costs more than the arithmetic
    return _as(hidden, moved.mul_(norm.div_(moved_norm.clamp_min_(1e-12))))


def _as(hidden: Tensor, moved: Tensor) -> Tensor:
    # `to` costs as much as adding one token's delta, also where there is nothing to convert
    return moved if moved.dtype == hidden.dtype else moved.to(hidden.dtype)


@dataclass(frozen=True)
class ResolvedSteering:
    """Vectors and configuration reduced to what a hook needs.

    Attributes:
        deltas: `{layer: [hidden] float32}`, already scaled.
    """

    deltas: Mapping[int, Tensor]
    site: Site
    operator: Operator
    positions: Positions

    @property
    def first_layer(self) -> int:
        """The first layer whose output differs from the unsteered model's."""
        return min(self.deltas)


def resolve(vectors: SteeringVectors, config: SteeringConfig) -> ResolvedSteering | None:
    """Scale the directions of the chosen layers; None when nothing would move (strength 0).

    Relative: `s * m_l * v_l / ||v_l||`. Absolute: `lambda * v_l`.

    Raises:
        GrainsError: strength is not finite, an unknown operator, or a layer that the vectors do not have.
    """
    if not isfinite(config.strength):
        raise GrainsError(f"strength {config.strength} is not a finite number")
    operator = pick(OPERATORS, config.operator, OPERATORS.what)
    layers = vectors.layers if config.layers is None else config.layers
    missing = [layer for layer in layers if layer not in vectors.directions]
    if missing:
        raise GrainsError(
            f"layer {missing[0]} is not in the vectors; they have layers {_ranges(vectors.layers)} "
            "(layers count from 0)"
        )
    if config.strength == 0 or not layers:
        return None
    deltas: dict[int, Tensor] = {}
    for layer in layers:
        direction = vectors.directions[layer].detach().float().cpu()
        if config.unit == "relative":
            direction = direction * (vectors.scales[layer] / direction.norm().clamp_min(1e-12))
        deltas[layer] = config.strength * direction
    return ResolvedSteering(deltas, vectors.site, operator, config.positions)


# of a position rule and hidden states `[B, n, ..., H]`: moved tokens `[B or 1, n]`, or True or False for all or none
Where = Callable[[Positions, Tensor], Tensor | bool]


def everywhere(positions: Positions, hidden: Tensor) -> bool:
    """The position rule `all`."""
    del positions, hidden
    return True


@dataclass(frozen=True)
class Move:
    """What one steering does at one layer.

    Attributes:
        operator: How hidden states and delta are joined.
        positions: Which tokens are moved.
        delta: `[H]` float32.
        row: Which of several configurations along the batch it belongs to.
    """

    operator: Operator
    positions: Positions
    delta: Tensor
    row: int = 0


@dataclass
class Mover:
    """All moves at one site of one layer, for `size` configurations along the batch; one for plain steering.

    Deltas are kept on the devices where the layer's hidden states were met.
    """

    moves: tuple[Move, ...]
    size: int = 1
    placed: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])
    is_uniform: bool = field(init=False)

    def __post_init__(self) -> None:
        """See whether one operation does for all configurations."""
        kinds = {(move.operator, move.positions) for move in self.moves}
        rows = [move.row for move in self.moves]
        self.is_uniform = rows == list(range(self.size)) and len(kinds) == 1 and self.moves[0].positions == "all"

    def move(self, hidden: Tensor, where: Where) -> Tensor:
        """Move hidden states `[size * R, n, ..., H]` where the rules say; rows of one configuration stand together."""
        deltas = self.placed.get(hidden.device)
        if deltas is None:
            deltas = torch.stack([move.delta for move in self.moves]).to(hidden.device)
            self.placed[hidden.device] = deltas
        if self.size == 1:
            for move, delta in zip(self.moves, deltas, strict=True):
                hidden = _moved(hidden, move, delta, where)
            return hidden
        grouped = hidden.unflatten(0, (self.size, -1))
        if self.is_uniform:
            shape = (self.size, *[1] * (grouped.ndim - 2), -1)
            return self.moves[0].operator(grouped, deltas.reshape(shape)).flatten(0, 1)
        parts = list(grouped)
        for move, delta in zip(self.moves, deltas, strict=True):
            parts[move.row] = _moved(parts[move.row], move, delta, where)
        return torch.stack(parts).flatten(0, 1)


def _moved(hidden: Tensor, move: Move, delta: Tensor, where: Where) -> Tensor:
    tokens = where(move.positions, hidden)
    if tokens is False:
        return hidden
    moved = move.operator(hidden, delta)
    if tokens is True:
        return moved
    # [B, n] over [B, n, H], or over [B, n, streams, H] of hyper-connections
    return torch.where(tokens.to(hidden.device)[(..., *[None] * (hidden.ndim - tokens.ndim))], moved, hidden)


@contextmanager
def applied(
    model: PreTrainedModel,
    resolved: ResolvedSteering | ResolvedTokens | None,
    prompt_lengths: Tensor | None = None,
    first_pass_is_prompt: bool = True,
) -> Generator[None, None, None]:
    """Register the hooks of one resolved steering for the duration of the block, and always remove them.

    Args:
        model: A Hugging Face causal, sequence-to-sequence or vision-language model.
        resolved: What to apply, virtual tokens included; None leaves the model untouched.
        prompt_lengths: `[B]` tokens of each row that belong to the prompt, padding not counted, where a forward pass
            holds prompt and response together (`[1]` for all rows alike); without it the first pass, or what
            `generate` is given, counts as prompt. Encoder-decoder models: of the decoder's tokens.
        first_pass_is_prompt: False refuses, without `prompt_lengths`, position rules in passes outside `generate`.

    Raises:
        GrainsError: a layer that the model lacks, a width that differs from the model's, or, by then or during a
            forward pass, a position rule whose tokens cannot be told.
    """
    if resolved is None:
        yield
        return
    if isinstance(resolved, ResolvedTokens):
        with shown(model, [[resolved]]):
            yield
        return
    modules = site_modules(model, resolved.site)
    rule = resolved.positions
    progress = None if rule == "all" else Progress(rule, prompt_lengths, first_pass_is_prompt)
    where: Where = everywhere if progress is None else lambda positions, hidden: progress.moved(hidden)
    with ExitStack() as stack:
        if progress is not None:
            stack.enter_context(progress.following(model))
        for layer, delta in resolved.deltas.items():
            check_layer(layer, len(modules))
            mover = Mover((Move(resolved.operator, rule, delta),))
            stack.callback(hook_site(modules[layer], resolved.site, partial(mover.move, where=where)).remove)
        yield


@contextmanager
def steered(
    model: PreTrainedModel,
    vectors: SteeringVectors,
    config: SteeringConfig | None = None,
    prompt_lengths: Tensor | None = None,
) -> Generator[PreTrainedModel, None, None]:
    """Steer a model inside a `with` block; nest it to compose vectors.

    Correct under batching with padding on either side, every way of decoding that `generate` has (with and without
    cache, in chunks, beams, drafts), adapters of PEFT and `device_map`; padding tokens may be moved too, which no real
    token sees.

    Args:
        model: A Hugging Face model.
        vectors: What to apply.
        config: How; the vectors' recommended setting by default.
        prompt_lengths: See `applied`.

    Yields:
        The same model.

    Raises:
        GrainsError: no Hugging Face model, unknown operator or layer, or vectors of another width.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
        raise GrainsError(f"steered takes a Hugging Face model, not a {type(model).__name__}; hand over its `.model`")
    check_width(model, vectors)
    with applied(model, resolve(vectors, config or vectors.recommended), prompt_lengths):
        yield model


def check_width(model: PreTrainedModel, vectors: SteeringVectors) -> None:
    """Refuse vectors that do not fit the model.

    Raises:
        GrainsError: a wrong hidden size or a layer out of range.
    """
    depth = len(find_layers(model))
    for layer, direction in vectors.directions.items():
        check_layer(layer, depth)
        if vectors.site == "block_output":
            expected = int(model.config.get_text_config(decoder=True).hidden_size)
        else:
            projection = find_attention_outputs(model)[layer]
            # GPT-2's Conv1D calls its input width nx
            expected = int(getattr(projection, "in_features", getattr(projection, "nx", direction.shape[-1])))
        if direction.shape != (expected,):
            raise GrainsError(
                f"vectors have width {direction.shape[-1]} at layer {layer} but the model needs {expected}; "
                "they were built for another model"
            )


def check_layer(layer: int, depth: int) -> None:
    """Refuse a layer index that the model lacks."""
    if not 0 <= layer < depth:
        raise GrainsError(f"layer {layer} is out of range; the model has layers 0 to {depth - 1}")


def _ranges(layers: tuple[int, ...]) -> str:
    """`(0, 1, 2, 5)` as `0-2, 5`."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "none"
