"""The model's own rotary position embedding, asked for positions other than the ones it runs.

A key that stands `d` tokens before every query is rotated to position `p - d` for the query at `p` (RoFormer, Su et al.
2021, arXiv 2104.09864: scores depend on the difference alone). Nothing is written again here: angles come from the
model's rotary module as it stands, the rotation from the function in the attention's own module, so that scaled,
partial and interleaved variants are theirs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Angles = tuple[Tensor, Tensor]
"""Cosines and sines `[B or 1, n, width]` of `n` positions."""

_ROTATE = "apply_rotary_pos_emb"


def rotary_modules(decoder: nn.Module) -> list[nn.Module]:
    """Modules that turn positions into angles: those that hold inverse frequencies."""
    return [
        module
        for module in decoder.modules()
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    ]


def angles_at(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], positions: Tensor) -> Angles:
    """What a rotary module would have given for other positions than those in a call of it.

    The undecorated forward is called: what `dynamic` and `longrope` frequencies have been set to stays as it is.
    """
    forward = inspect.unwrap(type(module).forward)
    bound = inspect.signature(forward).bind(module, *arguments, **keywords)
    bound.arguments["position_ids"] = positions
    with torch.no_grad():
        return forward(*bound.args, **bound.kwargs)


def called_positions(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """The `position_ids` that a rotary module was called with; None where it takes none."""
    try:
        bound = inspect.signature(inspect.unwrap(type(module).forward)).bind(module, *arguments, **keywords)
    except TypeError:
        return None
    found = bound.arguments.get("position_ids")
    return found if isinstance(found, Tensor) else None


def rotation_of(attention: nn.Module) -> Callable[..., Any] | None:
    """The function by which an attention module rotates queries and keys; None without one."""
    return getattr(sys.modules[type(attention).__module__], _ROTATE, None)


def rotate(function: Callable[..., Any], states: Tensor, angles: Angles) -> Tensor:
    """Rotate `[B, heads, n, width]`; what a model leaves unrotated (partial rotary) stays as it is."""
    cos, sin = angles
    width = cos.shape[-1]
    states = states.expand(max(len(states), len(cos)), -1, -1, -1)
    query = states[:, :1]  # the function wants one too
    if width < states.shape[-1]:
        try:
            return function(query, states, cos, sin)[1]  # it knows what to leave, or has one angle for two dimensions
        except RuntimeError:
            return torch.cat([function(query[..., :width], states[..., :width], cos, sin)[1], states[..., width:]], -1)
    return function(query, states, cos, sin)[1]


def rotate_back(function: Callable[..., Any], states: Tensor, angles: Angles) -> Tensor:
    """Undo `rotate`, with its scale (YaRN multiplies angles by one)."""
    cos, sin = (each.to(states.dtype) for each in angles)
    scale = cos * cos + sin * sin
    return rotate(function, states, (cos / scale, -sin / scale))
