"""The report in the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from grains_eval.report import ReportData, compare_runs, render_terminal
from grains_eval.report.tables import COLUMNS
from tests.comparison.folders import TaskData, write_run


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


def test_a_row_of_too_few_clusters_says_so_at_80_columns(few: ReportData) -> None:
    console = Console(file=io.StringIO(), width=80)
    render_terminal(few, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    row = next(line for line in shown.splitlines() if "no verdict" in line and "│" in line)
    assert "+33.3" in row and "nan" not in shown
    words = " ".join(shown.split())
    assert "no verdict is possible, 9 clusters are too few for any test, which takes about 20" in words
