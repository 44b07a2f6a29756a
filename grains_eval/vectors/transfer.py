"""Measure transfer: show a token of one build prompt to the other prompts, by its own keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grains_eval.attribution.objective import Objective, objective
from grains_eval.attribution.transfer import Candidate
from grains_eval.errors import GrainsError
from grains_eval.models import EncodedExample, LoadedModel
from grains_eval.models.forward import run_prompt
from grains_eval.models.memory import rows_that_fit, run_with_halving
from grains_eval.types import TokenOrigin, TokenPool
from grains_eval.vectors.context import BuildContext
from grains_eval.virtual_tokens import ResolvedTokens, layout, reading, shown


@torch.no_grad()
def read_tokens(
    context: BuildContext, candidates: Sequence[Candidate], statistics: Sequence[float] | None = None
) -> TokenPool:
    """Keys, values and embeddings of tokens as they stand in their own prompts, on the CPU.

    Raises:
        GrainsError: a model whose keys and values cannot be shown exactly.
    """
    model = context.loaded.model
    places = layout(model)
    inputs: Any = model.get_input_embeddings()
    width = int(inputs.weight.shape[-1])  # what follows in an example's embeddings are features of its images
    rows: dict[Candidate, tuple[list[Tensor], list[Tensor], Tensor]] = {}
    for index in sorted({example for example, _ in candidates}):
        encoded = context.examples[index]
        axes = encoded.decoder_keywords.get("position_ids")
        if axes is not None and axes.ndim == 3 and bool(encoded.is_image.any()):
            raise GrainsError(
                f"{type(model).__name__} places image tokens on several axes, where a token's distance is not one "
                "number; build found tokens from text, or vectors with method=grains"
            )
        with reading(model, places) as read:
            run_prompt(model, encoded, encoded.embeddings[None], use_cache=False)
        for position in sorted({position for example, position in candidates if example == index}):
            keys, values = ([read[layer][side][0, :, position].cpu() for layer in sorted(read)] for side in (0, 1))
            rows[index, position] = keys, values, encoded.embeddings[position, :width].float().cpu()
    keys, values = (
        {layer: torch.stack([rows[each][side][layer] for each in candidates]) for layer in range(len(places.heads))}
        for side in (0, 1)
    )
    origins = [
        origin(context.loaded, context.examples[index], position, statistics[row] if statistics else float("nan"))
        for row, (index, position) in enumerate(candidates)
    ]
    return TokenPool(keys, values, torch.stack([rows[each][2] for each in candidates]), tuple(origins))


def origin(loaded: LoadedModel, encoded: EncodedExample, position: int, statistic: float) -> TokenOrigin:
    """Where a token stood."""
    visual = bool(encoded.is_image[position])
    number = -1 if visual else int(encoded.input_ids[position])
    word = encoded.tokens[position] if visual else str(loaded.tokenizer.decode([number])).strip()
    distance = len(encoded.input_ids) - 1 - position
    return TokenOrigin(word, number, position, distance, encoded.example.id, statistic)


def each_alone(pool: TokenPool) -> list[ResolvedTokens]:
    """Every token of a pool as one virtual token at its own distance."""
    return [
        ResolvedTokens(
            {layer: keys[index : index + 1] for layer, keys in pool.keys.items()},
            {layer: values[index : index + 1] for layer, values in pool.values.items()},
            (one.distance,),
            (0.0,),
        )
        for index, one in enumerate(pool.origins)
    ]


@torch.no_grad()
def transfer(context: BuildContext, tokens: Sequence[ResolvedTokens]) -> Tensor:
    """`[tokens, examples]` change of `F`, nats, when each virtual token is shown to each build prompt.

    One batched forward pass over an example's prompt tests all tokens on it.
    """
    model, config = context.loaded.model, context.recipe.attribution
    changes = torch.zeros(len(tokens), len(context.examples))
    for column, encoded in enumerate(context.progress(context.examples, "transfer")):
        value, prompt = objective(model, encoded, config), encoded.embeddings[None]

        def measure(rows: int, value: Objective = value, prompt: Tensor = prompt) -> Tensor:
            parts: list[Tensor] = []
            for start in range(0, len(tokens), rows):
                some = tokens[start : start + rows]
                with shown(model, [[one] for one in some], alternate=True):
                    parts.append(value(prompt.expand(len(some), -1, -1)).float().cpu())
            return torch.cat(parts)

        shifted = run_with_halving(measure, rows_that_fit(model, encoded, len(tokens)))
        changes[:, column] = shifted - value(prompt).float().cpu()
    return changes
