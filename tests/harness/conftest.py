"""Folders of found tokens, and models that are steered with them."""

from __future__ import annotations

import pytest

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.save import save_artifact
from grains_eval.harness.model import GrainsHF
from tests.virtual_tokens.models import some_found


@pytest.fixture
def token_folder(tmp_path, loaded_text):
    def make(family="llama", name="tokens"):
        contents = ArtifactContents(tokens=some_found(loaded_text(family).model))
        return str(save_artifact(contents, tmp_path / f"{family}-{name}"))

    return make


@pytest.fixture
def open_lm(tiny_text):
    def make(family="llama", **arguments):
        given = {"pretrained": str(tiny_text(family)), "dtype": "float32", "device": "cpu", "batch_size": 3}
        return GrainsHF(**{**given, **arguments})

    return make
