"""Rows made from a few numbers."""

from __future__ import annotations

import math
from typing import Any

from grains_eval.comparison import intervals as statistics
from grains_eval.comparison.estimates import Row
from grains_eval.types import Comparison


def row(difference: float, half: float, **changes: object) -> Comparison:
    fields: dict[str, object] = {
        "task": "mmlu", "metric": "acc", "n": 1000, "baseline": 0.6, "steered": 0.6 + difference,
        "difference": difference, "standard_error": half / 1.96,
        "interval": (difference - half, difference + half),
        "p": 0.5, "adjusted_p": 0.5, "test": "exact McNemar", "helped": 1, "harmed": 1, "unchanged": 998,
        "method": "grains", "minimum_detectable_effect": 0.021,
    }  # fmt: skip
    return Comparison(**{**fields, **changes})  # type: ignore[arg-type]


def preserved(*counts: tuple[int, int], n: int = 1_000) -> list[Row]:
    made: list[Row] = []
    for helped, harmed in counts:
        procedure = statistics.BinaryPairs(helped, harmed, n)
        comparison = row((helped - harmed) / n, 0, interval=procedure.interval(0.05), n=n)
        made.append(Row(comparison, (), procedure))
    return made


INDEPENDENT: dict[str, Any] = {"assumption": "items are independent", "guaranteed": True}


RESAMPLED: dict[str, Any] = {"assumption": "clusters are independent, and many enough for a bootstrap", "clusters": 20}


FEW: dict[str, Any] = {
    "clusters": 9,
    "units_needed": 20,
    "interval": (math.nan, math.nan),
    "p": math.nan,
    "adjusted_p": math.nan,
}
