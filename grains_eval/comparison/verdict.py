"""What a row shows once it is adjusted: better, worse, or nothing; and which way is better."""

from __future__ import annotations

from typing import Literal, TypeVar

from grains_eval.comparison.significance import Array
from grains_eval.types import Comparison

Change = TypeVar("Change", float, Array)
Answer = Literal["better", "worse", "changed", "not shown", "no verdict"]


def answer(comparison: Comparison, alpha: float) -> Answer:
    """What a row shows after adjustment: better, worse, changed where no direction is declared, or nothing.

    With too few items, clusters or resamples for a test there is no verdict.
    """
    if comparison.units_needed is not None or comparison.most_rows is not None:
        return "no verdict"
    if not comparison.adjusted_p < alpha:
        return "not shown"
    if comparison.higher_is_better is None:
        return "changed"
    return "better" if (comparison.difference > 0) == comparison.higher_is_better else "worse"


def gain(change: Change, higher_is_better: bool | None) -> Change:
    """A change turned so that positive is better; as it is where no direction is declared."""
    return -change if higher_is_better is False else change
