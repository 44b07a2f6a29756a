"""Requests as lm_eval makes them, in its 0.4 and 0.5 form."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lm_eval.api.instance import Instance

HARNESS = tuple(int(part) for part in version("lm_eval").split(".")[:2])


def instance(
    kind: str, doc: Any, arguments: tuple[Any, ...], idx: int = 0, task: str = "a task", number: int = 0
) -> Instance:
    """A request of document `number` of a task; 0.5 gives rolling requests an empty context."""
    if kind == "loglikelihood_rolling" and HARNESS >= (0, 5):
        arguments = ("", *arguments)
    keywords: Any = {"task_name": task, "doc_id": number, "metadata": (task, number, 1)}
    return Instance(request_type=kind, doc=doc, arguments=arguments, idx=idx, **keywords)  # type: ignore[arg-type]


def made_by(task: Any, doc: Any, context: Any, number: int = 0) -> list[Instance]:
    """What the task itself makes of a document and its context, as lm_eval's evaluation would ask it."""
    named = {"doc_id": number} if HARNESS >= (0, 5) else {"metadata": (task.task_name, number, 1)}
    return task.construct_requests(doc=doc, ctx=context, **named)


def own_names(by_task: Mapping[str, Any]) -> dict[str, Any]:
    """Values by each task's own name, before which lm_eval 0.5 puts the group that was asked for."""
    return {name.rpartition("::")[2]: value for name, value in by_task.items()}
