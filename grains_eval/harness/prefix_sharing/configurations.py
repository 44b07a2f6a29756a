"""Several steering configurations along the batch of one forward pass, from the first layer they change.

Rows `s * R ... (s + 1) * R - 1` of a batch of `S * R` belong to configuration `s`. Layers below the first
steered one are not computed again: they hand their input on, and the last of them returns the output that the
unsteered pass saved. The model's own forward runs throughout, so that its masks, positions and anything it
does between layers are its own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.models.hooks import hook_site, site_modules
from grains_eval.models.layers import find_layers, hidden_of, with_hidden
from grains_eval.steering import Move, Mover, ResolvedSteering, check_layer
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


def resume_layer(configuration: Configuration) -> int:
    """The first layer that must be computed again: after a steered output, or the one with a steered head or token."""
    return min(
        one.first_layer + (isinstance(one, ResolvedSteering) and one.site == "block_output") for one in configuration
    )


def answers_only(configuration: Configuration) -> bool:
    """Whether no token of a prompt is moved, so that the unsteered prompt serves."""
    return all(steering.positions == "generated" for steering in configuration)


@dataclass(frozen=True)
class TokenRoles:
    """What each token of a pass is; `R` rows of `n` tokens.

    Attributes:
        in_prompt: `[R, n]` bool on the CPU.
        is_last: `[R, n]` bool on the CPU, the last prompt token.
    """

    in_prompt: Tensor
    is_last: Tensor

    def where(self, positions: Positions, hidden: Tensor) -> Tensor | bool:
        """`[R, n]` tokens that a position rule moves; True or False where that is all or none of them."""
        del hidden
        if positions == "all":
            return True
        mask = {"prompt": self.in_prompt, "generated": ~self.in_prompt, "last": self.is_last}[positions]
        return mask if bool(mask.any()) else False


class Stack:
    """`S` configurations that resume at the same layer."""

    def __init__(self, model: PreTrainedModel, configurations: Sequence[Configuration]) -> None:
        self.size = len(configurations)
        self.layers = find_layers(model)
        self.model = model
        self.resume = min((resume_layer(each) for each in configurations if each), default=0)
        self._tokens = [[one for one in each if isinstance(one, ResolvedTokens)] for each in configurations]
        for one in (one for each in self._tokens for one in each):
            check_fit(layout(model), one)
        found: dict[tuple[Site, int], list[Move]] = {}
        for row, configuration in enumerate(configurations):
            for steering in configuration:
                if isinstance(steering, ResolvedTokens):
                    continue
                for layer, delta in steering.deltas.items():
                    check_layer(layer, len(self.layers))
                    move = Move(steering.operator, steering.positions, delta, row)
                    found.setdefault((steering.site, layer), []).append(move)
        modules = {site: site_modules(model, site) for site, _ in found}
        self._sites: list[tuple[Site, nn.Module, Mover]] = [
            (site, modules[site][layer], Mover(tuple(moves), self.size)) for (site, layer), moves in found.items()
        ]

    @contextmanager
    def applied(self, roles: TokenRoles) -> Generator[None, None, None]:
        """Steer one forward pass."""
        with ExitStack() as hooks:
            for site, module, mover in self._sites:
                hooks.callback(hook_site(module, site, partial(mover.move, where=roles.where)).remove)
            hooks.enter_context(shown(self.model, self._tokens))
            yield

    @contextmanager
    def resumed(self, saved: Mapping[int, Any]) -> Generator[None, None, None]:
        """Skip the layers below `resume`; the last returns its saved output `[R, n, H]` per configuration."""
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
                layer = self.layers[index]
                # an instance attribute `forward` may be there already (accelerate puts one)
                restored.callback(_restore, layer, layer.__dict__.get("forward"))
                layer.forward = give_back if index == self.resume - 1 else hand_on
            yield


def _restore(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.forward = forward


@contextmanager
def keeping(layers: nn.ModuleList, indices: Sequence[int], kept: dict[int, Any]) -> Generator[None, None, None]:
    """Save the outputs of the given layers in `kept`."""
    with ExitStack() as hooks:
        for index in indices:

            def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any, index: int = index) -> None:
                del module, arguments
                kept[index] = output

            hooks.callback(layers[index].register_forward_hook(keep).remove)
        yield
