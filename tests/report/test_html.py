"""The page."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from grains_eval.report import ReportData, compare_runs
from grains_eval.report.html import render_heat_maps, render_html
from tests.comparison import world
from tests.comparison.folders import TaskData, write_run
from tests.report.outline import Outline


def test_long_names_may_break_in_the_page(tmp_path: Path) -> None:
    for folder in ("plain", "top_k=2__<b>"):
        write_run(tmp_path / folder, {"t": TaskData({"acc": [0.0, 1.0] * 6})})
    page = render_html(compare_runs([tmp_path / "plain", tmp_path / "top_k=2__<b>"]))
    assert "top_<wbr>k=<wbr>2__<wbr>&lt;b&gt;" in page and "__<b>" not in page


def test_page_is_self_contained_and_accessible(report: ReportData) -> None:
    page = render_html(report)
    outline = Outline()
    outline.feed(page)
    assert len(outline.ids) == len(set(outline.ids))
    inner = [link[1:] for link in outline.links if link.startswith("#")]
    assert set(inner) <= set(outline.ids)
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert outline.headers_without_scope == 0
    assert outline.unnamed_images == 0
    assert outline.headings.count("h1") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert page.count("<script") == 1 + page.count('<script type="application/json"') == 3
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'\">" in page
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|fetch|XMLHttp)", script)
    assert not re.search(r"url\((?!#)", page)
    for words in (
        "prefers-color-scheme: dark",
        "@media print",
        ":focus-visible",
        'class="skip"',
        "<caption>",
    ):
        assert words in page


def test_everything_is_in_the_page(report: ReportData) -> None:
    page = render_html(report)
    assert page.index('id="verdict"') < page.index("<table>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "the probe ran out of memory &lt;here&gt;" in page
    assert "$x_1$ {{ nothing }}" in page
    assert "Most helped" in page and "Most harmed" in page
    assert "random vectors, 2 draws" in page and "Every draw of the controls" in page
    assert page.index("random vectors, 2 draws") < page.index("Every draw of the controls") < page.index("random 1<")
    assert "Strength on development items" in page
    assert "data:image/png;base64," in page
    assert "completeness error 1.20 %" in page
    for run in report.runs:
        assert run.digest in page


def test_the_page_is_the_same_every_time(report: ReportData) -> None:
    assert render_html(report) == render_html(report)


def test_a_page_without_items_runs_no_script(report: ReportData) -> None:
    empty = replace(report, rows=(), targets=(), verdicts=(), bands=())
    for page in (render_html(empty), render_heat_maps("maps", world.maps())):
        assert "<script" not in page and "script-src" not in page and 'id="explorer"' not in page
