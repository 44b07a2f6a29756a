"""`grains-eval run` is lm-eval's own command line."""

import sys

import pytest

from grains_eval.cli.run import run_lm_eval


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--tasks", "a"], ["--model", "grains_hf", "--tasks", "a"]),
        (["--model", "hf", "--tasks", "a"], ["--model", "hf", "--tasks", "a"]),
        (["--model=hf"], ["--model=hf"]),
        (["-M", "hf"], ["-M", "hf"]),
        (["--config", "run.yaml"], ["--config", "run.yaml"]),
        (["--model_args", "pretrained=x"], ["--model", "grains_hf", "--model_args", "pretrained=x"]),
    ],
)
def test_run_hands_everything_to_lm_eval(words, seen, monkeypatch):
    from lm_eval.api.registry import model_registry

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: None)
    run_lm_eval(words)
    assert sys.argv == ["lm-eval", "run", *seen]
    assert "grains_hf" in model_registry
