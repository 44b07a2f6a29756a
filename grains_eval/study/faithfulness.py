"""Are attributions faithful? Remove the tokens they name and measure the change of the preference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grains_eval.attribution import attribute
from grains_eval.attribution.selections import rank, shared_tokens
from grains_eval.models import EncodedExample
from grains_eval.report import Curve, Series
from grains_eval.study.fidelity import preference_without
from grains_eval.types import TokenSelection
from grains_eval.vectors.context import BuildContext


@dataclass(frozen=True)
class FaithfulnessCurve:
    r"""Mean change of the preference when `k` tokens are removed from the prompt.

    Attributes:
        removed: `k`, ascending from 0.
        positive: Mean of `F(x \ T+_k) - F(x)` over examples, nats; falls where attribution is faithful.
        negative: The same for the top negative tokens; rises where it is.
        random: The same for candidates drawn at random, mean over draws.
        examples: Number of examples.
    """

    removed: tuple[int, ...]
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    random: tuple[float, ...]
    examples: int


@torch.no_grad()
def faithfulness(context: BuildContext, counts: Sequence[int], draws: int = 5) -> FaithfulnessCurve:
    """Measure how the preference falls and rises as named tokens are removed.

    Args:
        context: A build whose recipe names the attribution method.
        counts: Numbers of tokens to remove; 0 is added.
        draws: Draws of random tokens.
    """
    config = context.recipe.attribution
    shared = shared_tokens(context.examples, config.max_document_frequency)
    removed = tuple(sorted({0, *counts}))
    totals = {name: torch.zeros(len(removed), dtype=torch.float64) for name in ("positive", "negative", "random")}
    for example in context.progress(context.examples, "faithfulness"):
        found = context.attribute(example, config)
        blind = config.model_copy(update={"method": "random"})
        for name in ("positive", "negative"):
            totals[name] += _changes(context, example, [rank(found, example, config, shared, k) for k in removed], name)
        for draw in range(draws):
            scores = attribute(context.loaded, example, blind, context.recipe.seed + 1 + draw)
            chosen = [rank(scores, example, config, shared, k) for k in removed]
            totals["random"] += _changes(context, example, chosen, "positive") / draws
    means = {name: tuple((total / len(context.examples)).tolist()) for name, total in totals.items()}
    return FaithfulnessCurve(removed, means["positive"], means["negative"], means["random"], len(context.examples))


def _changes(context: BuildContext, example: EncodedExample, selections: Sequence[TokenSelection], side: str) -> Tensor:
    r"""`F(x \ S) - F(x)` for each selection, `[n]` float64."""
    values = preference_without(context, example, [(), *(getattr(selection, side) for selection in selections)])
    return values[1:] - values[0]


def faithfulness_figure(name: str, curve: FaithfulnessCurve) -> Curve:
    """The curve as a figure for the report."""
    lines = (("top positive", curve.positive), ("random", curve.random), ("top negative", curve.negative))
    return Curve(
        f"{name}: change of the preference when tokens are removed",
        "tokens removed",
        "F(x without them) − F(x), nats",
        tuple(Series(label, list(curve.removed), list(values)) for label, values in lines),
        note=f"Mean over {curve.examples} build examples; a faithful method separates the three lines.",
    )
