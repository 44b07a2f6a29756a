"""Faithfulness on a linear model, where removing a token takes exactly its score away."""

from __future__ import annotations

import pytest
import torch

from grains_eval.attribution import attribute
from grains_eval.recipes import parse_recipe
from grains_eval.study.faithfulness import faithfulness, faithfulness_figure
from grains_eval.vectors import BuildContext
from tests.reference.linear import encoded, linear_model


def test_removing_tokens_takes_their_scores_away():
    loaded = linear_model()
    examples = [encoded(loaded, ids, 5, 6, str(ids)) for ids in ([1, 2, 3, 4], [1, 4, 2, 3])]
    recipe = parse_recipe({"name": "t", "data": {"path": "x.jsonl"}})
    context = BuildContext(loaded, examples, recipe, lambda one, config: attribute(loaded, one, config))
    curve = faithfulness(context, [2, 1])
    assert curve.removed == (0, 1, 2) and curve.examples == 2
    assert curve.positive[0] == curve.negative[0] == curve.random[0] == 0
    for side, sign in ((curve.positive, 1), (curve.negative, -1)):
        for k, change in zip(curve.removed, side, strict=True):
            lost = []
            for example in examples:
                found = attribute(loaded, example)
                candidates = (sign * found.scores)[found.is_candidate].clamp_min(0)
                lost.append(float(candidates.sort(descending=True).values[:k].sum()))
            assert change == pytest.approx(-sign * sum(lost) / 2, abs=1e-4)
    assert curve.positive[1] < 0 or curve.negative[1] > 0
    figure = faithfulness_figure("name", curve)
    assert [series.name for series in figure.series] == ["top positive", "random", "top negative"]
    assert list(figure.series[0].y) == list(curve.positive)


def test_blind_tokens_are_drawn_anew_for_every_draw():
    loaded = linear_model()
    examples = [encoded(loaded, [1, 2, 3, 4], 5, 6, "e")]
    recipe = parse_recipe({"name": "t", "data": {"path": "x.jsonl"}})
    context = BuildContext(loaded, examples, recipe, lambda one, config: attribute(loaded, one, config))
    one, several = (torch.tensor(faithfulness(context, [1], draws=draws).random) for draws in (1, 5))
    assert not torch.equal(one, several)
