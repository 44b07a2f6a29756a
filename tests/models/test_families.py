"""Families of vision-language models: those that are not known are refused."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.models import encode
from tests.models.examples import example


@pytest.mark.parametrize(("kind", "reason"), [("mllama", "cross-attention"), ("internvl", "is not known")])
def test_other_architectures_are_refused(kind, reason, loaded_vision):
    loaded = loaded_vision("llava")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model.config, "model_type", kind)
        with pytest.raises(GrainsError, match=reason):
            encode(loaded, example())
