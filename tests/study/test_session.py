"""A session loads its model once, and never a steered one."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.study import session as session_module
from grains_eval.study.session import Session, load_plain


def test_a_model_is_loaded_once(tiny_text, monkeypatch):
    loads = []
    real = session_module.load_lm
    monkeypatch.setattr(session_module, "load_lm", lambda given: loads.append(given) or real(given))
    opened = Session({"pretrained": str(tiny_text("llama")), "device": "cpu"}).opened()
    assert opened.opened().lm is opened.lm and len(loads) == 1
    assert opened.loaded.model is opened.lm.model and opened.loaded.engine is None
    assert str(opened.lm.softmax_dtype) == "torch.float32"


def test_a_build_starts_from_the_unsteered_model():
    with pytest.raises(GrainsError, match="unknown model argument 'strength' of a build"):
        load_plain({"pretrained": "org/name", "strength": 2.0})
