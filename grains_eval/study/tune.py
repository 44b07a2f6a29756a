"""Choose layer and strength on development items, never on what is reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import nan
from typing import cast

from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.models import LoadedModel
from grains_eval.progress import Progress, silent
from grains_eval.recipes import Evaluation, Recipe
from grains_eval.steering import resolve
from grains_eval.study.development_set import DevelopmentSet, chosen_lengths, preference_logprobs, preserved_accuracy
from grains_eval.types import SteeringConfig, SteeringVectors, TokenConfig
from grains_eval.vectors import own_steering, steering_section
from grains_eval.vectors.own_steering import evenly_spaced

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurvePoint:
    """One setting, measured on development items.

    Attributes:
        config: The setting; strength 0, of found tokens minus infinity, is the unsteered model.
        accuracy: Share of examples with `log p(y+ | x) > log p(y- | x)`.
        lower: Lower end of its 95 % Wilson interval.
        upper: Upper end.
        margin: Mean of `log p(y+ | x) - log p(y- | x)`, nats.
        log_p_chosen: Mean of `log p(y+ | x)`, nats.
        log_p_rejected: Mean of `log p(y- | x)`, nats.
        log_p_chosen_per_token: Mean of `log p(y+ | x)` over the number of tokens of `y+`, nats.
        n: Number of preference examples.
        preserved: Accuracy on the preserved items; NaN without any.
        preserved_n: Number of those.
        log_p_chosen_error: Standard error of `log_p_chosen`; NaN of a single example.
    """

    config: SteeringConfig | TokenConfig
    accuracy: float
    lower: float
    upper: float
    margin: float
    log_p_chosen: float
    log_p_rejected: float
    log_p_chosen_per_token: float
    n: int
    preserved: float
    preserved_n: int = 0
    log_p_chosen_error: float = nan

    @property
    def rank(self) -> tuple[float, float, float]:
        """Larger is better: the lower bound, then the margin, then less strength (for LoRA, fewer epochs)."""
        return self.lower, self.margin, -abs(self.config.strength)

    def numbers(self) -> dict[str, float | None]:
        """What was measured, as JSON values; None where it was not."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "config"}
        return {name: value if value == value else None for name, value in values.items()}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        config: The setting.
        reason: In words; None where the recipe left nothing to choose.
        points: The curve behind it, the unsteered model first; empty where nothing was chosen.
    """

    config: SteeringConfig | TokenConfig
    reason: str | None
    points: tuple[CurvePoint, ...] = ()

    @property
    def point(self) -> CurvePoint:
        """What was measured at the chosen setting, that of the unsteered model where strength 0 was chosen."""
        return next((point for point in self.points if point.config == self.config), self.points[0])


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
        if strengths is None and section.strength == "auto" and own_steering(recipe) is not None:
            values = spread(values, len(values) * len(candidates or evenly_spaced(known)))
    elif candidates is not None:
        choices = [(layer,) for layer in candidates]
    elif section.layers not in ("auto", "all"):
        choices = [tuple(section.layers)]
    else:
        choices = [(layer,) for layer in evenly_spaced(known)]
    return [
        SteeringConfig(chosen, strength, section.unit, section.operator, section.positions)
        for chosen in choices
        for strength in values
    ]


def spread(strengths: Sequence[float], count: int) -> list[float]:
    """`count` strengths at equal ratios over the range of the given ones.

    A single strength, or a range that is not all positive, has no ratios and stays as it is.
    """
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
    return measured(loaded, development, tried, configurations, progress)


def measured(
    loaded: LoadedModel,
    development: DevelopmentSet,
    tried: Sequence[SteeringConfig | TokenConfig],
    configurations: Sequence[Configuration],
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Measure configurations, the unsteered model first, that stand for the settings `tried`.

    Raises:
        GrainsError: no development examples.
    """
    logprobs = preference_logprobs(loaded, development.preference, configurations, progress)
    preserved = preserved_accuracy(loaded, development.preserved, configurations, progress)
    return curve_points(loaded, development, tried, logprobs, preserved)


def curve_points(
    loaded: LoadedModel,
    development: DevelopmentSet,
    tried: Sequence[SteeringConfig | TokenConfig],
    logprobs: Tensor,
    preserved: Sequence[float],
) -> list[CurvePoint]:
    """Points of a curve from what was scored.

    Args:
        loaded: The model.
        development: What was measured on.
        tried: `S` settings.
        logprobs: `[S, N, 2]` log-probabilities of `y+` and `y-`, nats.
        preserved: `S` accuracies on preserved items; NaN without any.
    """
    lengths = chosen_lengths(loaded, development.preference)
    points: list[CurvePoint] = []
    for setting, rows, kept in zip(tried, logprobs, preserved, strict=True):
        chosen, rejected = rows.unbind(-1)
        margins = chosen - rejected
        right, n = int((margins > 0).sum()), len(margins)
        lower, upper = cast("tuple[float, float]", proportion_confint(right, n, method="wilson"))
        points.append(
            CurvePoint(
                config=setting,
                accuracy=right / n,
                lower=float(lower),
                upper=float(upper),
                margin=float(margins.mean()),
                log_p_chosen=float(chosen.mean()),
                log_p_rejected=float(rejected.mean()),
                log_p_chosen_per_token=float((chosen / lengths).mean()),
                n=n,
                preserved=kept,
                preserved_n=len(development.preserved),
                log_p_chosen_error=float(chosen.std() / n**0.5) if n > 1 else nan,
            )
        )
    return points


def choose(points: Sequence[CurvePoint], evaluation: Evaluation) -> Choice:
    """The best-ranked point among those that keep the preserved tasks and leave `y+` as likely as it was.

    The rank is the lower confidence bound of preference accuracy; ties go to the larger mean margin, then to the
    smaller strength. Preserved tasks are kept where accuracy on their development items fell by no more than
    `margin`, or by one item where the margin is finer than that: a set of 24 cannot tell a loss of one point. `y+` is
    as likely as it was where its mean log-probability per token fell by no more than `likelihood_margin`: preferring
    `y+` by making everything less likely is damage (Pal et al. 2024, arXiv 2402.13228, on the same in DPO). Where
    no setting meets both, or none is better than the unsteered model, the choice is strength 0, and the reason says
    so: there is no fallback to an unconstrained choice.
    """
    unsteered, settings = points[0], list(points[1:])
    off = unsteered.config.strength
    watched = unsteered.preserved == unsteered.preserved
    lost = max(evaluation.margin, 1 / unsteered.preserved_n) if unsteered.preserved_n else evaluation.margin
    keeping = [p for p in settings if not watched or p.preserved >= unsteered.preserved - lost - 1e-12]
    least = unsteered.log_p_chosen_per_token - evaluation.likelihood_margin
    allowed = [p for p in keeping if p.log_p_chosen_per_token >= least - 1e-9]
    constraint = (
        f"with accuracy on preserved items within {lost:.3g} of {unsteered.preserved:.3f}"
        if watched
        else "with no preserved items to watch"
    ) + f" and log p(y+) at most {evaluation.likelihood_margin:g} nats a token below the unsteered model's"
    refused = f"; {len(keeping) - len(allowed)} settings were refused for log p(y+) alone"
    refused = refused.replace("settings were", "setting was") if len(keeping) - len(allowed) == 1 else refused
    refused = refused if len(keeping) > len(allowed) else ""
    if not allowed:
        reason = f"none of {len(settings)} settings was {constraint}: strength {off:g}, the unsteered model{refused}"
        logger.warning("%s", reason)
        return Choice(replace(settings[0].config, strength=off), reason, tuple(points))
    best = max(allowed, key=lambda point: point.rank)
    if best.lower <= unsteered.lower:
        reason = (
            f"strength {off:g}, since none of {len(settings)} settings, {constraint}, prefers y+ more often than the "
            f"unsteered model on {best.n} development examples ({best.accuracy:.3f} against {unsteered.accuracy:.3f})"
            f"{refused}"
        )
        logger.warning("%s", reason)
        return Choice(replace(best.config, strength=off), reason, tuple(points))
    reason = (
        f"among {len(settings)} settings on {best.n} development examples, {constraint}: preference accuracy "
        f"{best.accuracy:.3f} (95 % lower bound {best.lower:.3f}), unsteered {unsteered.accuracy:.3f}; "
        f"mean log p(y+) {unsteered.log_p_chosen:.2f} to {best.log_p_chosen:.2f} nats, "
        f"log p(y-) {unsteered.log_p_rejected:.2f} to {best.log_p_rejected:.2f}{refused}"
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

    A baseline method has its own operator, unit and strengths (`vectors.own_steering`) and is tuned on the same
    development items; without any it is applied as in its source.

    Raises:
        GrainsError: something is `auto` but there are no development examples.
    """
    fixed = fixed_setting(recipe)
    if fixed is not None:
        return Choice(fixed, None)
    own = own_steering(recipe)
    if not development.preference and own is not None:
        return Choice(own.untuned(vectors), "as in the method's source: there are no development examples to tune on")
    if not development.preference:
        raise GrainsError(
            "steering.layers or steering.strength is auto but data.development is 0; "
            "give development examples, or fix both"
        )
    chosen = choose(curve(loaded, vectors, development, grid(vectors, recipe), progress), recipe.evaluation)
    notes = "".join(f"; {note}" for note in development.notes)
    return replace(chosen, reason=f"{chosen.reason}{notes}")
