"""What a run was."""

from __future__ import annotations

from math import inf, log

import pytest

from grains_eval.report import ReportData
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from grains_eval.report.run_cards import setting_text


def test_run_cards_say_why_the_scoring_path_was_taken(few: ReportData) -> None:
    assert all(("why this path", "the model <reads> ahead") in run.facts for run in few.runs)
    assert "why this path: the model &lt;reads> ahead" in to_markdown(few)
    assert "the model &lt;reads&gt; ahead" in render_html(few)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"layers": [3], "strength": 1.0}, "3: 1"),
        ({"layers": [2, 4, 5], "strength": 0.5, "unit": "absolute"}, "2/4/5: 0.5 absolute"),
        ({"form": "kv", "tokens": 1, "distances": [8], "strength": 0.0, "every_layer": True}, "kv: 1 token, 8 back"),
        (
            {"form": "kv", "tokens": 3, "distances": [5, 8], "strength": log(3), "every_layer": False, "layers": [1]},
            "kv: 2 tokens, 5/8 back, ×3, layers 1",
        ),
        ({"form": "text", "tokens": 1, "distances": [9], "strength": 0}, "text: 1 token, 9 back"),
        ({"form": "kv", "tokens": 1, "distances": [9], "strength": -inf}, "kv: off"),
        ({"contrast": {"alpha": 0.5, "contexts": {}}}, "α 0.5"),
        ({"instruction": "be right"}, ""),
    ],
)
def test_the_column_says_how_an_artifact_was_applied(entry, expected):
    assert setting_text(entry) == expected
