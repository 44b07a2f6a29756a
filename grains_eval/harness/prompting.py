"""The prompting baseline: an instruction in front of every prompt that the harness scores or continues.

AxBench (arXiv 2501.17148) found that an instruction beats every steering method it compared, so a table
without this row misleads.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance

from grains_eval.errors import GrainsError
from grains_eval.models.chat import SEPARATOR, Chat, in_first_user_turn, with_system_message

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

logger = logging.getLogger(__name__)


class PromptingMixin(_Base):
    """Puts `instruction` before prompts; stands before an lm-eval Hugging Face model in the class's bases.

    With a chat template the instruction is the system message, or the beginning of the first user turn where
    the template has no system role. Elsewhere it is text in front of the context. A context that holds the
    instruction already, from the chat template or a request cache, is left alone.

    """

    # whether the chat template shows a system message; found out at the first prompt
    _system_role: bool = True

    @property
    def instruction(self) -> str | None:
        """What stands before every prompt; None leaves every request untouched."""
        return None

    @property
    def tokenizer_name(self) -> str:
        """As `hf`; with an instruction another name, since lm-eval caches rendered chats under it."""
        name = super().tokenizer_name
        if self.instruction is None:
            return name
        return f"{name}-{hashlib.sha256(self.instruction.encode()).hexdigest()[:16]}"

    def apply_chat_template(self, chat_history: Chat, add_generation_prompt: bool = True) -> str:
        """Render a chat that begins with the instruction.

        Raises:
            GrainsError: the template shows the instruction neither as a system message nor in the user's
            turn.
        """
        instruction = self.instruction
        if instruction is None:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        if self._system_role:
            # rendering may rewrite the messages it is given
            chat = copy.deepcopy(chat_history)
            try:
                text = super().apply_chat_template(with_system_message(chat, instruction), add_generation_prompt)
            except TemplateError:
                text = ""
            if instruction in text:
                return text
            logger.warning(
                "the chat template shows no system message; the instruction opens the first user turn instead"
            )
            self._system_role = False
        chat = in_first_user_turn(copy.deepcopy(chat_history), instruction)
        text = super().apply_chat_template(chat, add_generation_prompt)
        if instruction not in text:
            raise GrainsError(
                "the chat template does not show the instruction as it is; shorten it to one plain paragraph"
            )
        return text

    def instructed(self, requests: Sequence[Instance]) -> list[Instance]:
        """Copies of requests whose contexts begin with the instruction; the same requests without one."""
        instruction = self.instruction
        if instruction is None:
            return list(requests)
        bos: str | None = getattr(self.tokenizer, "bos_token", None)
        changed: list[Instance] = []
        for request in requests:
            context, *rest = request.args
            arguments = (with_instruction(context, instruction, bos), *rest)
            metadata = (request.task_name, request.doc_id, request.repeats)
            changed.append(replace(request, arguments=arguments, metadata=metadata))
        return changed

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations after the instruction and their contexts; see `hf`."""
        return super().loglikelihood(self.instructed(requests), disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """As `hf`: a text that is scored from its first token has no prompt to hold an instruction."""
        if self.instruction is not None and requests:
            logger.warning("rolling log-likelihoods have no prompt: the instruction does not act on them")
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue the instruction and the contexts; see `hf`."""
        return super().generate_until(self.instructed(requests), disable_tqdm=disable_tqdm)


def with_instruction(context: str, instruction: str, bos: str | None = None) -> str:
    """A context with the instruction in front, after a BOS token that is spelled out there already."""
    if instruction in context:
        return context
    start = bos if bos and context.startswith(bos) else ""
    return f"{start}{instruction}{SEPARATOR}{context[len(start) :]}"
