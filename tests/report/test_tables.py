"""What the tables say in every form."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from grains_eval.report import ReportData, render_terminal
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from tests.report.outline import Outline


def test_the_legend_explains_the_columns_that_are_there(report: ReportData) -> None:
    console = Console(file=io.StringIO(), width=220)
    render_terminal(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text, has in ((shown, False), (to_markdown(report), True)):
        assert ("anti-steered: items pushed" in text) is has
        assert "Holm over all rows of methods, and apart from them over all rows of controls" in text


def test_terminal_and_markdown_name_test_and_clusters(report: ReportData) -> None:
    console = Console(file=io.StringIO(), width=220)
    render_terminal(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    goal, skill = (
        next(r.comparison for r in report.rows if r.comparison.task == t) for t in ("truthfulqa_mc1", "mmlu")
    )
    for text in (shown, to_markdown(report)):
        assert f"{goal.test} over 20 clusters of 100 items" in text
        assert f"{skill.test} over 600 items" in text


def test_markdown_and_page_say_what_gave_each_row(report: ReportData) -> None:
    page = Outline.text(render_html(report))
    goal = next(r.comparison for r in report.rows if r.comparison.task == "truthfulqa_mc1")
    rates = "guaranteed" if goal.guaranteed else "approximate"
    expected = (
        f"{goal.test} over 20 clusters of 100 items, about clusters like these; error rates "
        f"{rates}, provided that {goal.assumption}",
        "mmlu acc: exact McNemar over 600 items, about items like these; error rates guaranteed, provided that items "
        "are independent.",
    )
    for text in (page, to_markdown(report)):
        assert [line for line in expected if line not in text] == [], text[text.find("truthfulqa_mc1 acc:") :][:400]
        assert "p and interval:" not in text


def test_skills_name_error_rates_clusters_and_what_would_tell(few: ReportData) -> None:
    lines = to_markdown(few).splitlines()
    (found,) = [line for line in lines if line.startswith("| few | acc | grains | no verdict")]
    assert found.endswith("| 63 | 9 |  | 9 clusters are too few for any test, which takes about 20 |")
    (found,) = [line for line in lines if line.startswith("| many | acc | grains | kept")]
    assert found.endswith("| 2,000 |  | guaranteed |  |")
    page = Outline.text(render_html(few))
    assert "9 clusters are too few for any test" in page and "guaranteed" in page


def test_kept_by_all_is_a_line_of_its_own(few: ReportData) -> None:
    told = replace(few, verdicts=tuple(replace(v, together=True, tasks=2) for v in few.verdicts))
    for text in (to_markdown(told), Outline.text(render_html(told))):
        assert "grains: both preserved tasks are kept, as one claim." in text
    for text in (to_markdown(few), Outline.text(render_html(few))):
        assert "as one claim." not in text
