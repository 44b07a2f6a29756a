"""Studies on an engine: the same curves, choices and verdicts as on the model itself."""

from __future__ import annotations

import json

import pytest

from grains_eval.demo.run import demo_model_args
from grains_eval.errors import GrainsError
from grains_eval.study.backends import Backend, engine_arguments
from grains_eval.study.compare import compare_methods
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.sweep import SweepGrid, sweep
from tests.study.studies import demo_recipe
from tests.vllm import checks


def test_arguments_that_mean_nothing_to_an_engine_are_dropped_or_refused():
    given = {"pretrained": "x", "dtype": "bfloat16", "device": "cuda", "batch_size": 8, "softmax_dtype": "float32"}
    found = engine_arguments(given, Backend("vllm", {"tensor_parallel_size": 2}))
    assert found == {
        "pretrained": "x", "dtype": "bfloat16", "max_settings": 32, "batch_size": "auto", "tensor_parallel_size": 2,
    }  # fmt: skip
    with pytest.raises(GrainsError, match="model argument 'peft' cannot be handed to vLLM"):
        engine_arguments({**given, "peft": "y"}, Backend("vllm"))
    with pytest.raises(GrainsError, match="unknown backend 'vlm': did you mean 'vllm'"):
        Backend("vlm")
    with pytest.raises(GrainsError, match="backend_args has 'tensor_parallel_size' but the backend is hf"):
        Backend("hf", {"tensor_parallel_size": 2})


@pytest.fixture
def backend(monkeypatch):
    checks.in_one_process(monkeypatch.setenv)
    return Backend("vllm", {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 64, **checks.ALONE})


@pytest.mark.vllm
@pytest.mark.slow
def test_a_sweep_and_a_comparison_give_what_the_model_gives(tmp_path, backend):
    arguments = demo_model_args("text_split")
    recipe = demo_recipe("evaluation.limit=40")
    points = {}
    for name, chosen in (("hf", Backend()), ("vllm", backend)):
        session = Session(arguments, backend=chosen)
        sweep(recipe, session, OutputFolder(tmp_path / name), SweepGrid(layers=[2, 3], strengths=[0.5, 1.0]))
        points[name] = json.loads((tmp_path / name / "sweep.json").read_text())
    for one, other in zip(points["hf"]["points"], points["vllm"]["points"], strict=True):
        for key in ("accuracy", "preserved", "layers", "strength"):
            assert one[key] == other[key]
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-3)
    assert points["hf"]["chosen"]["strength"] == points["vllm"]["chosen"]["strength"]
    rows = {}
    for name, chosen in (("hf", Backend()), ("vllm", backend)):
        session, output = Session(arguments, backend=chosen), OutputFolder(tmp_path / f"compare-{name}")
        report = compare_methods(recipe, session, output, methods=["grains", "prompt"])
        assert not report.failures
        rows[name] = {(row.comparison.method, row.comparison.task): row.comparison.difference for row in report.rows}
    assert rows["hf"] == pytest.approx(rows["vllm"], abs=1e-6)
    (file,) = (tmp_path / "compare-vllm" / "runs" / "grains").rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["model"] == "grains_vllm" and min(config["steered_tokens"].values()) > 0
