"""The context of a prompt: the passage that a question is asked about, which a task or a recipe declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.examples.fields import field

KEY = "context_key"


def declared_context(task: Any) -> str | None:
    """A task's `metadata.context_key`: a field, or a Jinja template over the document; None where it has none."""
    found = (task.get_config("metadata") or {}).get(KEY)
    return None if found is None else str(found)


def context_of(declared: str, doc: Mapping[str, Any]) -> str | None:
    """A document's context; None where it is empty.

    Raises:
        GrainsError: a field that the document does not have.
    """
    found = field(doc, declared)
    return str(found) if found is not None and str(found).strip() else None


def without_context(prompt: str, context: str, where: str) -> str:
    """A prompt without its context.

    Few-shot examples may be about the same passage: of places with the same surroundings, which one template makes,
    the last is the document's own.

    Args:
        prompt: As the model reads it; a chat template may have stripped the context's ends.
        context: The passage.
        where: Names the document in errors.

    Raises:
        GrainsError: the context is not in the prompt, or in several places of which a question may be one.
    """
    for wanted in (context, context.strip()):
        starts = [match.start() for match in re.finditer(f"(?={re.escape(wanted)})", prompt)]
        if not starts:
            continue
        if any(_surroundings_differ(prompt, wanted, start, starts[-1]) for start in starts):
            raise GrainsError(
                f"{where}: the declared context stands in {len(starts)} places of its prompt with other text around "
                f"them; let {KEY} in the task's metadata (or the recipe's key) take in what tells it apart, as in "
                "'Context: {{passage}}'"
            )
        return prompt[: starts[-1]] + prompt[starts[-1] + len(wanted) :]
    raise GrainsError(
        f"{where}: the declared context is not in its prompt as it stands; correct {KEY} in the task's metadata "
        "(or the recipe's key), a field or template that gives the passage to the letter"
    )


def _surroundings_differ(prompt: str, context: str, start: int, last: int) -> bool:
    """Whether two places of a context differ in its line before it or in the next character, unless the prompt ends."""
    before, own = (prompt[prompt.rfind("\n", 0, place) + 1 : place] for place in (start, last))
    after, next_own = (prompt[place + len(context) : place + len(context) + 1] for place in (start, last))
    return before != own or (next_own != "" and after != next_own)
