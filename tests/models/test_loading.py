"""Where a model's configuration is read from."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from grains_eval.errors import GrainsError
from grains_eval.models.loading import read_config


def test_the_configuration_is_that_of_the_file_which_is_loaded(tiny_text, monkeypatch):
    asked = []
    read = AutoConfig.from_pretrained

    def spy(name, **keywords):
        asked.append(keywords.pop("gguf_file"))
        return read(name, **keywords)

    monkeypatch.setattr(AutoConfig, "from_pretrained", spy)
    for given in ({}, {"gguf_file": "model.gguf"}):
        read_config({"pretrained": str(tiny_text("llama")), **given})
    assert asked == [None, "model.gguf"]


def test_a_package_that_a_file_needs_is_named(tiny_text, monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install torch and gguf>=0.10.0 to load a GGUF checkpoint in PyTorch.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", missing)
    with pytest.raises(GrainsError, match="pip install gguf and start again"):
        read_config({"pretrained": str(tiny_text("llama")), "gguf_file": "model.gguf"})
