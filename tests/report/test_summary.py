"""One row a method: its gain, against its strongest control, and its cost."""

from __future__ import annotations

import json

from grains_eval.comparison import Question
from grains_eval.report import ReportData, compare_runs
from grains_eval.report.formatting import interval
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from grains_eval.report.summary import HEADER, summary
from grains_eval.report.write import to_json
from tests.comparison.folders import TaskData, write_run


def test_each_method_has_a_row_and_controls_have_none(report: ReportData) -> None:
    rows = {row[0]: row for row in summary(report)}
    assert set(rows) == {row.comparison.method for row in report.rows} - report.controls
    (rival, *_) = report.against_controls
    better = rows[rival.method]
    assert ", better, " in better[1] and " items" in better[1]
    assert better[2].startswith(f"{rival.control}: +") and better[2].endswith(", better")
    for name in set(rows) - {each.method for each in report.against_controls}:
        assert rows[name][2] == "no gain to compare"


def test_gain_and_cost_are_those_of_the_table(tmp_path) -> None:
    scores = {"plain": (0.0, 1.0), "moved": (1.0, 1.0)}
    for name, (target, kept) in scores.items():
        tasks = {"t": TaskData({"acc": [target] * 40}), "u": TaskData({"acc": [kept, 0.0] * 400})}
        write_run(tmp_path / name, tasks)
    folders = [tmp_path / name for name in scores]
    report = compare_runs(folders, question=Question(preserve=["u"]))
    (row,) = summary(report)
    bounds = interval(report.rows[0].comparison.interval, 1)
    assert row[:2] == ("moved", f"+100.0 ({bounds}), better, 40 items")
    assert row[2] == "no controls"
    assert row[3].startswith("kept: u +0.0 (")
    (row,) = summary(compare_runs(folders))
    assert row[1].startswith("t acc +100.0 (") and "; u acc +0.0 (" in row[1]
    assert row[3] == "nothing was declared"
    (row,) = summary(compare_runs(folders[::-1], question=Question(preserve=["t"])))
    assert row[3].startswith("lost: t −100.0 (")


def test_gains_are_positive_where_lower_is_better(tmp_path) -> None:
    for name, errors in (("plain", 1.0), ("moved", 0.0)):
        write_run(tmp_path / name, {"t": TaskData({"wer": [errors] * 40}, higher={"wer": False})})
    (row,) = summary(compare_runs([tmp_path / "plain", tmp_path / "moved"]))
    low, high = row[1].removeprefix("+100.0 (").partition("), better")[0].split(" to ")
    assert low.startswith("+") and high.startswith("+") and float(low) < float(high) == 100


def test_it_stands_on_top_of_page_and_markdown_and_the_figures_before_the_table(report: ReportData) -> None:
    page, text = render_html(report), to_markdown(report)
    assert (
        page.index('id="verdict"') < page.index('id="summary"') < page.index('id="figures"') < page.index('id="table"')
    )
    assert f"| {' | '.join(HEADER)} |" in text.partition("| task |")[0]
    assert [row["method"] for row in json.loads(to_json(report))["summary"]] == [row[0] for row in summary(report)]
