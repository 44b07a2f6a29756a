"""Fidelity of a build's attributions, for its card."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grains_eval.attribution.fidelity import ExampleFidelity, example_fidelity, summarise
from grains_eval.attribution.objective import objective
from grains_eval.models import EncodedExample
from grains_eval.models.memory import rows_that_fit, run_with_halving
from grains_eval.types import Attribution
from grains_eval.vectors.context import BuildContext
from grains_eval.vectors.grains import masked

Fidelity = dict[str, dict[str, dict[str, float]]]


@torch.no_grad()
def fidelity(context: BuildContext, attributions: Sequence[Attribution]) -> Fidelity:
    """Measure the attributions of the first `attribution.fidelity_examples` examples; tokens go as the method masks.

    Returns:
        For `text` and `image` tokens, which are ranked among themselves, what `attribution.fidelity.summarise` gives;
        a modality is left out where no example has two candidates of it.
    """
    chosen = list(zip(context.examples, attributions, strict=True))[: context.recipe.attribution.fidelity_examples]
    found: dict[str, list[ExampleFidelity]] = {"text": [], "image": []}
    scored = {id(example): attribution for example, attribution in chosen}
    for example in context.progress([example for example, _ in chosen], "fidelity of the attributions"):
        attribution = scored[id(example)]
        for modality, those in (("text", ~attribution.is_image), ("image", attribution.is_image)):
            candidates = attribution.is_candidate & those
            if int(candidates.sum()) > 1:
                found[modality].append(_one(context, example, replace(attribution, is_candidate=candidates)))
    return {modality: summarise(each) for modality, each in found.items() if each}


def _one(context: BuildContext, example: EncodedExample, attribution: Attribution) -> ExampleFidelity:
    def remove(sets: Sequence[Sequence[int]]) -> Tensor:
        return preference_without(context, example, sets)

    seed = zlib.crc32(f"{context.recipe.seed}:{attribution.example_id}".encode())
    return example_fidelity(attribution, remove, seed)


def preference_without(context: BuildContext, example: EncodedExample, sets: Sequence[Sequence[int]]) -> Tensor:
    r"""`F(x \ S)` for sets of prompt positions, `[n]` float64 on the CPU, nats."""
    value = objective(context.loaded.model, example, context.recipe.attribution)

    def values(rows: int) -> Tensor:
        parts = [sets[start : start + rows] for start in range(0, len(sets), rows)]
        return torch.cat([value(torch.stack([masked(context, example, each) for each in part])) for part in parts])

    return run_with_halving(values, rows_that_fit(context.loaded.model, example, len(sets))).double().cpu()
