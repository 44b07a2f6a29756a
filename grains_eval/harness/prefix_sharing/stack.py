"""Several steering configurations along the batch of one forward pass, from the first block they change.

Rows `s * R ... (s + 1) * R - 1` of a batch of `S * R` belong to configuration `s`. Blocks below the first
steered one are not computed again: they hand their input on, and the last of them returns the output that the
unsteered pass saved. The model's own forward runs throughout, so that its masks, positions and anything it
does between blocks are its own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.models.blocks import find_attention_outputs, find_blocks, hidden_of, with_hidden
from grains_eval.steering import Operator, ResolvedSteering, check_layer
from grains_eval.types import Positions, Site
from grains_eval.virtual_tokens import ResolvedTokens, check_fit, layout, shown

Configuration = tuple[ResolvedSteering | ResolvedTokens, ...]
"""Steerings and virtual tokens applied together; the empty tuple is the unsteered model."""


def moving(configuration: Sequence[ResolvedSteering | ResolvedTokens | None]) -> Configuration:
    """Leave out whatever moves nothing, so that strength 0 is the unsteered model and nothing else."""
    kept: list[ResolvedSteering | ResolvedTokens] = []
    for steering in configuration:
        if isinstance(steering, ResolvedTokens):
            kept.append(steering)
            continue
        deltas = {} if steering is None else {k: v for k, v in steering.deltas.items() if bool((v != 0).any())}
        if steering is not None and deltas:
            kept.append(ResolvedSteering(deltas, steering.site, steering.operator, steering.positions))
    return tuple(kept)


def resume_block(configuration: Configuration) -> int:
    """The first block that must be computed again: after a steered output, or the one with a steered head or token."""
    return min(
        one.first_layer + (isinstance(one, ResolvedSteering) and one.site == "block_output") for one in configuration
    )


def answers_only(configuration: Configuration) -> bool:
    """Whether no token of a prompt is moved, so that the unsteered prompt serves."""
    return all(steering.positions == "generated" for steering in configuration)


@dataclass(frozen=True)
class Roles:
    """What each token of a pass is; `R` rows of `n` tokens.

    Attributes:
        in_prompt: `[R, n]` bool on the CPU.
        is_last: `[R, n]` bool on the CPU, the last prompt token.
    """

    in_prompt: Tensor
    is_last: Tensor

    def where(self, positions: Positions) -> Tensor | bool:
        """`[R, n]` tokens that a position rule moves; True or False where that is all or none of them."""
        if positions == "all":
            return True
        mask = {"prompt": self.in_prompt, "generated": ~self.in_prompt, "last": self.is_last}[positions]
        return mask if bool(mask.any()) else False


@dataclass(frozen=True)
class _Move:
    """One steering of one configuration at one module; delta `[H]`."""

    row: int
    operator: Operator
    positions: Positions
    delta: Tensor


@dataclass
class _Mover:
    """All moves at one module. Deltas are kept on the devices where they were needed."""

    size: int
    moves: tuple[_Move, ...]
    roles: Roles | None = None
    placed: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])
    alike: bool = False

    def __post_init__(self) -> None:
        """See whether one operation does for the whole stack."""
        rows = [move.row for move in self.moves]
        kinds = {(move.operator, move.positions) for move in self.moves}
        self.alike = rows == list(range(self.size)) and len(kinds) == 1 and self.moves[0].positions == "all"

    def __call__(self, hidden: Tensor) -> Tensor:
        """Move hidden states `[S * R, n, H]`."""
        grouped = hidden.unflatten(0, (self.size, -1))
        if self.alike:
            return self.moves[0].operator(grouped, self._deltas(hidden.device)[:, None, None]).flatten(0, 1)
        parts = list(grouped)
        for move, delta in zip(self.moves, self._deltas(hidden.device), strict=True):
            assert self.roles is not None
            where = self.roles.where(move.positions)
            if where is not False:
                new = move.operator(parts[move.row], delta)
                old = parts[move.row]
                parts[move.row] = new if where is True else torch.where(where.to(hidden.device)[..., None], new, old)
        return torch.stack(parts).flatten(0, 1)

    def _deltas(self, device: torch.device) -> Tensor:
        """`[moves, H]` on the device of the hidden states."""
        if device not in self.placed:
            self.placed[device] = torch.stack([move.delta for move in self.moves]).to(device)
        return self.placed[device]

    def after(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        del module, arguments
        return with_hidden(output, self(hidden_of(output)))

    def before(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        return (self(arguments[0]), *arguments[1:])


class Stack:
    """`S` configurations that resume at the same block."""

    def __init__(self, model: PreTrainedModel, configurations: Sequence[Configuration]) -> None:
        self.size = len(configurations)
        self.blocks = find_blocks(model)
        self.model = model
        self.resume = min((resume_block(each) for each in configurations if each), default=0)
        self._tokens = [[one for one in each if isinstance(one, ResolvedTokens)] for each in configurations]
        for one in (one for each in self._tokens for one in each):
            check_fit(layout(model), one)
        found: dict[tuple[Site, int], list[_Move]] = {}
        for row, configuration in enumerate(configurations):
            for steering in configuration:
                if isinstance(steering, ResolvedTokens):
                    continue
                for layer, delta in steering.deltas.items():
                    check_layer(layer, len(self.blocks))
                    move = _Move(row, steering.operator, steering.positions, delta)
                    found.setdefault((steering.site, layer), []).append(move)
        heads = find_attention_outputs(model) if any(site == "attention_heads" for site, _ in found) else []
        self._sites: list[tuple[Site, nn.Module, _Mover]] = [
            (
                site,
                self.blocks[layer] if site == "block_output" else heads[layer],
                _Mover(self.size, tuple(moves)),
            )
            for (site, layer), moves in found.items()
        ]

    @contextmanager
    def applied(self, roles: Roles) -> Generator[None, None, None]:
        """Steer one forward pass."""
        with ExitStack() as hooks:
            for site, module, mover in self._sites:
                mover.roles = roles
                handle = (
                    module.register_forward_hook(mover.after)
                    if site == "block_output"
                    else module.register_forward_pre_hook(mover.before)
                )
                hooks.callback(handle.remove)
            hooks.enter_context(shown(self.model, self._tokens))
            yield

    @contextmanager
    def resumed(self, saved: Mapping[int, Any]) -> Generator[None, None, None]:
        """Skip the blocks below `resume`; the last returns its saved output `[R, n, H]` per configuration."""
        if self.resume == 0:
            yield
            return
        output = saved[self.resume - 1]
        hidden = hidden_of(output)
        repeated = with_hidden(output, hidden.repeat(self.size, *[1] * (hidden.ndim - 1)))

        def hand_on(*arguments: Any, **keywords: Any) -> Any:
            return with_hidden(output, arguments[0] if arguments else keywords["hidden_states"])

        def give_back(*arguments: Any, **keywords: Any) -> Any:
            del arguments, keywords
            return repeated

        with ExitStack() as restored:
            for index in range(self.resume):
                block = self.blocks[index]
                # an instance attribute `forward` may be there already (accelerate puts one)
                restored.callback(_restore, block, block.__dict__.get("forward"))
                block.forward = give_back if index == self.resume - 1 else hand_on
            yield


def _restore(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.__dict__["forward"]
    else:
        block.forward = forward


@contextmanager
def keeping(blocks: nn.ModuleList, indices: Sequence[int], kept: dict[int, Any]) -> Generator[None, None, None]:
    """Save the outputs of the given blocks in `kept`."""
    with ExitStack() as hooks:
        for index in indices:

            def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any, index: int = index) -> None:
                del module, arguments
                kept[index] = output

            hooks.callback(blocks[index].register_forward_hook(keep).remove)
        yield
