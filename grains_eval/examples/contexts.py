"""The context of a prompt: the passage that a question is asked about, which a task or a recipe declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.examples.files import field

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
    """A prompt without its context: the last place where it stands, since few-shot examples come first.

    Args:
        prompt: As the model reads it; a chat template may have stripped the context's ends.
        context: The passage.
        where: Names the document in errors.

    Raises:
        GrainsError: the context is not in the prompt.
    """
    for wanted in (context, context.strip()):
        start = prompt.rfind(wanted)
        if start >= 0:
            return prompt[:start] + prompt[start + len(wanted) :]
    raise GrainsError(
        f"{where}: the declared context is not in its prompt as it stands; mend {KEY} in the task's metadata "
        "(or the recipe's key), a field or template that gives the passage to the letter"
    )
