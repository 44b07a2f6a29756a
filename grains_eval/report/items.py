"""Every compared item as compact tables of JSON values, from which the page makes rows when they are looked at."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from grains_eval.comparison.estimates import Row
from grains_eval.comparison.margins import log_likelihoods, right_choice
from grains_eval.comparison.runs import Sample
from grains_eval.report.changed_items import answer_of, target_of
from grains_eval.report.data import ReportData

HASH = 16  # hex digits of a document's hash that the page shows


def item_tables(report: ReportData) -> list[dict[str, Any]]:
    """One table per target and preserved task, with a column per method; nothing is rounded below 1e-4.

    Methods that were compared on other documents of a task have a table of their own.
    """
    wanted = dict.fromkeys([*report.targets, *((v.task, v.metric) for v in report.verdicts)])
    grouped: dict[Hashable, list[Row]] = {}
    for key in wanted:
        for row in report.rows:
            if row.key == key and row.metrics and row.comparison.method not in report.controls:
                documents = tuple((metric.task, pair[0].doc_id) for metric in row.metrics for pair in metric.pairs)
                grouped.setdefault((key, documents), []).append(row)
    return [_table(rows) for rows in grouped.values()]


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    pairs = [pair for metric in first.metrics for pair in metric.pairs]
    subtasks = [place for place, metric in enumerate(first.metrics) for _ in metric.pairs]
    labels = _labels(first)
    before = [one for one, _ in pairs]
    return {
        "task": first.comparison.task,
        "metric": first.comparison.metric,
        "higher": first.comparison.higher_is_better,
        "subtasks": [metric.task for metric in first.metrics],
        "subtask": subtasks,
        "clusters": list(labels),
        "cluster": [] if not labels else [labels[label] for label in _clusters(first)],
        "document": [one.doc_id for one in before],
        "hash": [one.doc_hash[:HASH] for one in before],
        "target": [target_of(one) for one in before],
        "right": [right_choice(one) if log_likelihoods(one) is not None else None for one in before],
        "choices": [list(one.choices) if log_likelihoods(one) is not None else [] for one in before],
        **_prompts(before, subtasks),
        **_side(before, first, 0),
        "methods": [_method(row) for row in rows],
    }


def _method(row: Row) -> dict[str, Any]:
    """What one method did to each item."""
    pairs = [pair for metric in row.metrics for pair in metric.pairs]
    after = [two for _, two in pairs]
    found: dict[str, Any] = {"name": row.comparison.method, **_side(after, row, 1)}
    found["push"] = _numbers(value for metric in row.metrics for value in metric.pushes)
    found["unit"] = "nats" if all(metric.margins is not None for metric in row.metrics) else row.comparison.metric
    if any(one.prompt != two.prompt for one, two in pairs):
        subtasks = [place for place, metric in enumerate(row.metrics) for _ in metric.pairs]
        found |= _prompts(after, subtasks)
    return found


def _side(samples: Sequence[Sample], row: Row, side: int) -> dict[str, Any]:
    """Scores, margins and answers under one of the runs."""
    scores = [(metric.baseline, metric.steered)[side] for metric in row.metrics]
    margins = [value for metric in row.metrics if metric.margins is not None for value in metric.margins[side]]
    return {
        "score": _numbers(value for column in scores for value in column),
        "margin": _numbers(margins) if len(margins) == len(samples) else [],
        "answer": [_answer(sample) for sample in samples],
    }


def _answer(sample: Sample) -> list[float | str | None] | str:
    """The log-likelihood of every choice, or the generated text."""
    scores = log_likelihoods(sample)
    return answer_of(sample) if scores is None else _numbers(scores)


def _clusters(row: Row) -> list[str]:
    return [str(label) for metric in row.metrics for label in (metric.clusters or ())]


def _labels(row: Row) -> dict[str, int]:
    """Number of each cluster, none where not every item has one."""
    if any(metric.clusters is None for metric in row.metrics):
        return {}
    return {label: place for place, label in enumerate(dict.fromkeys(_clusters(row)))}


def _prompts(samples: Sequence[Sample], subtasks: Sequence[int]) -> dict[str, list[str]]:
    """Prompts without the lines that all of a subtask begin with, which few-shot examples make most of the text."""
    grouped: dict[int, list[str]] = {}
    for sample, place in zip(samples, subtasks, strict=True):
        grouped.setdefault(place, []).append(sample.prompt)
    shared = [_shared(grouped.get(place, [])) for place in range(max(subtasks, default=-1) + 1)]
    rests = [sample.prompt[len(shared[place]) :] for sample, place in zip(samples, subtasks, strict=True)]
    return {"shared": shared, "prompt": rests}


def _shared(prompts: Sequence[str]) -> str:
    """The lines that several prompts begin with."""
    if len(set(prompts)) < 2:
        return ""
    first, last = min(prompts), max(prompts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("\n", 0, same) + 1]


def _numbers(values: Iterable[Any]) -> list[float | str | None]:
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | str | None:
    """A number as JSON can hold it: infinities as JavaScript's names of them, None for NaN."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    short = round(value, 4)
    return int(short) if short == int(short) else short
