"""Are attributions faithful? Remove the tokens they name and measure the change of the preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from scipy.stats import t
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
        errors: Standard errors of these means over the examples, by name.
    """

    removed: tuple[int, ...]
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    random: tuple[float, ...]
    examples: int
    errors: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])


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
    changes: dict[str, list[Tensor]] = {"positive": [], "negative": [], "random": []}
    for example in context.progress(context.examples, "faithfulness"):
        found = context.attribute(example, config)
        blind = config.model_copy(update={"method": "random"})
        for name in ("positive", "negative"):
            selections = [rank(found, example, config, shared, k) for k in removed]
            changes[name].append(_changes(context, example, selections, name))
        at_random: list[Tensor] = []
        for draw in range(draws):
            scores = attribute(context.loaded, example, blind, context.recipe.seed + 1 + draw)
            chosen = [rank(scores, example, config, shared, k) for k in removed]
            at_random.append(_changes(context, example, chosen, "positive"))
        changes["random"].append(torch.stack(at_random).mean(0))
    n = len(context.examples)
    means = {name: tuple(torch.stack(rows).mean(0).tolist()) for name, rows in changes.items()}
    spread = {name: torch.stack(rows).std(0, correction=min(1, n - 1)) / n**0.5 for name, rows in changes.items()}
    errors = {name: tuple(values.tolist()) for name, values in spread.items()}
    return FaithfulnessCurve(removed, means["positive"], means["negative"], means["random"], n, errors)


def _changes(context: BuildContext, example: EncodedExample, selections: Sequence[TokenSelection], side: str) -> Tensor:
    r"""`F(x \ S) - F(x)` for each selection, `[n]` float64."""
    values = preference_without(context, example, [(), *(getattr(selection, side) for selection in selections)])
    return values[1:] - values[0]


def faithfulness_figure(name: str, curve: FaithfulnessCurve, top_k: int | None = None) -> Curve:
    """The curve as a figure for the report, with the number of tokens that the build masks marked."""

    def line(label: str, side: str) -> Series:
        means, errors = getattr(curve, side), curve.errors.get(side, ())
        if curve.examples < 2 or not errors:
            return Series(label, list(curve.removed), list(means))
        halves = [float(t.isf(0.025, curve.examples - 1)) * error for error in errors]
        low = [mean - half for mean, half in zip(means, halves, strict=True)]
        high = [mean + half for mean, half in zip(means, halves, strict=True)]
        return Series(label, list(curve.removed), list(means), low, high)

    lines = (("top positive", "positive"), ("random", "random"), ("top negative", "negative"))
    return Curve(
        f"{name}: change of the preference when tokens are removed",
        "tokens removed",
        "F(x without them) − F(x), nats",
        tuple(line(*one) for one in lines),
        chosen=None if top_k is None else float(top_k),
        note=f"Mean over {curve.examples} build examples with 95 % intervals (Student's t over examples); a faithful "
        "method separates the three lines.",
    )
