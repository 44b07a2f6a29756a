"""Controls stand beside a method that moves something, at its setting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grains_eval.demo.run import demo_model_args
from grains_eval.study import controls as controls_module
from grains_eval.study.controls import moves
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.study.studies import compare, demo_recipe


@pytest.mark.slow
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


@pytest.mark.slow
def test_every_setting_has_controls_of_its_own_made_once(tmp_path, monkeypatch):
    weak, strong = ({"steering": {"layers": [2], "strength": strength}} for strength in (1.0, 4.0))
    other = {**strong, "vectors": {"direction": "mean"}}
    small = demo_recipe("evaluation.limit=12", "evaluation.control_draws=2", "data.examples=8")
    small = small.model_copy(update={"methods": {"weak": weak, "strong": strong, "other": other}})
    real, drawn = controls_module.random_tokens, []
    monkeypatch.setattr(controls_module, "random_tokens", lambda context: drawn.append(1) or real(context))

    def without(vectors, words):  # what is left of one of them is nothing
        left = controls_module.replace(vectors, directions={k: 0 * v for k, v in vectors.directions.items()})
        return left if vectors.recommended.strength == 4.0 else vectors

    monkeypatch.setattr(controls_module, "project_out", without)
    output = tmp_path / "out"
    report = compare(small, demo_model_args("text_split"), output, methods=["weak", "strong", "other"])
    assert set(report.methods) == {"weak", "strong", "other"}
    drawn_names = ("random_1", "random_2", "random_tokens_1", "random_tokens_2")
    places = {name: report.settings[name] for name in report.controls - {"vocabulary"} if "raw" not in name}
    assert places == {
        **dict.fromkeys(("weak_negated", "weak_without_vocabulary", *drawn_names), "2: 1"),
        **dict.fromkeys(("strong_negated", *(f"{name}_beside_strong" for name in drawn_names)), "2: 4"),
    }
    assert report.settings["random vectors beside weak, 2 draws"] == "2: 1"
    assert report.settings["random vectors beside strong, 2 draws"] == "2: 4"
    assert "random tokens, raw scale beside strong, 2 draws" in report.settings
    assert len(drawn) == 2, "strengths differ, the tokens do not"
    assert (
        "random, negated and projected controls stand beside weak, at its setting; "
        "beside strong, at its setting, which other shares"
    ) in report.notes
    assert "strong_without_vocabulary: left out, since it moves nothing" in report.notes
    assert not (output / "runs" / "strong_without_vocabulary").exists()
    assert "| random_1_beside_strong | 2: 4 |" in (output / "report.md").read_text()


def test_a_control_beside_a_control_would_say_nothing(tmp_path):
    small = demo_recipe("evaluation.limit=6", "evaluation.control_draws=1", "data.examples=8")
    report = compare(small, demo_model_args("text_split"), tmp_path / "out", methods=["random", "grains"])
    assert {name for name in report.controls if "random" in name} >= {"random", "random_1"}
    assert "random_negated" not in report.controls
    assert "beside grains, at its setting" in " ".join(report.notes)


def test_a_setting_is_where_how_and_how_far():
    vectors = SteeringVectors({1: torch.ones(4), 2: torch.ones(4)}, {1: 1.0, 2: 1.0})

    def of(directions=1.0, **changes):
        scaled = {layer: directions * v for layer, v in vectors.directions.items()}
        config = replace(SteeringConfig((1,), 2.0), **changes)
        return controls_module.setting(replace(vectors, directions=scaled, recommended=config))

    same = of()
    assert of(directions=3.0) == same, "relative strengths do not multiply the directions' length"
    assert of(layers=None) == of(layers=(1, 2)) != same
    changed = [of(strength=1.0), of(positions="last"), of(operator="add"), of(unit="absolute")]
    assert len({same, *changed, of(unit="absolute", directions=3.0)}) == 6


def test_a_control_that_moves_nothing_is_left_out():
    vectors = SteeringVectors({1: torch.ones(4)}, {1: 1.0}, recommended=SteeringConfig((1,), 1.0))
    assert moves(vectors)
    assert not moves(replace(vectors, recommended=SteeringConfig((1,), 0.0)))
    assert not moves(replace(vectors, directions={1: torch.zeros(4)}))
