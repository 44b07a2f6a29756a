"""What a run was."""

from __future__ import annotations

from grains_eval.report import ReportData
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown


def test_run_cards_say_why_the_scoring_path_was_taken(few: ReportData) -> None:
    assert all(("why this path", "the model <reads> ahead") in run.facts for run in few.runs)
    assert "why this path: the model &lt;reads> ahead" in to_markdown(few)
    assert "the model &lt;reads&gt; ahead" in render_html(few)
