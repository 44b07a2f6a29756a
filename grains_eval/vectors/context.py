"""What a vector method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from grains_eval.attribution import attribute
from grains_eval.models import EncodedExample, LoadedModel, encode_all
from grains_eval.recipes import AttributionConfig, Recipe
from grains_eval.types import Attribution, PreferenceExample, SteeringVectors, TokenSelection

Progress = Callable[[Sequence[EncodedExample], str], Iterable[EncodedExample]]


def silent(items: Sequence[EncodedExample], description: str) -> Iterable[EncodedExample]:
    """A progress display that shows nothing."""
    del description
    return items


@dataclass(frozen=True)
class BuildContext:
    """A build in progress.

    Attributes:
        loaded: The model.
        examples: Build examples, encoded.
        recipe: What to do.
        attribute: Scores one example; may answer from an interrupted build.
        progress: Wraps the loop over examples, with a description.
    """

    loaded: LoadedModel
    examples: Sequence[EncodedExample]
    recipe: Recipe
    attribute: Callable[[EncodedExample, AttributionConfig], Attribution]
    progress: Progress = silent

    def with_attribution(self, **changes: object) -> BuildContext:
        """The same build with other attribution settings."""
        section = AttributionConfig.model_validate({**self.recipe.attribution.model_dump(), **changes})
        return replace(self, recipe=self.recipe.model_copy(update={"attribution": section}))


@dataclass(frozen=True)
class Built:
    """Vectors with the attributions and selections behind them (empty for methods without attribution)."""

    vectors: SteeringVectors
    attributions: tuple[Attribution, ...] = ()
    selections: tuple[TokenSelection, ...] = ()


def build_context(
    loaded: LoadedModel, examples: Sequence[PreferenceExample], recipe: Recipe, progress: Progress = silent
) -> BuildContext:
    """Encode examples and attribute without a cache.

    Raises:
        GrainsError: see `models.encode_all`.
    """
    encoded = encode_all(loaded, examples, recipe.attribution.visual_baseline)
    return BuildContext(
        loaded, encoded, recipe, lambda one, config: attribute(loaded, one, config, recipe.seed), progress
    )
