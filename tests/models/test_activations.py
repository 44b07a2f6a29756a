"""Scales of vectors: the median token norm of a layer."""

from __future__ import annotations

import pytest
import torch

from grains_eval.models import encode
from grains_eval.models.activations import median_norms, prompt_states
from grains_eval.models.layers import find_layers
from grains_eval.types import PreferenceExample


def test_the_median_norm_leaves_the_first_token_out(loaded_text):
    loaded = loaded_text("llama")
    prompts = ["The capital of france is", "Hello world, what is the picture"]
    encoded = [encode(loaded, PreferenceExample("e", "h", prompt, " paris", " rome")) for prompt in prompts]
    layer = find_layers(loaded.model)[1]
    # an attention sink: the first token's state is far longer than any other
    handle = layer.register_forward_hook(
        lambda _, arguments, output: torch.cat([100 * output[:, :1], output[:, 1:]], dim=1)
    )
    try:
        found = median_norms([prompt_states(loaded.model, each, each.embeddings[None]) for each in encoded])
        outputs = []
        with torch.no_grad():
            keep = layer.register_forward_hook(lambda _, arguments, output: outputs.append(output[0]))
            for each in encoded:
                loaded.model(each.input_ids[None])
            keep.remove()
    finally:
        handle.remove()
    norms = torch.cat([output.norm(dim=-1)[1:] for output in outputs])
    assert found[1] == pytest.approx(float(norms.median()), rel=1e-5)
    with_first = torch.cat([output.norm(dim=-1) for output in outputs])
    assert float(with_first.median()) != pytest.approx(found[1], rel=1e-3)
