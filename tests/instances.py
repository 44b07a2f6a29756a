"""Requests as lm_eval makes them, in its 0.4 and 0.5 form."""

from __future__ import annotations

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
