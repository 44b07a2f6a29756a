"""How attribution methods and selections are registered."""

from __future__ import annotations

import pytest

import grains_eval as ge
from grains_eval.attribution import ATTRIBUTION_METHODS, SELECTIONS, attribution_method, selection
from grains_eval.errors import GrainsError


def test_a_method_says_whether_it_is_complete(monkeypatch):
    monkeypatch.setattr(ATTRIBUTION_METHODS, "_entries", dict(ATTRIBUTION_METHODS))

    @attribution_method("mine", is_complete=True)
    def mine(problem):
        return problem.inputs.sum(-1)

    assert ATTRIBUTION_METHODS["mine"].scores is mine and ATTRIBUTION_METHODS["mine"].is_complete
    assert ATTRIBUTION_METHODS["integrated_gradients"].is_complete and not ATTRIBUTION_METHODS["random"].is_complete


def test_taken_names_are_refused():
    with pytest.raises(GrainsError, match="the attribution method 'random' exists already"):
        attribution_method("random")(lambda problem: problem.inputs)
    with pytest.raises(GrainsError, match="the selection 'top_k' exists already"):
        selection("top_k")(lambda *_: [])
    assert {"top_k", "agreement", "transfer"} <= set(SELECTIONS)
    assert ge.selection is selection and ge.attribution_method is attribution_method, "and no module of that name"
