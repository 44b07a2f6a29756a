"""Steering settings as rows of the tables that an engine's layers hold, and the salts that keep their caches apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.steering import OPERATORS, ResolvedSteering
from grains_eval.types import Positions
from grains_eval.virtual_tokens import ResolvedTokens

# codes in the tables; 0 moves nothing
OPERATOR_CODES: Mapping[str, int] = {"add": 1, "add_renormalised": 2}
POSITION_CODES: Mapping[Positions, int] = {"all": 0, "prompt": 1, "generated": 2, "last": 3}


@dataclass(frozen=True)
class Stage:
    """One operation per layer; the stages of a setting act one after another.

    Attributes:
        deltas: `{layer: [hidden] float32}`.
        operators: `{layer: name}`.
        positions: Tokens that are moved.
    """

    deltas: Mapping[int, Tensor]
    operators: Mapping[int, str]
    positions: Positions


@dataclass(frozen=True)
class Setting:
    """What one request is steered by; no stages is the plain model."""

    stages: tuple[Stage, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that it moves."""
        return tuple(sorted({layer for stage in self.stages for layer in stage.deltas}))

    @property
    def by_position(self) -> bool:
        """Whether it matters where the prompt ends."""
        return any(stage.positions != "all" for stage in self.stages)

    def digest(self) -> str:
        """Identifies every number, operator and position rule; empty for the plain model."""
        if not self.stages:
            return ""
        found = hashlib.sha256()
        for stage in self.stages:
            found.update(f"stage {stage.positions}".encode())
            for layer in sorted(stage.deltas):
                found.update(f"layer {layer} {stage.operators[layer]}".encode())
                found.update(_bytes(stage.deltas[layer]))
        return found.hexdigest()


def setting_of(
    configuration: Sequence[ResolvedSteering | ResolvedTokens | None], source: str = "the vectors"
) -> Setting:
    """Turn what `steering.resolve` gave into stages, as few as possible: steerings that share no layer share one.

    Raises:
        GrainsError: vectors at attention heads, which tensor parallelism splits, virtual tokens, or an operator that is
            not in `OPERATOR_CODES`.
    """
    stages: list[Stage] = []
    for steering in configuration:
        if steering is None:
            continue
        if isinstance(steering, ResolvedTokens):
            raise GrainsError(f"{source}: virtual tokens cannot be shown in vLLM; evaluate with grains_hf")
        if steering.site != "block_output":
            raise GrainsError(
                f"{source}: site {steering.site} cannot be steered in vLLM, which fuses and shards attention heads; "
                "evaluate with grains_hf, or build at block_output"
            )
        name = next(name for name, operator in OPERATORS.items() if operator is steering.operator)
        if name not in OPERATOR_CODES:
            known = " and ".join(OPERATOR_CODES)
            raise GrainsError(
                f"{source}: operator {name} cannot act in vLLM, where {known} can; evaluate with grains_hf"
            )
        deltas = {layer: delta.float().cpu() for layer, delta in steering.deltas.items() if bool((delta != 0).any())}
        if not deltas:
            continue
        new = Stage(deltas, dict.fromkeys(deltas, name), steering.positions)
        joined = _joined(stages[-1], new) if stages else None
        if joined is None:
            stages.append(new)
        else:
            stages[-1] = joined
    return Setting(tuple(stages))


def _joined(first: Stage, second: Stage) -> Stage | None:
    """Both as one stage; None where the second must see what the first has moved."""
    if first.positions != second.positions or set(first.deltas) & set(second.deltas):
        return None
    return Stage({**first.deltas, **second.deltas}, {**first.operators, **second.operators}, positions=first.positions)


def salt(digest: str, strength: float, prompt: int | None) -> str | None:
    """The part of the prefix cache that a request may share: None, the plain model's, where nothing moves it.

    Args:
        digest: Of its setting.
        strength: What the setting's deltas are multiplied with.
        prompt: Tokens before the answer, where the setting's position rules depend on it.
    """
    if not digest or strength == 0:
        return None
    return hashlib.sha256(f"{digest} {float(strength).hex()} {prompt}".encode()).hexdigest()


def pack(settings: Sequence[Setting]) -> list[list[dict[str, Any]]]:
    """Settings as plain values and bytes, to be sent to every rank."""
    return [
        [
            {
                "positions": stage.positions,
                "layers": {
                    str(layer): {"operator": stage.operators[layer], "delta": _bytes(stage.deltas[layer])}
                    for layer in stage.deltas
                },
            }
            for stage in setting.stages
        ]
        for setting in settings
    ]


def unpack(packed: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Setting, ...]:
    """What `pack` packed."""
    settings: list[Setting] = []
    for stages in packed:
        made: list[Stage] = []
        for stage in stages:
            layers = {int(layer): value for layer, value in stage["layers"].items()}
            made.append(
                Stage(
                    {layer: _tensor(value["delta"]) for layer, value in layers.items()},
                    {layer: value["operator"] for layer, value in layers.items()},
                    stage["positions"],
                )
            )
        settings.append(Setting(tuple(made)))
    return tuple(settings)


def _bytes(delta: Tensor) -> bytes:
    return delta.detach().float().cpu().contiguous().numpy().tobytes()


def _tensor(raw: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(raw, dtype=np.float32).copy())
