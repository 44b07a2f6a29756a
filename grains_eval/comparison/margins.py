"""Margins of multiple-choice items: how far the right choice's log-likelihood lies above the best wrong one's."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from grains_eval.comparison.pairing import PairedTask
from grains_eval.comparison.runs import Sample
from grains_eval.comparison.significance import Array


def margins_of(paired: PairedTask) -> tuple[Array, Array] | None:
    """`[n]` margins under both runs (nats), None where the task is not a multiple choice."""
    sides: list[Array] = []
    for side in (paired.baseline, paired.steered):
        margins = [_margin(sample) for sample in side]
        if any(margin is None for margin in margins):
            return None
        sides.append(np.array(margins, dtype=float))
    return sides[0], sides[1]


def _margin(sample: Sample) -> float | None:
    """`log p(right) - max log p(wrong)` in nats, None where the sample is not a multiple choice."""
    right = right_choice(sample)
    scores = log_likelihoods(sample)
    if right is None or scores is None:
        return None
    wrong = [score for index, score in enumerate(scores) if index != right]
    margin = scores[right] - max(wrong)
    return margin if math.isfinite(margin) else None


def log_likelihoods(sample: Sample) -> list[float] | None:
    """The choices' log-likelihoods in nats, None where the sample is not a multiple choice."""
    responses = sample.responses
    if not isinstance(responses, list) or len(sample.choices) < 2 or len(responses) != len(sample.choices):
        return None
    try:
        return [float(response[0]) for response in cast(list[Any], responses)]
    except (TypeError, ValueError, IndexError):
        return None


def right_choice(sample: Sample) -> int | None:
    """Index of the right choice, from a target that is an index or the choice's text."""
    if sample.target.isdigit():
        index = int(sample.target)
        return index if index < len(sample.choices) else None
    texts = [choice.strip() for choice in sample.choices]
    return texts.index(sample.target.strip()) if texts.count(sample.target.strip()) == 1 else None


def fitting(margins: tuple[Array, Array] | None, first: Array, second: Array) -> tuple[Array, Array] | None:
    """Margins where their sign is the metric, so that they show changes below its threshold; else None."""
    if margins is None:
        return None
    for margin, values in zip(margins, (first, second), strict=True):
        clear = margin != 0
        if not bool(np.all((margin[clear] > 0) == (values[clear] == 1))):
            return None
    return margins
