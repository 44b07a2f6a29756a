"""What `grains-eval show` prints of a run, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from grains_eval.errors import GrainsError
from grains_eval.report.show import show_folder
from tests.comparison.folders import TaskData, write_run


def test_a_runs_results_and_what_steered_it_are_printed(tmp_path: Path) -> None:
    entry = {"vectors": "mine", "method": "grains", "layers": [3], "strength": 1.0}
    write_run(tmp_path / "run", {"t": TaskData({"acc": [1.0, 0.0, 1.0, 1.0]})}, steering=[entry])
    console = Console(file=io.StringIO(), width=120)
    show_folder(tmp_path / "run", console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "steered by mine (grains), layers [3], strength 1.0" in shown and "0.7500" in shown
    assert "evaluated documents" not in shown  # the run does not say


def test_a_report_is_printed_though_its_runs_lie_beside_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, {"t": TaskData({"acc": [1.0, 0.0]})})
    (tmp_path / "report.md").write_text("# What came out\n\n| method | gain |\n|---|---|\n| mine | +34.4 |\n")
    console = Console(file=io.StringIO(), width=120)
    show_folder(tmp_path, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "What came out" in shown and "+34.4" in shown


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"t": TaskData({"acc": [1.0, 0.0]})})
    with pytest.raises(GrainsError, match="is not a folder"):
        show_folder(tmp_path / "nowhere", Console())
    with pytest.raises(GrainsError, match="is no artifact and has no heat maps"):
        show_folder(tmp_path / "run", Console(), html=tmp_path / "page.html")
    (tmp_path / "steering_config.json").write_text("{}")
    with pytest.raises(GrainsError, match="is not an artifact's configuration; build the artifact again"):
        show_folder(tmp_path, Console())
    with pytest.raises(GrainsError, match="--examples -1 is not a number of heat maps"):
        show_folder(tmp_path, Console(), examples=-1)
