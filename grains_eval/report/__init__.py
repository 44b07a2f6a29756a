"""Lays a comparison of runs out as one report: terminal, HTML, Markdown, JSON and CSV. Needs no torch."""

from __future__ import annotations

from grains_eval.report.build import compare_runs
from grains_eval.report.data import Curve, ReportData, Series, StudyTable, Supplement, TokenMap
from grains_eval.report.terminal import render_terminal
from grains_eval.report.token_maps import token_map
from grains_eval.report.write import write

__all__ = [
    "Curve",
    "ReportData",
    "Series",
    "StudyTable",
    "Supplement",
    "TokenMap",
    "compare_runs",
    "render_terminal",
    "token_map",
    "write",
]
