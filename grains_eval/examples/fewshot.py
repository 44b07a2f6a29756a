"""What a task shows of its documents: the question of each, and the few-shot examples of a prompt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.task import ConfigurableTask

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import doc_hash
from grains_eval.lm_eval_versions import apply_template
from grains_eval.questions import Document, QuestionHashes, question_hashes


def question_of(task: ConfigurableTask, doc: Any) -> QuestionHashes:
    """Hashes of what a task shows of a document, and of what it names as its question."""
    return question_hashes(doc, str(task.doc_to_text(doc)), decontamination_query(task, doc))


def decontamination_query(task: ConfigurableTask, doc: Any) -> str | None:
    """The task's `doc_to_decontamination_query`: a field, a function or a template, taken as rendered.

    lm-eval's own method reads a rendered template as a Python literal, which a question is not.
    """
    query: Any = task.get_config("doc_to_decontamination_query")
    if query is None:  # then it is the prompt, which is hashed anyway
        return None
    if callable(query):
        return str(query(doc))
    return str(doc[query] if query in doc else apply_template(str(query), doc))


@contextmanager
def recorded_shots(task: ConfigurableTask, doc: Any, count: int) -> Generator[list[Any], None, None]:
    """Collect the documents that a prompt made in the context shows as few-shot examples; never `doc` itself.

    lm-eval keeps a document out of its own prompt only where examples come from the test split; builds draw from
    every split.

    Raises:
        GrainsError: too few documents to draw from, or examples that cannot be identified.
    """
    found: list[Any] = []
    if not count:
        yield found
        return
    sampler: Any = getattr(task, "sampler", None)
    if sampler is None:
        raise GrainsError(f"task '{task.task_name}' has no documents for few-shot examples; use data.num_fewshot=0")
    draw = sampler.sample

    def sample(*args: Any, **kwargs: Any) -> Sequence[Any]:
        if kwargs.get("eval_doc", doc) is None and any(other == doc for other in sampler.fewshot_docs()):
            kwargs["eval_doc"] = doc
        try:
            drawn = draw(*args, **kwargs)
        except (ValueError, AssertionError) as error:
            raise GrainsError(
                f"task '{task.task_name}' has too few documents for {count} few-shot examples; lower data.num_fewshot"
            ) from error
        found.extend(drawn)
        return drawn

    sampler.sample = sample
    try:
        yield found
    finally:
        del sampler.sample  # the class's own again
    if len(found) < count:
        raise GrainsError(
            f"task '{task.task_name}': the few-shot examples of its prompts cannot be identified, so they could not be "
            "left out of an evaluation; use data.num_fewshot=0"
        )


def shots_of(task: ConfigurableTask, documents: Sequence[Any]) -> tuple[Document, ...]:
    """Few-shot examples by their hashes."""
    return tuple(Document(doc_hash(doc), question_of(task, doc)) for doc in documents)
