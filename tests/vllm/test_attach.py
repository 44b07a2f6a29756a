"""What steering does not go with is named and not stumbled over; needs no vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from grains_eval.vllm import serve
from grains_eval.vllm.attach import attach, engine_config
from grains_eval.vllm.settings import Setting, Stage

WIDTH, DEPTH = 8, 3


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, hidden):
        return hidden * self.weight


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))


def configuration(served=False, **changes):
    text = SimpleNamespace(num_hidden_layers=DEPTH, hidden_size=WIDTH)
    made = {
        "additional_config": engine_config(2, 1, served=served),
        "scheduler_config": SimpleNamespace(max_num_batched_tokens=16),
        "model_config": SimpleNamespace(is_encoder_decoder=False, runner_type="generate", hf_text_config=text),
        "speculative_config": None,
        "use_v2_model_runner": False,
        "parallel_config": SimpleNamespace(use_ubatching=False, enable_dbo=False, prefill_context_parallel_size=1),
    }
    return SimpleNamespace(**{**made, **changes})


def test_layers_get_their_tables():
    tables = attach(Model(), configuration())
    assert tables.obstacle == "" and sorted(tables.layers) == [0, 1, 2]
    assert attach(Model(), SimpleNamespace(additional_config={})) is None


class Sees(nn.Module):
    """A vision tower as deep as the language model."""

    def __init__(self):
        super().__init__()
        self.tower, self.language = Model(), Model()

    def get_language_model(self):
        return self.language


def test_a_vision_tower_gets_none():
    model = Sees()
    tables = attach(model, configuration())
    assert tables.place == "language.layers" and sorted(tables.layers) == [0, 1, 2]
    assert {name for name, module in model.named_modules() if hasattr(module, "grains_table")} == {
        f"language.layers.{index}" for index in range(DEPTH)
    }
    model.get_language_model = lambda: model
    assert attach(model, configuration()).obstacle == "found 2 lists of 3 decoder layers where one is needed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_v2_model_runner": True}, "needs vLLM's V2 model runner; leave that out, or steer it with VLLM_USE_V2"),
        ({"speculative_config": object()}, "speculative decoding drafts with another, unsteered model"),
        ({"parallel_config": SimpleNamespace(enable_dbo=True)}, "drop enable_dbo"),
        ({"parallel_config": SimpleNamespace(prefill_context_parallel_size=2)}, "drop prefill_context_parallel_size"),
        ({"model_config": SimpleNamespace(is_encoder_decoder=True)}, "encoder-decoder models are not steered"),
        ({"model_config": SimpleNamespace(is_encoder_decoder=False, runner_type="pooling")}, "drop runner=pooling"),
    ],
)
def test_obstacles_are_named(changes, message, monkeypatch):
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    tables = attach(Model(), configuration(**changes))
    assert message in tables.obstacle and not tables.layers


def test_the_second_runner_is_steered_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert attach(Model(), configuration(use_v2_model_runner=True)).obstacle == ""


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ({1: torch.ones(5)}, "the served vectors have width 5 at layer 1 but it needs 8"),
        ({7: torch.ones(WIDTH)}, "the served vectors steer layer 7 but it has 3"),
        ({2: torch.ones(WIDTH)}, ""),
    ],
)
def test_served_vectors_of_another_model(deltas, message, monkeypatch):
    setting = Setting((Stage(deltas, dict.fromkeys(deltas, "add"), "all"),))
    monkeypatch.setattr(serve, "registered", lambda: {"x": SimpleNamespace(setting=setting)})
    tables = attach(Model(), configuration(served=True))
    assert tables.obstacle.startswith(message) and bool(tables.obstacle) == bool(message)
    assert bool(tables.settings) != bool(message)
