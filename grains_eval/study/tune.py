"""Choose layer and strength on development examples, never on what is reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from statsmodels.stats.proportion import proportion_confint

from grains_eval.errors import GrainsError
from grains_eval.models import EncodedExample, LoadedModel, encode
from grains_eval.models.forward import response_logprobs
from grains_eval.recipes import Recipe
from grains_eval.steering import applied, resolve
from grains_eval.types import PreferenceExample, SteeringConfig, SteeringVectors
from grains_eval.vectors.context import Progress, silent

logger = logging.getLogger(__name__)

_MOST_LAYERS = 8


@dataclass(frozen=True)
class CurvePoint:
    """One setting, measured on development examples.

    Attributes:
        config: The setting; strength 0 is the unsteered model.
        accuracy: Share of examples with `log p(y+ | x) > log p(y- | x)`.
        lower: Lower end of its 95 % Wilson interval.
        margin: Mean of `log p(y+ | x) - log p(y- | x)`, nats.
        n: Number of examples.
    """

    config: SteeringConfig
    accuracy: float
    lower: float
    margin: float
    n: int


def fixed_setting(recipe: Recipe) -> SteeringConfig | None:
    """The recipe's setting where it leaves nothing to choose, else None."""
    section = recipe.steering
    if section.layers == "auto" or section.strength == "auto":
        return None
    return SteeringConfig(
        layers=tuple(section.layers),
        strength=section.strength,
        unit=section.unit,
        operator=section.operator,
        positions=section.positions,
    )


def grid(vectors: SteeringVectors, recipe: Recipe) -> list[SteeringConfig]:
    """The settings among which `auto` chooses: single layers, evenly spaced, times the recipe's strengths."""
    section = recipe.steering
    if section.layers != "auto":
        choices: list[tuple[int, ...]] = [tuple(section.layers)]
    else:
        known = vectors.layers
        several = section.candidate_layers or [
            known[round(i * (len(known) - 1) / max(1, _MOST_LAYERS - 1))] for i in range(_MOST_LAYERS)
        ]
        choices = [(layer,) for layer in dict.fromkeys(several if len(known) > _MOST_LAYERS or section.candidate_layers else known)]
    strengths = section.strengths if section.strength == "auto" else [section.strength]
    return [
        SteeringConfig(layers, strength, section.unit, section.operator, section.positions)
        for layers in choices
        for strength in strengths
    ]


@torch.no_grad()
def preference_margins(
    loaded: LoadedModel, examples: Sequence[EncodedExample], vectors: SteeringVectors, config: SteeringConfig
) -> torch.Tensor:
    """`log p(y+ | x) - log p(y- | x)` of each example under steering, `[N]` float32, nats."""
    with applied(loaded.model, resolve(vectors, config)):
        pairs = [response_logprobs(loaded.model, one, one.embeddings[None])[0].cpu() for one in examples]
    return torch.stack([pair[0] - pair[1] for pair in pairs])


def curve(
    loaded: LoadedModel,
    vectors: SteeringVectors,
    development: Sequence[PreferenceExample],
    settings: Sequence[SteeringConfig],
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Measure settings on development examples."""
    encoded = [encode(loaded, example) for example in development]
    points: list[CurvePoint] = []
    for config in progress(settings, "development curve"):  # pyright: ignore[reportArgumentType] - any sequence
        margins = preference_margins(loaded, encoded, vectors, config)  # pyright: ignore[reportArgumentType]
        right, n = int((margins > 0).sum()), len(margins)
        lower = float(proportion_confint(right, n, method="wilson")[0])
        points.append(CurvePoint(config, right / n, lower, float(margins.mean()), n))  # pyright: ignore
    return points


def choose_setting(
    loaded: LoadedModel,
    vectors: SteeringVectors,
    development: Sequence[PreferenceExample],
    recipe: Recipe,
    progress: Progress = silent,
) -> tuple[SteeringConfig, str | None]:
    """The recipe's own setting, or the best of its grid on development examples.

    The largest lower confidence bound of the preference accuracy wins; ties go to the smaller strength, then to the
    larger mean margin.

    Returns:
        The setting, and in words how it was chosen (None where the recipe fixed it).

    Raises:
        GrainsError: something is `auto` but there are no development examples.
    """
    fixed = fixed_setting(recipe)
    if fixed is not None:
        return fixed, None
    if not development:
        raise GrainsError(
            "steering.layers or steering.strength is auto but data.development is 0; "
            "give development examples, or fix both"
        )
    points = curve(loaded, vectors, development, grid(vectors, recipe), progress)
    best = max(points, key=lambda point: (point.lower, -abs(point.config.strength), point.margin))
    reason = (
        f"among {len(points)} settings on {best.n} development examples: preference accuracy {best.accuracy:.3f} "
        f"(lower bound {best.lower:.3f})"
    )
    return best.config, reason
