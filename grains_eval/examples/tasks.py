"""Preference examples from any lm-eval multiple-choice task, through the task object itself.

Prompt, choices and delimiter are those of the requests that the task would score, so build and evaluation speak the
same prompt format, chat template included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, cast

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from grains_eval.errors import GrainsError, first_line, unknown
from grains_eval.examples.contexts import context_of, declared_context
from grains_eval.examples.documents import doc_hash
from grains_eval.examples.prompts import task_prompt
from grains_eval.lm_eval_versions import apply_template, multimodal_arguments, read_data, varies_prompt
from grains_eval.models.loading import HarnessModel
from grains_eval.recipes import Data
from grains_eval.tasks_path import task_directory
from grains_eval.types import PreferenceExample

_ROLES = ("train", "validation", "test")


def task_manager(
    names: Sequence[str], include_path: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
) -> TaskManager:
    """A manager that knows the named tasks: the user's folders win, then ours, then the harness's.

    Reading the harness's own index takes seconds, so it is skipped if our tasks and the user's are enough.

    Args:
        names: The tasks and groups that are wanted.
        include_path: Folders with the user's own tasks.
        metadata: Given to every task, as lm-eval's `--metadata`.
    """
    given = (include_path,) if isinstance(include_path, str) else include_path
    folders = (str(task_directory()), *given)
    own = TaskManager(include_path=list(folders), include_defaults=False, metadata=dict(metadata or {}))
    if set(names) <= set(own.all_subtasks):  # a group of ours may name tasks of the harness
        return own
    return _all_tasks(folders, json.dumps(dict(metadata or {}), sort_keys=True, default=str))


@lru_cache(maxsize=2)
def _all_tasks(folders: tuple[str, ...], metadata: str) -> TaskManager:
    return TaskManager(include_path=list(folders), metadata=json.loads(metadata))


def load_task(
    name: str, include_path: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
) -> ConfigurableTask:
    """One task by name; see `task_manager`.

    Raises:
        GrainsError: no such task, a group, a task that is not multiple choice, or data that cannot be loaded.
    """
    manager = task_manager([name], include_path, metadata)
    if name not in manager.all_subtasks:
        if name in manager.all_groups or name in manager.all_tags:
            raise GrainsError(f"'{name}' is a group of tasks; data.task needs one task (see lm_eval ls tasks)")
        raise _no_such_task(name, manager)
    try:
        task = cast(ConfigurableTask, manager.load([name])["tasks"][name])
        read_data(task)
    except GrainsError:
        raise
    except Exception as error:  # datasets raises many kinds for missing files, offline hubs and bad schemas
        reason = first_line(error)
        raise GrainsError(f"the data of task '{name}' cannot be loaded: {reason}") from error
    if task.OUTPUT_TYPE != "multiple_choice":
        raise GrainsError(
            f"task '{name}' is {task.OUTPUT_TYPE}; examples come from multiple_choice tasks, or from a file (data.path)"
        )
    if varies_prompt(task):
        raise GrainsError(f"task '{name}' varies the prompt instead of the answer; it has no preference pairs")
    return task


def _no_such_task(name: str, manager: TaskManager) -> GrainsError:
    close = get_close_matches(name, manager.all_subtasks, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return GrainsError(f"unknown task '{name}': {hint}list them with lm_eval ls tasks, or add a folder of your own")


def split_docs(task: ConfigurableTask, split: str | None) -> Sequence[Any]:
    """The documents of a split, by role (`train`, `validation`, `test`); by default the training split if there is one.

    Raises:
        GrainsError: the task has no such split.
    """
    readers: dict[str, Callable[[], Any]] = {}
    if task.has_training_docs():
        readers["train"] = task.training_docs
    if task.has_validation_docs():
        readers["validation"] = task.validation_docs
    if task.has_test_docs():
        readers["test"] = task.test_docs
    for role, key in zip(_ROLES, ("training_split", "validation_split", "test_split"), strict=True):
        own_name = task.get_config(key)
        if role in readers and isinstance(own_name, str):
            readers.setdefault(own_name, readers[role])
    chosen = split or next(role for role in _ROLES if role in readers)
    if chosen not in readers:
        raise unknown(chosen, readers, f"split of task '{task.task_name}'")
    return list(readers[chosen]())


def examples_from_task(
    task: ConfigurableTask, docs: Iterable[tuple[int, Any]], data: Data, lm: HarnessModel | None
) -> Iterator[PreferenceExample]:
    """Turn documents into preference examples.

    Chosen is the gold choice, rejected the first wrong one or `data.rejected`.

    Args:
        task: A multiple-choice task.
        docs: Its documents, each with its index in the split.
        data: The recipe's `data` section.
        lm: Needed where `data.chat_template` is set.

    Raises:
        GrainsError: a document without a wrong choice, or a `rejected` that names no choice.
    """
    if data.chat_template and lm is None:
        raise GrainsError("data.chat_template needs a model: its tokenizer holds the template")
    count = data.num_fewshot if data.num_fewshot is not None else task.get_config("num_fewshot") or 0
    task.set_config("num_fewshot", count)  # lm_eval 0.5 draws shots from no split while this says none
    declared = data.context or declared_context(task)
    cluster_key = (task.get_config("metadata") or {}).get("cluster_key")
    for index, doc in docs:
        asked = task_prompt(task, doc, index, count, lm if data.chat_template else None)
        if not asked.requests:
            raise GrainsError(f"task '{task.task_name}': document {index} has no choices or no gold choice")
        gold, wrong = _pair(task, doc, task.doc_to_choice(doc), data)
        chosen, rejected = (cast("tuple[Any, ...]", asked.requests[one].args) for one in (gold, wrong))
        yield PreferenceExample(
            id=f"{task.task_name}:{index}",
            doc_hash=doc_hash(doc),
            prompt=asked.messages or chosen[0],
            chosen=chosen[1],
            rejected=rejected[1],
            images=tuple(multimodal_arguments(asked.requests[gold]).get("visual", ())),
            cluster=str(doc[cluster_key]) if cluster_key and cluster_key in doc else None,
            question=asked.question,
            shots=asked.shots,
            context=context_of(declared, doc) if declared else None,
        )


def gold_choices(task: ConfigurableTask, doc: Any, choices: Sequence[str]) -> list[int]:
    """Indices of a document's right choices; none where its target names anything else."""
    target = task.doc_to_target(doc)
    found = [
        int(each) if not isinstance(each, str) else choices.index(each) if each in choices else -1
        for each in (target if isinstance(target, list) else [target])
    ]
    return found if all(0 <= each < len(choices) for each in found) else []


def _pair(task: ConfigurableTask, doc: Any, choices: list[str], data: Data) -> tuple[int, int]:
    """Indices of the chosen and the rejected choice."""
    gold = gold_choices(task, doc, choices)
    if not gold:
        target = task.doc_to_target(doc)
        raise GrainsError(f"task '{task.task_name}': a document has no gold choice (target {target!r})")
    if data.rejected is None:
        wrong = next((i for i in range(len(choices)) if i not in gold), None)
        if wrong is None:
            raise GrainsError(f"task '{task.task_name}': a document has no wrong choice to reject")
        return gold[0], wrong
    value: Any = doc[data.rejected] if data.rejected in doc else apply_template(data.rejected, doc)
    text = str(value).strip()
    index = int(text) if text.isdigit() else choices.index(text) if text in choices else -1
    if not 0 <= index < len(choices) or index in gold:
        raise GrainsError(
            f"task '{task.task_name}': data.rejected '{data.rejected}' gives '{text[:40]}', which is not a wrong "
            f"choice; give a field or template with a choice's index or text"
        )
    return gold[0], index
