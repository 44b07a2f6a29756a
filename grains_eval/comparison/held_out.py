"""Which evaluated documents built or tuned a vector: found in the logged samples by hash and by text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from grains_eval.comparison.runs import Run, Sample
from grains_eval.questions import QuestionHashes, Recognised, question_hashes, recognise


def recognised(run: Run, task: str, samples: Sequence[Sample], hidden: frozenset[str]) -> Recognised:
    """Find the documents of a task that are among hidden ones; cached for each run, task and set.

    Args:
        run: The run, whose results say how the task shows a document.
        task: Its task.
        samples: The samples of the task, one a document.
        hidden: Document hashes, and what `questions.hidden_hashes` makes of those of texts.
    """
    key = (task, hidden)
    if key not in run.recognised:
        config: Mapping[str, Any] = run.setting("configs", task) or {}
        query = config.get("doc_to_decontamination_query")
        run.recognised[key] = recognise(
            hidden,
            [[s.doc_hash, *s.content_hashes, *s.query_hashes(query)] for s in samples],
            lambda index: question_of(samples[index], config),
            has_images="doc_to_image" in config or any(sample.has_image for sample in samples),
        )
    return run.recognised[key]


def question_of(sample: Sample, config: Mapping[str, Any]) -> QuestionHashes:
    """Hashes of what the model read of a sample's document.

    The task's template is filled in anew, since a logged prompt holds few-shot examples too; where the template is a
    function, the logged prompt is used instead, which also contains the document's fields.
    """
    shown = _filled(config.get("doc_to_text"), sample.doc)
    query = _filled(config.get("doc_to_decontamination_query"), sample.doc)
    return question_hashes(sample.doc, sample.prompt if shown is None else shown, query)


def notes(task: str, found: Recognised) -> list[str]:
    """Notes on documents that are recognised by their text alone."""
    said: list[str] = []
    if any(found.by_text):
        said.append(
            f"{task}: {sum(found.by_text)} of {len(found.by_text)} documents are left out for their text alone: they "
            "ask what a document asks that built or tuned a vector, in another file, task or form"
        )
    if any(found.shared):
        said.append(
            f"{task}: {sum(found.shared)} of {len(found.shared)} documents are kept although a text of theirs built or "
            "tuned a vector: several documents share it (with other contexts or images), and it cannot be told which "
            "was meant"
        )
    return said


def unknown_origins(run: Run) -> list[str]:
    """Notes on vectors and adapters of a run that do not record the documents they were made from."""
    said: list[str] = []
    for entry in run.steering:
        name = str(entry.get("vectors") or entry.get("method") or "a vector")
        used = entry.get("doc_hashes")
        if entry.get("instruction"):
            continue
        if not isinstance(used, Mapping) or not used:
            said.append(
                f"'{run.name}': '{name}' does not say which documents built or tuned it: none could be left out, and "
                "its score may come from documents that it was made from"
            )
        elif any(used.values()) and "questions" not in used:
            said.append(
                f"'{run.name}': '{name}' holds no texts of the documents that built or tuned it: "
                "they are known by their hash alone, not in another file or task, and few-shot examples not at all"
            )
    arguments = run.setting("config", "model_args")
    if isinstance(arguments, Mapping):
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    for argument, what in (("peft", "adapter"), ("delta", "delta weights"), ("steer_path", "steering vectors")):
        found = re.search(rf"(?:^|,){argument}=([^,]+)", str(arguments or ""))
        if found and found[1] != "None":
            said.append(
                f"'{run.name}': nothing says which documents made the {what} '{found[1]}': none could be left out"
            )
    return said


def _filled(template: Any, doc: Any) -> str | None:
    """A task's field or template filled in from a document; None for functions, and where it does not fit."""
    if not isinstance(template, str) or not isinstance(doc, Mapping):
        return None
    document = cast("Mapping[str, Any]", doc)
    if template in document:
        return str(document[template])
    if "{{" not in template and "{%" not in template:
        return None
    try:
        return _compiled(template).render(**document)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
        return None


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    # results may come from anywhere, so their templates are rendered in a sandbox, otherwise as lm-eval renders them
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["regex_replace"] = cast(Any, _regex_replace)
    return environment.from_string(template)


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)
