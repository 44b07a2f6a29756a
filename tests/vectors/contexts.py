"""Build contexts on the tiny models, and states read independently of the code under test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grains_eval.models import LoadedModel
from grains_eval.models.layers import find_attention_outputs, find_layers
from grains_eval.recipes import Recipe, parse_recipe
from grains_eval.types import PreferenceExample
from grains_eval.vectors import BuildContext, build_context

QUESTIONS = ["the capital of france", "a good dog", "green", "a red circle", "the picture", "a safe world"]
EXAMPLES = [
    PreferenceExample(f"e{i}", f"h{i}", f"What is {words}", chosen, rejected)
    for i, (words, chosen, rejected) in enumerate(
        zip(QUESTIONS, [" paris", " yes no", " true", " good", " yes", " safe world"],
            [" rome", " harm bad", " false no", " bad", " no", " harm"], strict=True)
    )
]  # fmt: skip


def recipe(method: str, seed: int = 0, **options: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "test",
            "seed": seed,
            "data": {"path": "unused.jsonl", "examples": len(EXAMPLES), "development": 0},
            "vectors": {"method": method, "options": options},
        }
    )


def context(loaded: LoadedModel, method: str, seed: int = 0, **options: Any) -> BuildContext:
    return build_context(loaded, EXAMPLES, recipe(method, seed, **options))


@torch.no_grad()
def states_by_hand(loaded: LoadedModel, text: str, site: str, tokens: int = 1) -> Tensor:
    """`[L, W]` mean over the last tokens of a whole text, from one plain forward pass."""
    kept: dict[int, Tensor] = {}
    handles = []
    if site == "block_output":
        for layer, block in enumerate(find_layers(loaded.model)):

            def keep(module: Any, args: Any, output: Any, layer: int = layer) -> None:
                kept[layer] = output[0] if isinstance(output, tuple) else output

            handles.append(block.register_forward_hook(keep))
    else:
        for layer, projection in enumerate(find_attention_outputs(loaded.model)):

            def keep_input(module: Any, args: Any, layer: int = layer) -> None:
                kept[layer] = args[0]

            handles.append(projection.register_forward_pre_hook(keep_input))
    loaded.model(torch.tensor([loaded.lm.tok_encode(text)]))
    for handle in handles:
        handle.remove()
    return torch.stack([kept[layer][0, -tokens:].mean(dim=0) for layer in range(len(kept))])


def differences_by_hand(loaded: LoadedModel, site: str = "block_output") -> Tensor:
    """`[N, L, W]`."""
    return torch.stack(
        [
            states_by_hand(loaded, f"{one.prompt}{one.chosen}", site)
            - states_by_hand(loaded, f"{one.prompt}{one.rejected}", site)
            for one in EXAMPLES
        ]
    )
