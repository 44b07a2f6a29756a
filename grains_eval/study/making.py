"""Every method by name, whatever it makes: steering vectors, an adapter or an instruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from grains_eval import adapters
from grains_eval.errors import GrainsError
from grains_eval.recipes import Recipe, method_options
from grains_eval.steering import check_width
from grains_eval.study.development import DevelopmentSet, preserved_accuracy
from grains_eval.study.tune import Choice, CurvePoint, choose, choose_setting, curve, fixed_setting
from grains_eval.types import Attribution, FoundTokens, SteeringConfig, SteeringVectors, TokenSelection
from grains_eval.vectors import VECTOR_METHODS, BuildContext, run_method
from grains_eval.vectors.found_tokens import Harmless, Pool, found_tokens
from grains_eval.virtual_tokens import ResolvedTokens


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
    """What an artifact will hold: vectors, found tokens or an adapter.

    Attributes:
        choice: The setting, and how it was chosen; None for found tokens, which have their own.
        notes: JSON values that join the provenance.
    """

    choice: Choice | None
    vectors: SteeringVectors | FoundTokens | None = None
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


def make_tokens(job: Job, pool: Pool = "attribution", tested: bool = True, both_sides: bool = True) -> Made:
    """Found tokens, with the setting of the method's options; see `found_tokens.found_tokens`.

    Raises:
        GrainsError: there is nothing to find.
    """
    built = found_tokens(job.context, harmless(job), pool, tested, both_sides)
    return Made(None, built.tokens, built.attributions, built.selections, notes=built.notes)


def harmless(job: Job) -> Harmless | None:
    """Whether preserved development items are kept where a token is shown; None where there are none.

    They are kept where accuracy fell by no more than `evaluation.margin`, or by one item where that is finer.
    """
    items = job.development.preserved
    if not items:
        return None
    loaded, margin = job.context.loaded, job.context.recipe.evaluation.margin

    def kept(tokens: Sequence[ResolvedTokens]) -> list[bool]:
        before, *after = preserved_accuracy(loaded, items, [(), *((one,) for one in tokens)], job.context.progress)
        return [accuracy >= before - max(margin, 1 / len(items)) - 1e-12 for accuracy in after]

    return kept


def make_adapter(job: Job) -> Made:
    """A LoRA adapter; its epoch is chosen on development items as strengths are for vectors.

    Raises:
        GrainsError: an unknown option, no target modules, or a loss that is not finite.
    """
    context = job.context
    options = method_options(context.recipe, adapters.Options)
    points: list[CurvePoint] = []

    def measure(epoch: int) -> None:
        if job.development.preference:
            # a curve's unsteered point, taken while the adapter acts; the epoch stands where strengths do
            point = curve(context.loaded, SteeringVectors({}, {}), job.development, ())[0]
            points.append(replace(point, config=SteeringConfig((), float(epoch))))

    trained = adapters.train(context.loaded, context.examples, options, context.recipe.seed, measure, context.progress)
    if points:
        choice = choose(points, context.recipe.evaluation)
    else:
        reason = "as the last: there are no development examples"
        choice = Choice(SteeringConfig((), float(options.epochs)), reason)
    epoch = int(choice.config.strength)
    choice = replace(choice, reason=f"epoch {epoch} of {options.epochs} {choice.reason}")
    folder = adapters.save_adapter(trained, epoch, job.work / "adapter")
    training = {**options.model_dump(mode="json"), "losses": list(trained.losses), "epoch": epoch}
    return Made(choice, adapter=folder, notes={"training": training})


def instruction_of(recipe: Recipe) -> str:
    """The prompting baseline's instruction.

    Raises:
        GrainsError: the recipe has none.
    """
    if recipe.prompting is None or not recipe.prompting.instruction.strip():
        raise GrainsError(f"recipe '{recipe.name}' has no prompting.instruction; write the behaviour as an instruction")
    return recipe.prompting.instruction.strip()


# `prompt` needs neither model nor examples: `instruction_of` is all there is to it
PROMPT = "prompt"
METHODS: Mapping[str, Callable[[Job], Made]] = {
    **dict.fromkeys(VECTOR_METHODS, make_vectors),
    "found_tokens": make_tokens,
    "blind_tokens": partial(make_tokens, pool="random", tested=False),
    "random_pool_tokens": partial(make_tokens, pool="random"),
    "every_token": partial(make_tokens, pool="every"),
    "lora": make_adapter,
}
METHOD_NAMES = (*METHODS, PROMPT)
FOUND = "found_tokens"
TOKEN_METHODS = frozenset({FOUND, "blind_tokens", "random_pool_tokens", "every_token"})
TOKEN_CONTROLS = TOKEN_METHODS - {FOUND}


def leaves_open(recipe: Recipe) -> bool:
    """Whether the recipe's method chooses something on development items."""
    if recipe.vectors.method in TOKEN_METHODS:
        return bool(recipe.evaluation.preserve)
    return recipe.vectors.method == "lora" or fixed_setting(recipe) is None
