"""Lays a comparison of runs out as one report: terminal, HTML, Markdown, JSON and CSV. Needs no torch."""

from __future__ import annotations

from grains_eval.report.build import compare_runs
from grains_eval.report.data import Curve, ReportData, Series, StudyTable, TokenMap
from grains_eval.report.heatmap import token_map
from grains_eval.report.tables import render_terminal
from grains_eval.report.write import write

__all__ = [
    "Curve",
    "ReportData",
    "Series",
    "StudyTable",
    "TokenMap",
    "compare_runs",
    "render_terminal",
    "token_map",
    "write",
]
