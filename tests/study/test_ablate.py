"""A grid is a product of variants; every point is built, evaluated and reported."""

from __future__ import annotations

from collections import Counter

import pytest

from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.study import cache as cache_module
from grains_eval.study import session as session_module
from grains_eval.study.ablate import ablate, parse_grid
from grains_eval.study.compare import SCORES
from grains_eval.study.session import OutputFolder, Session
from tests.study.studies import demo_recipe


def test_a_grid_is_a_product_of_variants():
    grid = parse_grid(["attribution.top_k=1,2", "steering.layers=[2],[3]"], demo_recipe())
    assert list(grid) == ["top_k=1__layers=2", "top_k=1__layers=3", "top_k=2__layers=2", "top_k=2__layers=3"]
    assert grid["top_k=2__layers=3"].steering.layers == [3]
    for wrong, says in (
        ("top_k=1", "write section.key"),
        ("attribution.topk=1", "did you mean"),
        ("attribution.top_k=", "write section.key"),
    ):
        with pytest.raises(GrainsError, match=says):
            parse_grid([wrong], demo_recipe())


@pytest.mark.slow
def test_an_ablation_reports_every_point_with_its_faithfulness(tmp_path, monkeypatch):
    attributed, loads = Counter(), []

    def counted(loaded, encoded, config, seed, _attribute=cache_module.attribute):
        attributed[encoded.example.id, config.method] += 1
        return _attribute(loaded, encoded, config, seed)

    def load(arguments, _load=session_module.load_lm):
        loads.append(arguments)
        return _load(arguments)

    monkeypatch.setattr(cache_module, "attribute", counted)
    monkeypatch.setattr(session_module, "load_lm", load)
    report = ablate(
        demo_recipe("evaluation.control_draws=1"),
        Session(demo_model_args("text_split")),
        OutputFolder(tmp_path / "out"),
        grid=["attribution.method=integrated_gradients,random", "steering.strength=1.0", "attribution.top_k=1,2"],
    )
    assert len(loads) == 1
    assert len(attributed) == 2 * 24 and set(attributed.values()) == {1}, "curves and builds share the scores"
    assert not (tmp_path / "out" / SCORES).exists()
    methods = {row.comparison.method for row in report.rows}
    assert {f"method={m}__strength=1.0__top_k={k}" for m in ("integrated_gradients", "random") for k in "12"} <= methods
    assert not report.failures
    faithful, blind = (curve for curve in report.curves if "removed" in curve.title)
    lines = {series.name: series.y for series in faithful.series}
    assert [values[0] for values in lines.values()] == [0.0, 0.0, 0.0], "nothing is removed at 0"
    assert lines["top positive"][1] < lines["random"][1] < lines["top negative"][1]
    assert abs(sum({s.name: s.y for s in blind.series}["top positive"])) < abs(sum(lines["top positive"]))
