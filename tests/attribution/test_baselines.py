"""What stands for an absent text token."""

from __future__ import annotations

import pytest
import torch

from grains_eval.attribution.baselines import text_baseline


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama"])
def test_the_pad_row_is_what_the_model_makes_of_the_pad_token(family, loaded_text):
    model = loaded_text(family).model
    embed = model.get_input_embeddings()
    with torch.no_grad():
        made = embed(torch.tensor([model.config.pad_token_id]))[0]
        mean = embed(torch.arange(embed.num_embeddings)).mean(dim=0)
    assert torch.allclose(text_baseline(model, "pad"), made, rtol=1e-5)
    assert torch.allclose(text_baseline(model, "mean"), mean, rtol=1e-4, atol=1e-6)
    if family != "llama":  # Gemma multiplies by the root of its width
        assert not torch.allclose(made, embed.weight[model.config.pad_token_id], rtol=0.1)
