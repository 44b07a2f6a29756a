"""The prompting baseline: the behaviour as an instruction, which `grains_hf` puts in front of every prompt."""

from __future__ import annotations

from grains_eval.errors import NotApplicable
from grains_eval.recipes import Recipe
from grains_eval.vectors.registry import method


@method("prompt", makes="instruction", is_baseline=True)
def instruction(recipe: Recipe) -> str:
    """The recipe's `prompting.instruction`; needs neither model nor examples.

    Raises:
        NotApplicable: the recipe has none.
    """
    if recipe.prompting is None or not recipe.prompting.instruction.strip():
        raise NotApplicable(
            f"recipe '{recipe.name}' has no prompting.instruction; write the behaviour as an instruction"
        )
    return recipe.prompting.instruction.strip()
