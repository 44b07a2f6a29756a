"""Found tokens inside the prompt: a soft token in place of an embedding, or the found words themselves.

Each is inserted so that its distance to the end of the prompt is the one it was found at, after the first token at the
earliest. A soft token has an id beyond the vocabulary, and a hook on the input embeddings gives it its own.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.types import FoundTokens, TokenConfig
from grains_eval.virtual_tokens.merging import merged

logger = logging.getLogger(__name__)


@lru_cache(maxsize=64)
def _say_nearer(distance: int) -> None:
    """A warning, once a distance."""
    logger.warning(
        "prompts of %d tokens or fewer are too short for distance=%d: there the token stands after the first one, "
        "nearer than that",
        distance,
        distance,
    )


@lru_cache(maxsize=64)
def _say_cut(count: int) -> None:
    """A warning, once a number."""
    logger.warning("some texts leave no room for all %d found tokens before them: the farthest are cut away", count)


@dataclass(frozen=True, eq=False)
class Insertion:
    """What stands in every prompt.

    Attributes:
        ids: Token ids, the farthest from the end first; soft tokens count from the size of the vocabulary.
        distances: Prompt tokens after each.
        soft: `[N, hidden]` embeddings of ids from the size of the vocabulary on.
        vocabulary: Rows of the input embeddings.
    """

    ids: tuple[int, ...]
    distances: tuple[int, ...]
    soft: Tensor
    vocabulary: int

    def places(self, length: int) -> list[int]:
        """Where each goes in a prompt of `length` tokens: the index of the token that follows it."""
        return [max(min(1, length), length - distance) for distance in self.distances]

    def into(self, tokens: Sequence[int], room: int | None = None) -> list[int]:
        """A prompt with the tokens in it; one too short for a distance holds it after its first token, said once.

        Args:
            tokens: The prompt.
            room: Tokens that prompt and inserted ones may be together: a longer prompt loses its first ones. At
                least one prompt token is left for whoever cuts the row; that inserted ones go with it is said once.
        """
        if room is not None:
            kept = room - len(self.ids)
            if kept < 0:
                _say_cut(len(self.ids))
            tokens = tokens[-max(1, kept) :]
        for distance in self.distances:
            if distance >= len(tokens):
                _say_nearer(distance)
        made, done = list[int](), 0
        for place, token in zip(self.places(len(tokens)), self.ids, strict=True):
            made += [*tokens[done:place], token]
            done = place
        return [*made, *tokens[done:]]

    @contextmanager
    def known_to(self, model: PreTrainedModel) -> Generator[None, None, None]:
        """Let the input embeddings return the soft tokens' own."""
        if not len(self.soft):
            yield
            return
        embedding: nn.Module = model.get_input_embeddings()
        found: list[Tensor] = []

        def hide(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            del module
            name = next(iter(keywords), None) if not arguments else None
            ids: Tensor = arguments[0] if name is None else keywords[name]
            found[:] = [ids]
            known = ids.masked_fill(ids >= self.vocabulary, 0)
            return ((known, *arguments[1:]), keywords) if name is None else (arguments, {**keywords, name: known})

        def give(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            del module, arguments
            ids = found.pop().to(output.device)
            own = self.soft.to(output)[(ids - self.vocabulary).clamp_min(0)]
            return torch.where((ids >= self.vocabulary)[..., None], own, output)

        handles = embedding.register_forward_pre_hook(hide, with_kwargs=True), embedding.register_forward_hook(give)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def insertion(vocabulary: int, items: Sequence[tuple[FoundTokens, TokenConfig]]) -> Insertion | None:
    """What found tokens of the forms `embedding` and `text` put into every prompt; None for none.

    Args:
        vocabulary: Rows of the input embeddings; ids from here on are soft tokens.
        items: Found tokens and how they are applied.

    Raises:
        GrainsError: tokens that are not words of the vocabulary, such as parts of an image.
    """
    placed: list[tuple[int, int]] = []
    soft: list[Tensor] = []
    for found, config in items:
        tokens = merged(found.positive, config.tokens)
        for index, distance in enumerate(tokens.distances):
            distance = distance if config.distance is None else config.distance
            if config.form == "embedding":
                placed.append((distance, vocabulary + len(soft)))
                soft.append(tokens.embeddings[index])
            elif tokens.words[index] < 0:
                raise GrainsError("these tokens are not words of the vocabulary; use form=kv or form=embedding")
            else:
                placed.append((distance, tokens.words[index]))
    if not placed:
        return None
    placed.sort(key=lambda each: -each[0])
    width = torch.zeros(0, 0) if not soft else torch.stack(soft)
    return Insertion(tuple(token for _, token in placed), tuple(distance for distance, _ in placed), width, vocabulary)


def kept_tokens(insertion: Insertion, most: int, answers: int) -> int:
    """How many tokens of a prompt are kept beside those inserted, so that an answer can be generated.

    Args:
        insertion: What stands in every prompt.
        most: Tokens that the model takes.
        answers: Tokens to be generated.

    Raises:
        GrainsError: none.
    """
    kept = most - answers - len(insertion.ids)
    if kept < 1:
        raise GrainsError(
            f"{len(insertion.ids)} inserted tokens and {answers} generated ones leave no room for a prompt: the model "
            f"takes {most}; generate fewer (max_gen_toks), or raise max_length"
        )
    return kept


def into_batch(insertion: Insertion, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Left-padded prompts `[B, T]` with the tokens in them, their mask, and the columns that each row gained."""
    rows, masks, columns = list[list[int]](), list[list[int]](), list[list[int]]()
    for tokens, real in zip(ids.tolist(), mask.tolist(), strict=True):
        start = real.index(1)
        length = len(tokens) - start
        rows.append([*tokens[:start], *insertion.into(tokens[start:])])
        masks.append([*real[:start], *[1] * (length + len(insertion.ids))])
        columns.append([start + place + index for index, place in enumerate(insertion.places(length))])
    return ids.new_tensor(rows), mask.new_tensor(masks), columns


def out_of_batch(generated: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
    """Generated rows `[B, T]` without the columns that were inserted."""
    kept = [
        torch.tensor([column not in set(gained) for column in range(generated.shape[1])], device=generated.device)
        for gained in columns
    ]
    return torch.stack([row[keep] for row, keep in zip(generated, kept, strict=True)])
