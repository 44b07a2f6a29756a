"""What a row shows once it is adjusted: better, worse, or nothing."""

from __future__ import annotations

from typing import Literal

from grains_eval.types import Comparison

Answer = Literal["better", "worse", "changed", "not shown", "no verdict"]


def answer(comparison: Comparison, alpha: float) -> Answer:
    """What a row shows after adjustment: better, worse, changed where no direction is declared, or nothing.

    With too few items or clusters for a test there is no verdict at all.
    """
    if comparison.units_needed is not None:
        return "no verdict"
    if not comparison.adjusted_p < alpha:
        return "not shown"
    if comparison.higher_is_better is None:
        return "changed"
    return "better" if (comparison.difference > 0) == comparison.higher_is_better else "worse"


def gain(comparison: Comparison) -> float:
    """The difference, turned so that positive is better; as it is where no direction is declared."""
    return -comparison.difference if comparison.higher_is_better is False else comparison.difference
