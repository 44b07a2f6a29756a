"""Validation curves of found tokens: over strength, number of virtual tokens, distance and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from grains_eval.artifacts.layout import Artifact
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact, check_artifact
from grains_eval.study.development import DevelopmentSet
from grains_eval.study.tune import Choice, choose, measured
from grains_eval.types import FoundTokens, TokenConfig
from grains_eval.vectors import BuildContext
from grains_eval.virtual_tokens.merging import resolve_tokens

# logs of multiplicities: a third of a token, one, three, seven
STRENGTHS = (-1.0, 0.0, 1.1, 2.0)


def token_choices(
    context: BuildContext,
    found: FoundTokens,
    development: DevelopmentSet,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    distances: Sequence[int] | None = None,
) -> Mapping[str, Choice]:
    """The chosen strength and its curve for every number of virtual tokens and distance.

    Args:
        context: The build that found the tokens.
        found: The tokens.
        development: What is measured on.
        layers: Layers that see the tokens, each alone; default: all together.
        strengths: Logs of multiplicities; default: `STRENGTHS`.
        tokens: Numbers of virtual tokens; default: the recommended one.
        distances: Default: those that the tokens were found at.

    Raises:
        GrainsError: a setting that the tokens or the model do not have.
    """
    off = TokenConfig(strength=-inf)
    places = [found.recommended.layers] if layers is None else [(layer,) for layer in layers]
    choices: dict[str, Choice] = {}
    for count in tokens or [found.recommended.tokens]:
        for distance in distances or [found.recommended.distance]:
            settings = [
                TokenConfig(place, strength, count, distance) for place in places for strength in strengths or STRENGTHS
            ]
            if any(setting.strength == -inf for setting in settings):
                raise GrainsError("strength -inf is the plain model, which every sweep measures; leave it out")
            resolved = [resolve_tokens(found, setting) for setting in settings]
            for setting, one in zip(settings, resolved, strict=True):
                artifact = Artifact("found_tokens", None, None, None, {}, found)
                check_artifact(context.loaded.model, AppliedArtifact("found tokens", artifact, setting, one))
            configurations = [(), *((one,) if one is not None else () for one in resolved)]
            points = measured(context.loaded, development, [off, *settings], configurations, context.progress)
            name = f"tokens={count}, distance={'as found' if distance is None else distance}"
            choices[name] = choose(points, context.recipe.evaluation)
    return choices
