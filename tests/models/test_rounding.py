"""How far rounding may take two sums apart."""

from __future__ import annotations

import torch

from grains_eval.models.rounding import rounding


def test_rounding_grows_with_tokens_and_with_coarser_numbers(loaded_text):
    model = loaded_text("llama").model
    assert rounding(model, 1) < rounding(model, 4) == 2 * rounding(model, 1) < 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounding(model, 1) > 0.1
