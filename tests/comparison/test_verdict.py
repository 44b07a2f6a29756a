"""What a row shows once it is adjusted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import Analysis, Question, compare
from grains_eval.comparison.verdict import answer
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from tests.comparison.folders import TaskData, write_run


def word_errors(root: Path, declared: bool | None) -> list[Path]:
    """Two runs whose word error rate rises from .15 to .36 of 60 documents, as a user's own metric logs it."""
    for name, level in (("baseline", 0.148), ("steered", 0.355)):
        values = [level + 0.01 * (i % 7) for i in range(60)]
        write_run(root / name, {"speech": TaskData({"wer": values}, higher={"wer": declared})})  # type: ignore[dict-item]
    return [root / "baseline", root / "steered"]


def test_a_metric_without_a_direction_gets_no_verdict_until_it_has_one(tmp_path: Path) -> None:
    places = word_errors(tmp_path, None)
    report = compare_runs(places)
    (row,) = (row.comparison for row in report.rows)
    assert row.higher_is_better is None and row.adjusted_p < 0.001 and math.isnan(row.anti_steered)
    assert answer(row, 0.05) == "changed"
    assert "improves" not in report.headline and "worsens" not in report.headline
    assert "changes speech wer from 17.7 to 38.4" in report.headline
    assert "whether that is better is not declared" in report.headline
    assert any("--higher_is_better wer=true or wer=false" in note for note in report.notes)
    assert "| wer ? |" in to_markdown(report) and "no direction declared" in render_html(report)
    kept = compare_runs(places, question=Question(preserve=["speech"]))
    assert kept.verdicts == () and any("has no verdict" in note for note in kept.notes)
    for direction, said in ((False, "worsens speech wer"), (True, "improves speech wer")):
        told = compare_runs(places, analysis=Analysis(higher_is_better={"wer": direction}))
        assert said in told.headline and not told.notes
        assert compare(*places, higher_is_better={"wer": direction})[0].higher_is_better is direction
    with pytest.raises(GrainsError, match="unknown metric to declare a direction for 'wre': did you mean 'wer'"):
        compare_runs(places, analysis=Analysis(higher_is_better={"wre": True}))


@pytest.mark.parametrize(("higher", "expected"), [(True, "better"), (False, "worse"), (None, "changed")])
def test_the_verdict_follows_the_direction(higher: bool | None, expected: str, tmp_path: Path) -> None:
    (up,) = compare(*word_errors(tmp_path, higher))
    assert answer(up, 0.05) == expected
    down = replace(up, difference=-up.difference)
    assert answer(down, 0.05) == {"better": "worse", "worse": "better"}.get(expected, expected)
    assert answer(replace(up, adjusted_p=0.2), 0.05) == "not shown"
    assert (up.helped, up.harmed) == ((0, 60) if higher is False else (60, 0))
