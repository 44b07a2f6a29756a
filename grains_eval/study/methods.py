"""Every method by name, whatever it makes: steering vectors, an adapter or an instruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grains_eval.errors import pick, unknown
from grains_eval.recipes import Recipe, method_options
from grains_eval.steering import check_width
from grains_eval.study.development import DevelopmentSet
from grains_eval.study.tune import Choice, CurvePoint, choose, choose_setting, curve, fixed_setting
from grains_eval.types import Attribution, SteeringConfig, SteeringVectors, TokenSelection
from grains_eval.vectors import METHODS, BuildContext, lora, run_method


@dataclass(frozen=True)
class Job:
    """What a method is given.

    Attributes:
        context: Model, encoded build examples, recipe.
        development: What settings are chosen on; empty where the method leaves nothing to choose.
        work: A folder for files in the making.
    """

    context: BuildContext
    development: DevelopmentSet
    work: Path


@dataclass(frozen=True)
class Made:
    """What an artifact will hold: vectors or an adapter.

    Attributes:
        choice: The setting, and how it was chosen.
        notes: JSON values that join the provenance.
    """

    choice: Choice
    vectors: SteeringVectors | None = None
    attributions: tuple[Attribution, ...] = ()
    selections: tuple[TokenSelection, ...] = ()
    adapter: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])


def make_vectors(job: Job) -> Made:
    """Directions by the recipe's vector method, with the recipe's setting or the best on development items.

    Raises:
        GrainsError: see `vectors.run_method` and `tune.choose_setting`.
    """
    context = job.context
    built = run_method(context)
    check_width(context.loaded.model, built.vectors)
    choice = choose_setting(context.loaded, built.vectors, job.development, context.recipe, context.progress)
    vectors = replace(built.vectors, recommended=choice.config)
    return Made(choice, vectors, built.attributions, built.selections)


def make_adapter(job: Job) -> Made:
    """A LoRA adapter; its epoch is chosen on development items as strengths are for vectors.

    Raises:
        GrainsError: an unknown option, no target modules, or a loss that is not finite.
    """
    context = job.context
    options = method_options(context.recipe, lora.Options)
    points: list[CurvePoint] = []

    def measure(epoch: int) -> None:
        if job.development.preference:
            # a curve's unsteered point, taken while the adapter acts; the epoch stands where strengths do
            point = curve(context.loaded, SteeringVectors({}, {}), job.development, ())[0]
            points.append(replace(point, config=SteeringConfig((), float(epoch))))

    trained = lora.train(context.loaded, context.examples, options, context.recipe.seed, measure, context.progress)
    if points:
        choice = choose(points, context.recipe.evaluation)
    else:
        reason = "as the last: there are no development examples"
        choice = Choice(SteeringConfig((), float(options.epochs)), reason)
    epoch = int(choice.config.strength)
    choice = replace(choice, reason=f"epoch {epoch} of {options.epochs} {choice.reason}")
    folder = lora.save_adapter(trained, epoch, job.work / "adapter")
    training = {**options.model_dump(mode="json"), "losses": list(trained.losses), "epoch": epoch}
    return Made(choice, adapter=folder, notes={"training": training})


# by what an artifact holds; an instruction needs neither model nor examples, and nobody makes it
MAKERS: Mapping[str, Callable[[Job], Made]] = {"vectors": make_vectors, "adapter": make_adapter}


def leaves_open(recipe: Recipe) -> bool:
    """Whether the recipe's method chooses something on development items."""
    makes = pick(METHODS, recipe.vectors.method, METHODS.what).makes
    return makes == "adapter" or (makes == "vectors" and fixed_setting(recipe) is None)


def default_methods(recipe: Recipe) -> list[str]:
    """Every method that the recipe can feed: its own, its named variants, the baselines."""
    baselines = [name for name, entry in METHODS.items() if entry.is_baseline and entry.can_be_fed(recipe)]
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
