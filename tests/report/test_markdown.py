"""The report in Markdown, and what the terminal shares with it."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from grains_eval.report import ReportData, render_terminal
from grains_eval.report.data import StudyTable
from grains_eval.report.markdown import to_markdown


def test_markdown_and_terminal(report: ReportData) -> None:
    text = to_markdown(report)
    assert report.headline.replace("<", "&lt;") in text
    assert text.count("| truthfulqa_mc1 |") == 4
    assert "| nl_iti | the probe ran out of memory &lt;here>" in text
    console = Console(file=io.StringIO(), width=220)
    render_terminal(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "grains",
        "nl_iti failed: the probe ran out of memory",
        "random vectors, 2 draws",
        "note: a note for the reader",
    ):
        assert words in shown


def test_titles_and_headings_are_texts(report: ReportData) -> None:
    table = StudyTable("one | <b>two</b>", ("name | <i>", "a\nb"), (("x", "1"),))
    text = to_markdown(replace(report, tables=(table,)))
    assert "## one \\| &lt;b>two&lt;/b>\n" in text and "| name \\| &lt;i> | a b |\n" in text
