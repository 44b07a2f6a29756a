"""What differs between lm_eval 0.4 and 0.5, under one name; everything else is imported from lm_eval itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

_MODULE = "lm_eval.config.templates" if find_spec("lm_eval.config.templates") else "lm_eval.utils"  # 0.5, 0.4
apply_template: Callable[[str, Any], str] = import_module(_MODULE).apply_template

_FIRST_ARGUMENTS = 2  # context and continuation, or context and generation settings


def read_data(task: ConfigurableTask) -> None:
    """Have a task read its data, which lm_eval 0.4 does as it loads the task and 0.5 when they are first used."""
    _ = cast(Any, task).dataset


def varies_prompt(task: ConfigurableTask) -> bool:
    """Whether a multiple-choice task scores one answer after several prompts, as winogrande does."""
    return bool(getattr(task, "multiple_input", 0) or getattr(task.config, "multiple_inputs", False))  # 0.4, 0.5


def gen_prefix(task: ConfigurableTask, doc: Any) -> str | None:
    """The beginning of the answer that a task writes into the prompt of a document, None without one."""
    if hasattr(task, "doc_to_prefix"):  # 0.4
        return task.doc_to_prefix(doc)
    found = cast(Any, task)._resolve_field(doc, task.config.gen_prefix)
    return None if found is None else str(found)


def requests_of(
    task: ConfigurableTask, doc: Any, index: int, context: Any, *, apply_chat_template: bool = False
) -> list[Instance]:
    """The requests that a task makes of a document and its context, images included; none where it skips it.

    lm_eval 0.5 drops the images of multiple-choice tasks on the way; the task is asked for them here.

    Args:
        task: The task.
        doc: One of its documents.
        index: Its number in the split.
        context: What `task.fewshot_context` gave for it.
        apply_chat_template: As for `fewshot_context`.
    """
    construct: Any = task.construct_requests
    chat = {"apply_chat_template": apply_chat_template}
    if hasattr(task, "doc_to_prefix"):  # 0.4
        made = construct(doc=doc, ctx=context, metadata=(task.task_name, index, 1), **chat)
    else:
        made = construct(doc=doc, ctx=context, doc_id=index, **chat)
    requests: list[Instance] = made if isinstance(made, list) else [] if made is None else [made]
    if getattr(task.config, "doc_to_image", None) and not any(multimodal_arguments(each) for each in requests):
        visual = {"visual": task.doc_to_image(doc)}
        for each in requests:
            each.arguments = (*each.args[:_FIRST_ARGUMENTS], visual)
    return requests


def loglikelihood_request(arguments: tuple[Any, ...], index: int, task: str, number: Any) -> Instance:
    """A request that no task made; task and document number name it in errors."""
    named: Any = {"task_name": task, "doc_id": number, "metadata": (task, number, 1)}  # 0.4 reads the last alone
    return Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=index, **named)


def multimodal_arguments(request: Instance) -> Mapping[str, Any]:
    """Images and sounds of a request: the third argument in lm_eval 0.4, `additional_args` in 0.5."""
    arguments = cast("tuple[Any, ...]", request.args)
    if len(arguments) > _FIRST_ARGUMENTS and isinstance(arguments[_FIRST_ARGUMENTS], dict):
        return cast("Mapping[str, Any]", arguments[_FIRST_ARGUMENTS])
    return cast("Mapping[str, Any]", getattr(request, "additional_args", None) or {})


def cached_without_images(request: Instance) -> bool:
    """Whether lm_eval's request cache would take a request for any other of its text: its key is `args` alone."""
    return bool(multimodal_arguments(request)) and len(request.args) <= _FIRST_ARGUMENTS
