"""The decoding baseline: context-aware contrastive decoding (Shi et al. 2023, arXiv 2305.14739, equation 2).

Nothing is built but a number: how strongly to amplify what the context changes. `grains_hf` runs every prompt twice,
with and without its context. What a prompt's context is, its task declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

from lm_eval.api.task import ConfigurableTask
from pydantic import Field

from grains_eval.errors import GrainsError, NotApplicable, first_line
from grains_eval.examples import task_manager
from grains_eval.examples.contexts import KEY, declared_context
from grains_eval.recipes import Recipe, Section, method_options
from grains_eval.vectors.registry import method

SOURCE_ALPHA = 1.0  # the source's, where context and memory conflict; .5 in its summaries


class Options(Section):
    """`vectors.options` of `contrastive`."""

    alpha: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto", description="weight of the contrast; auto is chosen on development items"
    )
    contexts: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="by task, the field or template of its context, where its metadata.context_key does not say",
    )


@method("contrastive", makes="contrast", is_baseline=True)
def declared_contexts(recipe: Recipe, include_path: Sequence[str] = ()) -> dict[str, str]:
    """Context-aware decoding: `(1 + alpha) logit(y | c, x) - alpha logit(y | x)`, in two passes.

    Args:
        recipe: Its `evaluation` section names the tasks.
        include_path: Folders with the user's own tasks.

    Returns:
        By task, the field or template of its context.

    Raises:
        GrainsError: an unknown option, or a task that cannot be loaded.
        NotApplicable: no task that was to improve declares a context.
    """
    options, evaluation = method_options(recipe, Options), recipe.evaluation
    found = dict(options.contexts)
    targets: set[str] = set()
    for names, is_target in ((evaluation.tasks, True), (evaluation.preserve, False)):
        manager = task_manager(names, include_path, recipe.data.metadata)
        for name in names:
            try:
                tasks = cast("dict[str, ConfigurableTask]", manager.load([name])["tasks"])
            except Exception as error:  # datasets raises many kinds for offline hubs
                reason = first_line(error)
                raise GrainsError(f"task '{name}' cannot be asked for its context: {reason}") from error
            for task in tasks.values():
                declared = declared_context(task)
                if declared is not None:
                    found.setdefault(task.task_name, declared)
                if is_target and task.task_name in found:
                    targets.add(task.task_name)
    if not targets:
        raise NotApplicable(
            f"no task of evaluation.tasks has a context to contrast: none declares metadata.{KEY}, and "
            "vectors.options.contexts names none"
        )
    return found
