"""Chat templates: whether a model has one, prompts rendered with it, and instructions put into a chat.

The rendering itself is lm-eval's `apply_chat_template`, so that a build reads what an evaluation reads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.models.loading import HarnessModel, LoadedModel
from grains_eval.types import Message

SEPARATOR = "\n\n"  # between an instruction and what follows it
Chat = list[dict[str, Any]]


def has_template(lm: HarnessModel) -> bool:
    """Whether the model's tokenizer has a chat template."""
    return getattr(lm.tokenizer, "chat_template", None) is not None


def recording_template(lm: HarnessModel) -> tuple[Callable[..., str], list[Message]]:
    """The chat template as a task takes it, and the messages that it will have rendered.

    Raises:
        GrainsError: the model has none.
    """
    if not has_template(lm):
        raise GrainsError(
            "data.chat_template is set but this model's tokenizer has no chat template; use an instruct model"
        )
    messages: list[Message] = []

    def template(chat: Chat, add_generation_prompt: bool = True) -> str:
        messages.extend(Message(turn["role"], turn["content"]) for turn in chat)
        return lm.apply_chat_template(chat, add_generation_prompt=add_generation_prompt)

    return template, messages


def render(
    loaded: LoadedModel, prompt: str | tuple[Message, ...], separator: str | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt as text, with the character spans that are the user's content rather than the chat template's.

    Args:
        loaded: The model.
        prompt: Text, or messages for the chat template.
        separator: Splits a message's content into parts that the template keeps (unlike an image placeholder).

    Raises:
        GrainsError: the template changes a message's text, so that its content cannot be told from the template.
    """
    if isinstance(prompt, str):
        return prompt, [(0, len(prompt))]
    if not has_template(loaded.lm):
        raise GrainsError(
            "the prompt is a list of messages but this model's tokenizer has no chat template; give it as text"
        )
    cores = [
        (message.role, part.strip())
        for message in prompt
        for part in (message.content.split(separator) if separator else [message.content])
        if part.strip()
    ]
    text = _rendered(loaded.lm, prompt)
    # what stands between the marks is the template, whatever words the messages hold
    pieces = _MARK.split(_rendered(loaded.lm, _marked(prompt, separator)))
    between, order = pieces[0::2], [int(index) for index in pieces[1::2]]
    spans: list[tuple[int, int]] = []
    position = 0
    for before, index in zip(between, order, strict=False):
        start = position + len(before)
        position = start + len(cores[index][1])
        spans.append((start, position))
        if text[start - len(before) : position] != before + cores[index][1]:
            raise _rewritten(*cores[index])
    lost = set(range(len(cores))) - set(order)
    if lost or text[position:] != between[-1]:
        raise _rewritten(*cores[min(lost, default=len(cores) - 1)])
    return text, spans


_MARK = re.compile("\ue000([0-9]+)\ue001")


def _marked(prompt: tuple[Message, ...], separator: str | None) -> tuple[Message, ...]:
    """The messages with each part's words replaced by a private-use mark; the spaces around them stay."""
    count = itertools.count()

    def mark(part: str) -> str:
        words = part.strip()
        return part.replace(words, f"\ue000{next(count)}\ue001", 1) if words else part

    def marked(content: str) -> str:
        return separator.join(map(mark, content.split(separator))) if separator else mark(content)

    return tuple(Message(message.role, marked(message.content)) for message in prompt)


def _rendered(lm: HarnessModel, messages: tuple[Message, ...]) -> str:
    chat: Chat = [{"role": message.role, "content": message.content} for message in messages]
    applied = getattr(lm, "chat_applied", None)
    text = lm.apply_chat_template(chat, add_generation_prompt=messages[-1].role != "assistant")
    if applied is not None:  # hf-multimodal remembers it for every later request, templated or not
        lm.chat_applied = applied
    return text


def _rewritten(role: str, content: str) -> GrainsError:
    return GrainsError(
        f"the chat template rewrites the {role} message '{content[:40]}'; "
        "its tokens cannot be told from the template's: give the prompt as plain text"
    )


def with_system_message(chat: Chat, instruction: str) -> Chat:
    """The instruction as system message, before the text of one that is there already."""
    if chat and chat[0]["role"] == "system":
        return [{**chat[0], "content": f"{instruction}{SEPARATOR}{chat[0]['content']}"}, *chat[1:]]
    return [{"role": "system", "content": instruction}, *chat]


def in_first_user_turn(chat: Chat, instruction: str) -> Chat:
    """The instruction, and a system message that cannot be shown as one, open the first user turn."""
    system = [turn["content"] for turn in chat if turn["role"] == "system"]
    turns = [turn for turn in chat if turn["role"] != "system"]
    first = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": SEPARATOR.join([instruction, *system])}, *turns]
    turns[first] = {
        **turns[first],
        "content": SEPARATOR.join([instruction, *system, turns[first]["content"]]),
    }
    return turns
