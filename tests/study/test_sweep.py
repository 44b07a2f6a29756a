"""Sweeps measure development items, write three files or none, and choose."""

from __future__ import annotations

import json

import pytest

from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.study.compare import SCORES
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.sweep import SweepGrid, sweep
from tests.report.test_write import disk_full_at
from tests.study.studies import demo_recipe


def test_a_sweep_measures_development_items_and_chooses(tmp_path):
    session, output = Session(demo_model_args("text_split")), OutputFolder(tmp_path / "out")
    result = sweep(demo_recipe(), session, output, SweepGrid(layers=[2, 3], strengths=[0.5, 1.0], top_k=[1, 2]))
    assert set(result.choices) == {"top_k=1, examples=24", "top_k=2, examples=24"}
    choice = result.choices[result.best]
    (other,) = (each for name, each in result.choices.items() if name != result.best)
    assert choice.point.rank > other.point.rank
    assert len(choice.points) == 5
    assert choice.points[0].config.strength == 0
    summary = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert summary["chosen"]["layers"] == list(choice.config.layers)
    assert {"sweep.json", "sweep.csv", "sweep.html"} <= {file.name for file in (tmp_path / "out").iterdir()}
    with pytest.raises(GrainsError, match="exists; choose another --output_path"):
        sweep(demo_recipe(), session, output, SweepGrid())


def test_a_sweep_on_a_full_disk_leaves_no_curves_and_goes_on(tmp_path, monkeypatch):
    def again():
        session, output = Session(demo_model_args("text_split")), OutputFolder(tmp_path / "out")
        return sweep(demo_recipe(), session, output, SweepGrid(layers=[3], strengths=[1.0]))

    with monkeypatch.context() as patch:
        disk_full_at(patch, "sweep.csv")
        with pytest.raises(OSError, match="No space left"):
            again()
    assert [file.name for file in (tmp_path / "out").iterdir()] == [SCORES]
    assert again().best
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sweep.json", "sweep.csv", "sweep.html"}
