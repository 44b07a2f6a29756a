"""Many runs to one report, in every form."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from grains_eval.comparison.roles import Band
from grains_eval.comparison.significance import holm
from grains_eval.errors import GrainsError
from grains_eval.report import ReportData, compare_runs, plots, render_terminal, write
from grains_eval.report.data import Curve, Series
from grains_eval.report.export import to_csv, to_json
from grains_eval.report.html import render_html
from grains_eval.report.published import published_tables
from grains_eval.report.tables import COLUMNS, to_markdown
from tests.comparison import world
from tests.comparison.folders import TaskData, write_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return world.folders(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(folders: dict[str, Path]) -> ReportData:
    return compare_runs(folders, **world.extras())


def test_rows_verdicts_and_controls(report: ReportData) -> None:
    keys = [(r.comparison.task, r.comparison.method) for r in report.rows]
    names = ["grains", "caa", "random 1", "random 2"]
    assert keys == [(task, name) for task in ("truthfulqa_mc1", "mmlu") for name in names]
    assert report.controls == {"random 1", "random 2"}
    assert report.methods == ("grains", "caa")
    assert report.targets == (("truthfulqa_mc1", "acc"),)
    assert {v.method: v.answer for v in report.verdicts if v.method in report.methods}["caa"] == "lost"
    assert all(r.comparison.excluded == 20 for r in report.rows if r.comparison.task == "truthfulqa_mc1")
    assert all(r.comparison.clusters == 20 for r in report.rows if r.comparison.task == "truthfulqa_mc1")
    against = {item.method: item for item in report.against_controls}
    assert against["grains"].control in report.controls
    assert against["grains"].row.comparison.difference > 0
    assert "caa" in report.headline and "random" not in report.headline


def test_holm_runs_over_methods_and_apart_over_controls(report: ReportData) -> None:
    for controls in (False, True):
        family = [r.comparison for r in report.rows if (r.comparison.method in report.controls) is controls]
        assert len(family) == 4
        assert [row.adjusted_p for row in family] == holm([row.p for row in family])
    # a draw more of a control costs a method nothing, another method does
    grains = next(r.comparison for r in report.rows if r.comparison.method == "grains")
    with_all = holm([r.comparison.p for r in report.rows])[0]
    assert grains.p < grains.adjusted_p < with_all


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    for name in ("plain", "steered"):
        write_run(tmp_path / name, {"t": TaskData({"acc": [0.0, 1.0] * 6})})
    with pytest.raises(GrainsError, match=r"'plain' and 'plain \(.*\)' are the same run, .*; give each run once"):
        compare_runs([tmp_path / "plain", tmp_path / "steered", tmp_path / "steered" / ".." / "plain"])


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_narrow_terminals_break_only_names(width: int, tmp_path: Path) -> None:
    name = "method=integrated_gradients__top_k=2_without_vocabulary"
    for folder in ("plain", name):
        write_run(tmp_path / folder, {"t": TaskData({"acc": [0.0, float(folder == name)] * 60})})
    console = Console(file=io.StringIO(), width=width)
    render_terminal(compare_runs([tmp_path / "plain", tmp_path / name]), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    head = [line for line in shown.splitlines() if line.startswith("┃")]
    words = {word for line in head for word in line.replace("┃", " ").split()}
    assert words <= {word for column, _ in COLUMNS for word in column.split()}
    assert "difference" in words and "+50.0" in shown
    assert ("baseline" in words) is (width >= 90) and ("helped" in words) is (width >= 112)
    assert max(map(len, shown.splitlines())) <= width


def test_long_names_may_break_in_the_page(tmp_path: Path) -> None:
    for folder in ("plain", "top_k=2__<b>"):
        write_run(tmp_path / folder, {"t": TaskData({"acc": [0.0, 1.0] * 6})})
    page = render_html(compare_runs([tmp_path / "plain", tmp_path / "top_k=2__<b>"]))
    assert "top_<wbr>k=<wbr>2__<wbr>&lt;b&gt;" in page and "__<b>" not in page


@pytest.mark.parametrize(
    ("label", "values", "top"), [("accuracy", (0.2, 1.0), 1.0), ("nats", (0.2, 1.0), 1.04), ("accuracy", (1, 3), 3.1)]
)
def test_axes_of_shares_end_at_one(label: str, values: tuple[float, float], top: float) -> None:
    from unittest.mock import patch

    drawn = Curve("title", "strength", label, (Series("line", (1.0, 2.0), values),))
    with patch.object(plots, "_svg", side_effect=lambda figure, *_: figure.axes[0].get_ylim()[1]):
        assert plots.curve(drawn, "c") == pytest.approx(top)


def test_one_draw_is_no_draws() -> None:
    one, two = (Band("random vectors", members, {}, {}, {}) for members in (("a",), ("a", "b")))
    assert (one.heading, two.heading) == ("random vectors, 1 draw", "random vectors, 2 draws")


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
    assert found.endswith("| 63 | 9 |  | 9 clusters are too few for a test, about 20 like them would do |")
    (found,) = [line for line in lines if line.startswith("| many | acc | grains | kept")]
    assert found.endswith("| 2,000 |  | guaranteed |  |")
    page = Outline.text(render_html(few))
    assert "9 clusters are too few for a test" in page and "guaranteed" in page


def test_kept_by_all_is_a_line_of_its_own(few: ReportData) -> None:
    told = replace(few, verdicts=tuple(replace(v, together=True, tasks=2) for v in few.verdicts))
    for text in (to_markdown(told), Outline.text(render_html(told))):
        assert "grains: both preserved tasks are kept, as one claim." in text
    for text in (to_markdown(few), Outline.text(render_html(few))):
        assert "as one claim." not in text


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """One preserved task of nine clusters, and one of many items."""
    root = tmp_path_factory.mktemp("few")
    docs = [{"question": f"{place}", "topic": place % 9} for place in range(63)]
    for name in ("plain", "grains"):
        scores = [float(name == "grains" or place % 3 > 0) for place in range(63)]
        small = TaskData({"acc": scores}, docs=docs, metadata={"version": 1.0, "cluster_key": "topic"})
        config = {"scoring_path": "plain", "scoring_path_reason": "the model <reads> ahead"}
        write_run(root / name, {"few": small, "many": TaskData({"acc": [0.0, 1.0] * 1_000})}, config=config)
    return compare_runs([root / "plain", root / "grains"], preserve=["few", "many"])


def test_a_row_of_too_few_clusters_says_so_at_80_columns(few: ReportData) -> None:
    console = Console(file=io.StringIO(), width=80)
    render_terminal(few, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    row = next(line for line in shown.splitlines() if "no verdict" in line and "│" in line)
    assert "+33.3" in row and "nan" not in shown
    words = " ".join(shown.split())
    assert "no verdict is possible, 9 clusters are too few for a test, about 20 like them would do" in words


def test_run_cards_say_why_the_scoring_path_was_taken(few: ReportData) -> None:
    assert all(("why this path", "the model <reads> ahead") in run.facts for run in few.runs)
    assert "why this path: the model &lt;reads> ahead" in to_markdown(few)
    assert "the model &lt;reads&gt; ahead" in render_html(few)


def test_items_are_shown_in_full(report: ReportData) -> None:
    changes = next(c for c in report.changes if c.method == "grains")
    assert changes.unit == "nats"
    assert list(changes.pushes) == sorted(changes.pushes, reverse=True)
    assert len(changes.pushes) == 100
    best = changes.helped[0]
    assert best.steered > best.baseline
    assert best.prompt == f"Q: {world.DOCS[best.doc_id]['question']}\nA:"
    assert best.target == "It passes through"
    assert best.after.startswith("It passes through\n")
    assert not best.before.startswith("It passes through\n")
    assert {c.method for c in report.changes} == {"grains", "caa"}


def test_files_are_written_and_not_overwritten(report: ReportData, tmp_path: Path) -> None:
    page = write(report, tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "report.md", "report.json", "comparisons.csv"}
    before = page.read_text()
    with pytest.raises(GrainsError, match="pass --overwrite"):
        write(report, tmp_path / "out")
    assert write(report, tmp_path / "out", overwrite=True).read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(GrainsError, match="is a file"):
        write(report, tmp_path / "file")


def test_an_existing_report_is_refused_before_the_work(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(GrainsError, match="exists"):
        compare_runs({"a": tmp_path / "nowhere", "b": tmp_path / "nowhere"}, tmp_path)


def test_json_and_csv_hold_the_numbers(report: ReportData) -> None:
    content = json.loads(to_json(report))
    assert [row["difference"] for row in content["comparisons"]] == [r.comparison.difference for r in report.rows]
    assert content["failures"] == {"nl_iti": "the probe ran out of memory <here>"}
    assert content["runs"][0]["role"] == "baseline"
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(rows) == len(report.rows) + 1
    assert float(rows[0]["difference"]) == report.rows[0].comparison.difference
    assert [float(x) for x in rows[0]["interval"].split()] == list(report.rows[0].comparison.interval)
    assert rows[-1]["method"] == "nl_iti" and "memory" in rows[-1]["failed"]


def test_markdown_and_terminal(report: ReportData) -> None:
    text = to_markdown(report)
    assert report.headline.replace("<", "&lt;") in text
    assert text.count("| truthfulqa_mc1 |") == 4
    assert "| nl_iti | the probe ran out of memory &lt;here>" in text
    assert "Published, not measured here: TruthfulQA" in text
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


class Outline(HTMLParser):
    """What the checks below ask of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.headers_without_scope = 0
        self.unnamed_pictures = 0
        self.headings: list[str] = []
        self.words: list[str] = []

    @classmethod
    def text(cls, page: str) -> str:
        outline = cls()
        outline.feed(page)
        return " ".join("".join(outline.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        for name in ("href", "src", "xlink:href", "data"):
            if name in found:
                self.links.append(str(found[name]))
        self.headers_without_scope += tag == "th" and "scope" not in found
        if tag == "svg":
            self.unnamed_pictures += not found.get("aria-label")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in ("meta", "link", "br", "path", "use", "rect", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in self.open:
            while self.open.pop() != tag:
                pass


def test_page_is_self_contained_and_accessible(report: ReportData) -> None:
    page = render_html(report)
    outline = Outline()
    outline.feed(page)
    assert len(outline.ids) == len(set(outline.ids))
    inner = [link[1:] for link in outline.links if link.startswith("#")]
    assert set(inner) <= set(outline.ids)
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert outline.headers_without_scope == 0
    assert outline.unnamed_pictures == 0
    assert outline.headings.count("h1") == 1
    assert "<script" not in page
    assert 'http-equiv="Content-Security-Policy"' in page
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
    assert "Published figures, not measured here" in page and "2507.18043" in page
    assert "Strength on development items" in page
    assert "data:image/png;base64," in page
    assert "completeness error 1.20 %" in page
    for run in report.runs:
        assert run.digest in page


def test_the_page_is_the_same_every_time(report: ReportData) -> None:
    assert render_html(report) == render_html(report)


def test_steering_that_does_nothing_is_reported_so(folders: dict[str, Path]) -> None:
    report = compare_runs({"plain": folders["baseline"], "steered": folders["baseline"]})
    assert "no change of truthfulqa_mc1 acc is shown" in report.headline
    assert all(r.comparison.p == 1 for r in report.rows)
    assert render_html(report)


def test_failed_runs_become_rows_when_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {"elsewhere": TaskData({"acc": [1.0, 0.0]})})
    paths = {
        "baseline": folders["baseline"],
        "grains": folders["grains"],
        "other": other,
        "gone": tmp_path / "x",
    }
    with pytest.raises(GrainsError):
        compare_runs(paths)
    report = compare_runs(paths, keep_going=True)
    assert set(report.failures) == {"other", "gone"}
    assert {r.comparison.method for r in report.rows} == {"grains"}
    with pytest.raises(GrainsError, match="does not exist"):
        compare_runs({"gone": tmp_path / "x", "grains": folders["grains"]}, keep_going=True)
    only = compare_runs({"baseline": folders["baseline"]}, failures={"caa": "no pairs"})
    assert only.rows == () and "caa" in to_markdown(only) and render_html(only)
    with pytest.raises(GrainsError, match="at least two runs"):
        compare_runs([folders["baseline"]])


def test_headline_metric_and_preserved_tasks_can_be_named(folders: dict[str, Path]) -> None:
    pair = {name: folders[name] for name in ("baseline", "grains")}
    report = compare_runs(pair, preserve=["truthfulqa_mc1"], margin=0.05)
    assert [v.task for v in report.verdicts] == ["truthfulqa_mc1"]
    assert report.targets == (("mmlu", "acc"),)
    with pytest.raises(GrainsError, match="has no metric 'f1' to compare; it has acc"):
        compare_runs(pair, headline_metrics={"mmlu": "f1"})


def test_published_tables_match_by_task(report: ReportData) -> None:
    assert [table.title.split(",")[0] for table in published_tables(report)] == ["TruthfulQA", "MMLU"]
    assert published_tables(report)[0].rows[0] == ("Llama-3.1-8B", "34.15", "47.37")
    assert published_tables(report)[0].tasks == ("truthfulqa_mc1",)
