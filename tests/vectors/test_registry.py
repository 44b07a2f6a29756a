"""What an entry of the table of methods says."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.vectors import METHODS, vector_method


def test_one_entry_says_everything_about_a_method(monkeypatch):
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS))

    @vector_method("mine", is_attributing=True, is_baseline=True)
    def mine(context):
        raise NotImplementedError

    entry = METHODS["mine"]
    assert entry.function is mine and entry.makes == "vectors" and entry.steering is None
    assert entry.is_attributing and entry.is_baseline and not entry.is_control
    with pytest.raises(GrainsError, match="the method 'mine' exists already"):
        vector_method("mine")(mine)


def test_built_in_methods_are_told_apart():
    baselines = {name for name, entry in METHODS.items() if entry.is_baseline}
    controls = {name for name, entry in METHODS.items() if entry.is_control}
    assert {"caa", "icv", "iti", "nl_iti", "lora", "prompt"} <= baselines and not baselines & controls
    assert {"random", "negated", "random_tokens", "vocabulary"} <= controls and "grains" not in baselines | controls
    assert METHODS["lora"].makes == "adapter" and METHODS["prompt"].makes == "instruction"
