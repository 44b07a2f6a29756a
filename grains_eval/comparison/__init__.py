"""Compares runs of lm-eval item by item: read, pair, measure, estimate, adjust, judge. Needs no torch."""

from __future__ import annotations

from grains_eval.comparison.settings import Analysis, Question
from grains_eval.comparison.two_runs import compare

__all__ = ["Analysis", "Question", "compare"]
