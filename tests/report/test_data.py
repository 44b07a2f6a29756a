"""What a report tells of its own runs."""

from __future__ import annotations

from grains_eval.comparison.controls import Band
from grains_eval.report.data import ReportData, RunCard


def test_runs_are_known_by_their_roles_and_settings() -> None:
    runs = (
        RunCard("plain", "baseline", "f", "d", ()),
        RunCard("grains", "method", "f", "d", (), "3: 1"),
        RunCard("random 1", "control", "f", "d", (), "3: 1"),
        RunCard("random 2", "control", "f", "d", (), "4: 1"),
    )
    band = Band("random", ("random 1", "random 2"), {}, {}, {})
    report = ReportData("t", "h", "c", 0.05, 0.01, runs, (), bands=(band,))
    assert report.methods == ("grains",) and report.controls == {"random 1", "random 2"}
    assert report.settings["grains"] == "3: 1"
    assert report.settings["random, 2 draws"] == "3: 1, 4: 1"
