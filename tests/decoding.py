"""What steering by position must give: greedy decoding by whole passes, moved by a hook of its own."""

from __future__ import annotations

import torch

from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.steering import add_renormalised
from grains_eval.types import SteeringVectors

RULES = ["all", "prompt", "generated", "last"]
NEW = 6


def vectors_for(model):
    """One direction at the layer before the last, so that what it moves is read by others; far above any state."""
    direction = torch.randn(hidden_size(model), generator=torch.Generator().manual_seed(1))
    layer = len(find_layers(model)) - 2
    return SteeringVectors({layer: direction}, {layer: 100.0})


def by_hand(model, rule, ids, prompt, real=None, **inputs):
    """Greedy decoding without cache, a whole pass per token; tokens `[B, T]` are moved by column alone."""
    vectors = vectors_for(model)
    (layer,) = vectors.layers
    delta = 100.0 * vectors.directions[layer] / vectors.directions[layer].norm()
    decoder = "decoder_" if model.config.is_encoder_decoder else ""

    def move(module, arguments, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        column = torch.arange(hidden.shape[1])
        chosen = {
            "all": column >= 0, "prompt": column < prompt, "generated": column >= prompt, "last": column == prompt - 1
        }[rule]  # fmt: skip
        hidden = torch.where(chosen[None, :, None], add_renormalised(hidden, delta), hidden)
        return hidden if isinstance(output, torch.Tensor) else type(output)((hidden, *output[1:]))

    handle = find_layers(model)[layer].register_forward_hook(move)
    for step in range(NEW):
        if real is not None:  # places as transformers gives them, which count on from the prompt's last column
            place = (real.cumsum(1) - 1) * real
            inputs["attention_mask"] = torch.cat([real, real.new_ones(len(real), step)], dim=1)
            inputs["position_ids"] = torch.cat([place, place[:, -1:] + 1 + torch.arange(step)], dim=1)
        with torch.no_grad():
            logits = model(**{decoder + "input_ids": ids}, use_cache=False, **inputs).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    handle.remove()
    return ids
