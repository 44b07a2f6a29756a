"""A document as its task asks it: the requests that lm-eval would make, the chat behind them, the few-shot examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from grains_eval.examples.fewshot import question_of, recorded_shots, shots_of
from grains_eval.lm_eval_versions import gen_prefix, requests_of
from grains_eval.models.chat import recording_template
from grains_eval.models.loading import HarnessModel
from grains_eval.questions import Document, QuestionHashes
from grains_eval.types import Message


@dataclass(frozen=True)
class TaskPrompt:
    """What a task asks of one document.

    Attributes:
        requests: One per choice, images included.
        messages: The chat that the template rendered; empty without one.
        question: Hashes of the document's text.
        shots: The few-shot examples of the prompt.
    """

    requests: Sequence[Instance]
    messages: tuple[Message, ...]
    question: QuestionHashes
    shots: tuple[Document, ...]


def task_prompt(
    task: ConfigurableTask, doc: Any, index: int, num_fewshot: int, chat_lm: HarnessModel | None
) -> TaskPrompt:
    """Prompt for a document as an evaluation of its task would.

    Args:
        task: A multiple-choice task.
        doc: One of its documents.
        index: Its number in the split.
        num_fewshot: Number of few-shot examples.
        chat_lm: The model whose chat template renders the prompt; None for a prompt without one.

    Raises:
        GrainsError: the model has no chat template, or there are too few documents for the few-shot examples.
    """
    template, messages = recording_template(chat_lm) if chat_lm is not None else (None, [])
    with recorded_shots(task, doc, num_fewshot) as shown:
        context = task.fewshot_context(
            doc,
            num_fewshot=num_fewshot,
            apply_chat_template=template is not None,
            fewshot_as_multiturn=template is not None,
            chat_template=template,
            gen_prefix=gen_prefix(task, doc),
        )
    requests = requests_of(task, doc, index, context, apply_chat_template=template is not None)
    return TaskPrompt(requests, tuple(messages), question_of(task, doc), shots_of(task, shown))
