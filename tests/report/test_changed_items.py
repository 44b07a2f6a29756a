"""The items behind a row."""

from __future__ import annotations

from grains_eval.report import ReportData
from tests.comparison import world


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
