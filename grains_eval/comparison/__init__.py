"""Compares runs of lm-eval item by item: pairing, paired statistics, roles and verdicts. Needs no torch."""

from __future__ import annotations

from grains_eval.comparison.rows import compare

__all__ = ["compare"]
