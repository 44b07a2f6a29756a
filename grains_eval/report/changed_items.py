"""The items behind a row: who was helped, who was harmed, and what the model said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from grains_eval.comparison.estimates import Row
from grains_eval.comparison.item_metrics import PairedMetric
from grains_eval.comparison.margins import log_likelihoods, right_choice
from grains_eval.comparison.runs import Sample
from grains_eval.report.data import Changes, ItemChange


def changes(row: Row, shown: int) -> Changes:
    """Per-item effects of a row, with its most helped and most harmed items.

    Args:
        row: The row and its items.
        shown: How many items to show at either end.
    """
    pushes = np.concatenate([metric.pushes for metric in row.metrics])
    gains = np.concatenate([metric.gains for metric in row.metrics])
    places = [(metric, index) for metric in row.metrics for index in range(metric.baseline.size)]
    # Items whose metric flipped come first, then those pushed furthest.
    order = np.lexsort((-pushes, -gains))
    helped = [i for i in order[:shown] if gains[i] > 0 or pushes[i] > 0]
    harmed = [i for i in order[::-1][:shown] if gains[i] < 0 or pushes[i] < 0]
    margins = all(metric.margins is not None for metric in row.metrics)
    if not all(metric.has_right_way for metric in row.metrics):
        helped = harmed = []
    return Changes(
        method=row.comparison.method,
        task=row.comparison.task,
        metric=row.comparison.metric,
        pushes=tuple(np.sort(pushes)[::-1].tolist()),
        unit="nats" if margins else row.comparison.metric,
        helped=tuple(_item(places[i], float(pushes[i])) for i in helped),
        harmed=tuple(_item(places[i], float(pushes[i])) for i in harmed),
        anti_steered=row.comparison.anti_steered,
    )


def _item(place: tuple[PairedMetric, int], pushed: float) -> ItemChange:
    metric, index = place
    before, after = metric.pairs[index]
    return ItemChange(
        doc_id=before.doc_id,
        doc_hash=before.doc_hash,
        prompt=before.prompt or "(the prompt was not logged)",
        target=target_of(before),
        before=answer_of(before),
        after=answer_of(after),
        baseline=float(metric.baseline[index]),
        steered=float(metric.steered[index]),
        push=pushed,
    )


def target_of(sample: Sample) -> str:
    """What was right, as text."""
    right = right_choice(sample)
    if right is not None:
        return sample.choices[right].strip()
    answers = cast(Mapping[str, Any], sample.doc) if isinstance(sample.doc, Mapping) else {}
    # Some generation tasks log a blank target and keep the references in the document.
    return sample.target.strip() or str(answers.get("best_answer", "")) or "(none logged)"


def answer_of(sample: Sample) -> str:
    """What the model answered: the likeliest choice and every choice's score, or the generated text."""
    scores = log_likelihoods(sample)
    if scores is not None:
        best = int(np.argmax(scores))
        listed = "\n".join(
            f"{'→' if index == best else ' '} {score:9.3f} nats  {choice.strip()}"
            for index, (choice, score) in enumerate(zip(sample.choices, scores, strict=True))
        )
        return f"{sample.choices[best].strip()}\n{listed}"
    response = sample.responses
    while isinstance(response, list) and response:
        response = cast(list[Any], response)[0]
    return str(response) if response not in (None, "", []) else "(nothing)"
