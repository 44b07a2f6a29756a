"""Every method by name, whatever it makes: vectors, found tokens, an adapter, an instruction or a contrast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grains_eval.errors import pick, unknown
from grains_eval.examples import Examples
from grains_eval.recipes import Recipe, method_options
from grains_eval.steering import check_width
from grains_eval.study.contrastive import choose_alpha
from grains_eval.study.development_set import DevelopmentSet, preserved_accuracy
from grains_eval.study.tune import Choice, CurvePoint, choose, choose_setting, curve, fixed_setting
from grains_eval.types import Attribution, Contrast, FoundTokens, SteeringConfig, SteeringVectors, TokenSelection
from grains_eval.vectors import METHODS, BuildContext, lora, run_method
from grains_eval.vectors.found_tokens import BuiltTokens, Harmless
from grains_eval.virtual_tokens import ResolvedTokens


@dataclass(frozen=True)
class Variant:
    """A method of a comparison.

    Attributes:
        recipe: Its recipe.
        folder: Its artifact.
        examples: What it is built and tuned on.
    """

    recipe: Recipe
    folder: Path
    examples: Examples


@dataclass(frozen=True)
class MethodInputs:
    """What a method is given.

    Attributes:
        context: Model, encoded build examples, recipe.
        development: What settings are chosen on; empty where the method leaves nothing to choose.
        work: The folder of the unfinished build.
        include_path: Folders with the user's own tasks.
    """

    context: BuildContext
    development: DevelopmentSet
    work: Path
    include_path: Sequence[str] = ()


@dataclass(frozen=True)
class MethodResult:
    """What a method gives back: vectors, found tokens, an adapter or a contrast, with the chosen setting.

    Attributes:
        choice: The setting, and how it was chosen; None for found tokens, which have their own.
        vectors: Vectors that recommend the setting.
        attributions: Scores behind the vectors, one per example.
        selections: What was masked, in the same order.
        adapter: A peft folder.
        notes: JSON values that join the provenance.
        tokens: Found tokens.
        contrast: How strongly contexts are amplified.
    """

    choice: Choice | None
    vectors: SteeringVectors | None = None
    attributions: tuple[Attribution, ...] = ()
    selections: tuple[TokenSelection, ...] = ()
    adapter: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tokens: FoundTokens | None = None
    contrast: Contrast | None = None


def build_vectors(inputs: MethodInputs) -> MethodResult:
    """Directions by the recipe's vector method, with the recipe's setting or the best on development items.

    Raises:
        GrainsError: see `vectors.run_method` and `tune.choose_setting`.
    """
    context = inputs.context
    built = run_method(context)
    check_width(context.loaded.model, built.vectors)
    choice = choose_setting(context.loaded, built.vectors, inputs.development, context.recipe, context.progress)
    vectors = replace(built.vectors, recommended=choice.config)
    return MethodResult(choice, vectors, built.attributions, built.selections)


def build_tokens(inputs: MethodInputs) -> MethodResult:
    """Found tokens by the recipe's method, with the setting of its options.

    Raises:
        GrainsError: there is nothing to find.
    """
    context = inputs.context
    built: BuiltTokens = METHODS[context.recipe.vectors.method].function(context, harmless(context, inputs.development))
    notes = {**built.notes, "not_watched": list(inputs.development.notes)}
    return MethodResult(None, None, built.attributions, built.selections, notes=notes, tokens=built.tokens)


def harmless(context: BuildContext, development: DevelopmentSet) -> Harmless | None:
    """Whether preserved development items are kept where a token is shown; None where there are none.

    They are kept where accuracy fell by no more than `evaluation.margin`, or by one item where that is finer.
    """
    items = development.preserved
    if not items:
        return None
    lost = max(context.recipe.evaluation.margin, 1 / len(items)) + 1e-12

    def kept(tokens: Sequence[ResolvedTokens]) -> list[bool]:
        configurations = [(), *((one,) for one in tokens)]
        before, *after = preserved_accuracy(context.loaded, items, configurations, context.progress)
        return [accuracy >= before - lost for accuracy in after]

    return kept


def train_adapter(inputs: MethodInputs) -> MethodResult:
    """A LoRA adapter; its epoch is chosen on development items as strengths are for vectors.

    Raises:
        GrainsError: an unknown option, no target modules, or a loss that is not finite.
    """
    context = inputs.context
    options = method_options(context.recipe, lora.Options)
    points: list[CurvePoint] = []

    def measure(epoch: int) -> None:
        if inputs.development.preference:
            # a curve's unsteered point, taken while the adapter acts; the epoch stands where strengths do
            point = curve(context.loaded, SteeringVectors({}, {}), inputs.development, ())[0]
            points.append(replace(point, config=SteeringConfig((), float(epoch))))

    trained = lora.train(context.loaded, context.examples, options, context.recipe.seed, measure, context.progress)
    if points:
        choice = choose(points, context.recipe.evaluation)
    else:
        reason = "as the last: there are no development examples"
        choice = Choice(SteeringConfig((), float(options.epochs)), reason)
    epoch = int(choice.config.strength)
    choice = replace(choice, reason=f"epoch {epoch} of {options.epochs} {choice.reason}")
    folder = lora.save_adapter(trained, epoch, inputs.work / "adapter")
    training = {**options.model_dump(mode="json"), "losses": list(trained.losses), "epoch": epoch}
    return MethodResult(choice, adapter=folder, notes={"training": training})


def weigh_contrast(inputs: MethodInputs) -> MethodResult:
    """Context-aware decoding with the recipe's alpha, or the one that is best on development items.

    Raises:
        GrainsError: an unknown option, a task that cannot be loaded, or a context that is not in its prompt.
        NotApplicable: no task that was to improve declares a context.
    """
    context = inputs.context
    contexts: dict[str, str] = METHODS[context.recipe.vectors.method].function(context.recipe, inputs.include_path)
    choice = choose_alpha(context.loaded, inputs.development, context.recipe, contexts, context.progress)
    return MethodResult(choice, contrast=Contrast(choice.config.strength, contexts))


# by what an artifact holds; an instruction needs neither model nor examples and is not built
BUILDERS: Mapping[str, Callable[[MethodInputs], MethodResult]] = {
    "vectors": build_vectors,
    "tokens": build_tokens,
    "adapter": train_adapter,
    "contrast": weigh_contrast,
}


def leaves_open(recipe: Recipe) -> bool:
    """Whether the recipe's method chooses something on development items."""
    makes = pick(METHODS, recipe.vectors.method, METHODS.what).makes
    if makes == "tokens":
        return bool(recipe.evaluation.preserve)
    return makes in ("adapter", "contrast") or (makes == "vectors" and fixed_setting(recipe) is None)


def default_methods(recipe: Recipe) -> list[str]:
    """The recipe's own method, its named variants, and the baselines, those that do not apply here included."""
    baselines = [name for name, entry in METHODS.items() if entry.is_baseline]
    # whichever module was imported first
    baselines.sort(key=lambda name: METHODS[name].function.__module__)
    return list(dict.fromkeys([recipe.vectors.method, *recipe.methods, *baselines]))


def method_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe of a method: a named variant of the recipe, or the recipe with another `vectors.method`.

    Raises:
        GrainsError: an unknown name.
    """
    if name in recipe.methods:
        return recipe.variant(name, recipe.methods[name])
    if name not in METHODS:
        raise unknown(name, [*METHODS, *recipe.methods], METHODS.what)
    if name == recipe.vectors.method:
        return recipe.variant(name, {})
    # options belong to the method they were written for
    vectors = recipe.vectors.model_copy(update={"method": name, "options": {}})
    return recipe.variant(name, {}).model_copy(update={"vectors": vectors})
