"""Controls stand beside a method that moves something, at its setting."""

from __future__ import annotations

from dataclasses import replace

import torch

from grains_eval.demo.run import demo_model_args
from grains_eval.study.controls import moves
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.study.studies import compare, demo_recipe


def test_controls_stand_beside_a_method_that_moves_something(tmp_path):
    still, moving = ({"steering": {"layers": [2], "strength": strength}} for strength in (0.0, 2.0))
    small = demo_recipe("evaluation.limit=6", "evaluation.control_draws=1", "data.examples=8")
    small = small.model_copy(update={"methods": {"still": still, "moving": moving}})
    arguments = demo_model_args("text_split")
    report = compare(small, arguments, tmp_path / "out", methods=["still", "moving"])
    controls = {name: text for name, text in report.settings.items() if name in report.controls - {"vocabulary"}}
    assert {"moving_negated", "random_1", "random_tokens_1"} <= set(controls)
    assert {text.partition(":")[0] for text in controls.values()} == {"2"} and "2: 0" not in controls.values()
    assert report.settings["random vectors, 1 draw"] == "2: 2"
    (note,) = [note for note in report.notes if "stand beside" in note]
    assert "beside moving, at its setting; still moves nothing" in note
    alone = compare(small, arguments, tmp_path / "alone", methods=["still"])
    assert "no controls: still moves nothing" in alone.notes
    assert alone.controls == {"vocabulary"} and not alone.bands


def test_a_control_that_moves_nothing_is_left_out():
    vectors = SteeringVectors({1: torch.ones(4)}, {1: 1.0}, recommended=SteeringConfig((1,), 1.0))
    assert moves(vectors)
    assert not moves(replace(vectors, recommended=SteeringConfig((1,), 0.0)))
    assert not moves(replace(vectors, directions={1: torch.zeros(4)}))
