"""Choose layer and strength on development items, never on what is reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from statsmodels.stats.proportion import proportion_confint

from grains_eval.errors import GrainsError
from grains_eval.harness.stacking import Configuration
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe
from grains_eval.steering import resolve
from grains_eval.study.development import DevelopmentSet, preference_margins, preserved_accuracy
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors import METHOD_STEERING, steering_section
from grains_eval.vectors.context import Progress, silent

logger = logging.getLogger(__name__)

_MOST_LAYERS = 8


@dataclass(frozen=True)
class CurvePoint:
    """One setting, measured on development items.

    Attributes:
        config: The setting; strength 0 is the unsteered model.
        accuracy: Share of examples with `log p(y+ | x) > log p(y- | x)`.
        lower: Lower end of its 95 % Wilson interval.
        upper: Upper end.
        margin: Mean of `log p(y+ | x) - log p(y- | x)`, nats.
        n: Number of preference examples.
        preserved: Accuracy on the preserved items; NaN without any.
        preserved_n: Number of those.
    """

    config: SteeringConfig
    accuracy: float
    lower: float
    upper: float
    margin: float
    n: int
    preserved: float
    preserved_n: int = 0


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        config: The setting.
        reason: In words; None where the recipe left nothing to choose.
        points: The curve behind it, the unsteered model first; empty where nothing was chosen.
    """

    config: SteeringConfig
    reason: str | None
    points: tuple[CurvePoint, ...] = ()


def fixed_setting(recipe: Recipe) -> SteeringConfig | None:
    """The recipe's setting where it leaves nothing to choose, else None."""
    section = steering_section(recipe)
    if section.layers == "auto" or section.strength == "auto":
        return None
    layers = None if section.layers == "all" else tuple(section.layers)
    return SteeringConfig(layers, section.strength, section.unit, section.operator, section.positions)


def grid(
    vectors: SteeringVectors,
    recipe: Recipe,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] | None = None,
) -> list[SteeringConfig]:
    """Settings to choose among: single layers, at most eight and evenly spaced unless given, times strengths.

    A baseline method that steers all layers at once gets as many settings by more strengths over the same range, so
    that every method has the same budget.
    """
    section = steering_section(recipe)
    known = vectors.layers
    candidates = layers or section.candidate_layers
    values = strengths or (section.strengths if section.strength == "auto" else [section.strength])
    if section.layers == "all" and layers is None:
        choices: list[tuple[int, ...] | None] = [None]
        if strengths is None and section.strength == "auto" and recipe.vectors.method in METHOD_STEERING:
            values = spread(values, len(values) * len(candidates or known[:_MOST_LAYERS]))
    elif candidates is not None:
        choices = [(layer,) for layer in candidates]
    elif section.layers not in ("auto", "all"):
        choices = [tuple(section.layers)]
    elif len(known) <= _MOST_LAYERS:
        choices = [(layer,) for layer in known]
    else:
        spaced = (round(i * (len(known) - 1) / (_MOST_LAYERS - 1)) for i in range(_MOST_LAYERS))
        choices = [(known[index],) for index in dict.fromkeys(spaced)]
    return [
        SteeringConfig(chosen, strength, section.unit, section.operator, section.positions)
        for chosen in choices
        for strength in values
    ]


def spread(strengths: Sequence[float], count: int) -> list[float]:
    """`count` strengths at equal ratios over the range of the given ones; those as they are where a ratio is none."""
    low, high = min(strengths), max(strengths)
    if low <= 0 or low == high or count < 2:
        return list(strengths)
    return [low * (high / low) ** (index / (count - 1)) for index in range(count)]


def curve(
    loaded: LoadedModel,
    vectors: SteeringVectors,
    development: DevelopmentSet,
    settings: Sequence[SteeringConfig],
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Measure settings on the development set; the unsteered model comes first.

    Raises:
        GrainsError: no development examples, or a setting that the vectors do not have.
    """
    tried = [SteeringConfig(strength=0.0), *settings]
    resolved = [resolve(vectors, setting) for setting in tried]
    configurations: list[Configuration] = [() if one is None else (one,) for one in resolved]
    margins = preference_margins(loaded, development.preference, configurations, progress)
    preserved = preserved_accuracy(loaded, development.preserved, configurations)
    points: list[CurvePoint] = []
    for setting, row, kept in zip(tried, margins, preserved, strict=True):
        right, n = int((row > 0).sum()), len(row)
        lower, upper = cast("tuple[float, float]", proportion_confint(right, n, method="wilson"))
        watched = len(development.preserved)
        points.append(CurvePoint(setting, right / n, float(lower), float(upper), float(row.mean()), n, kept, watched))
    return points


def choose(points: Sequence[CurvePoint], margin: float) -> Choice:
    """The point with the largest lower confidence bound among those that keep the preserved tasks.

    Kept means that accuracy on the preserved development items fell by no more than `margin`, or by one item where the
    margin is finer than that: a set of 24 cannot tell a loss of one point. Ties go to the smaller strength, then to
    the larger mean margin. Where no setting keeps them, or none is better than the unsteered model,
    the choice is strength 0, and the reason says so: there is no fallback to an unconstrained choice.
    """
    unsteered, settings = points[0], list(points[1:])
    watched = unsteered.preserved == unsteered.preserved
    allowance = max(margin, 1 / unsteered.preserved_n) if unsteered.preserved_n else margin
    allowed = [p for p in settings if not watched or p.preserved >= unsteered.preserved - allowance - 1e-12]
    constraint = (
        f"with accuracy on preserved items within {allowance:.3g} of {unsteered.preserved:.3f}"
        if watched
        else "with no preserved items to watch"
    )
    if not allowed:
        reason = f"none of {len(settings)} settings was {constraint}: strength 0, the unsteered model"
        logger.warning("%s", reason)
        return Choice(replace(settings[0].config, strength=0.0), reason, tuple(points))
    best = max(allowed, key=lambda p: (p.lower, -abs(p.config.strength), p.margin))
    if best.lower <= unsteered.lower:
        reason = (
            f"strength 0, since none of {len(settings)} settings, {constraint}, prefers y+ more often than the "
            f"unsteered model on {best.n} development examples ({best.accuracy:.3f} against {unsteered.accuracy:.3f})"
        )
        logger.warning("%s", reason)
        return Choice(replace(best.config, strength=0.0), reason, tuple(points))
    reason = (
        f"among {len(settings)} settings on {best.n} development examples, {constraint}: preference accuracy "
        f"{best.accuracy:.3f} (95 % lower bound {best.lower:.3f}), unsteered {unsteered.accuracy:.3f}"
    )
    return Choice(best.config, reason, tuple(points))


def choose_setting(
    loaded: LoadedModel,
    vectors: SteeringVectors,
    development: DevelopmentSet,
    recipe: Recipe,
    progress: Progress = silent,
) -> Choice:
    """The recipe's own setting, or the best of its grid on the development set.

    A baseline method has its own operator, unit and strengths (`vectors.METHOD_STEERING`) and is tuned on the same
    development items; without any it is applied as in its source.

    Raises:
        GrainsError: something is `auto` but there are no development examples.
    """
    fixed = fixed_setting(recipe)
    if fixed is not None:
        return Choice(fixed, None)
    own = METHOD_STEERING.get(recipe.vectors.method)
    if not development.preference and own is not None:
        return Choice(own.untuned(vectors), "as in the method's source: there are no development examples to tune on")
    if not development.preference:
        raise GrainsError(
            "steering.layers or steering.strength is auto but data.development is 0; "
            "give development examples, or fix both"
        )
    chosen = choose(curve(loaded, vectors, development, grid(vectors, recipe), progress), recipe.evaluation.margin)
    notes = "".join(f"; {note}" for note in development.notes)
    return replace(chosen, reason=f"{chosen.reason}{notes}")
