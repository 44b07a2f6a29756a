"""Several configurations along the batch of one pass."""

from __future__ import annotations

import pytest
import torch

from grains_eval.harness.prefix_sharing.loglikelihood import score
from grains_eval.models.layers import find_layers
from grains_eval.steering import OPERATORS, ResolvedSteering
from tests.harness.prefix_sharing.test_loglikelihood import (
    LIMIT,
    configurations,
    requests,
    steering,
)


def test_what_moves_nothing_is_the_baseline_bit_for_bit(loaded_text):
    model = loaded_text("qwen2").model
    nothing = ResolvedSteering({1: torch.zeros(32)}, "block_output", OPERATORS["add_renormalised"], "all")
    base, still, moved = score(model, requests(), [(), (nothing,), (steering(model, [1], 1.0),)], max_length=LIMIT)
    assert base == still != moved
    assert score(model, requests(), [(nothing,)], max_length=LIMIT) == score(model, requests(), [()], max_length=LIMIT)


@pytest.mark.parametrize("index", [1, 4, 7, 9, 10, 13])
def test_one_configuration_alone_gives_what_a_sweep_gives(index, loaded_text):
    model = loaded_text("gemma2").model
    wanted = configurations(model)
    together = score(model, requests(), wanted, max_length=LIMIT)[index]
    alone = score(model, requests(), [wanted[index]], max_length=LIMIT)[0]
    assert max(abs(a[0] - b[0]) for a, b in zip(together, alone, strict=True)) < 1e-5


def test_layers_below_the_first_steered_one_run_once(loaded_text):
    model = loaded_text("llama").model
    layers = find_layers(model)
    calls = [0] * len(layers)

    def count(index):
        return lambda *_: calls.__setitem__(index, calls[index] + 1)

    # the attention runs only where a layer is really computed
    handles = [layer.self_attn.register_forward_hook(count(i)) for i, layer in enumerate(layers)]
    steered = [(steering(model, [1], strength),) for strength in (1.0, 2.0, 3.0)]
    asked = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10, 11])]
    score(model, asked, [(), *steered], max_length=LIMIT)
    for handle in handles:
        handle.remove()
    # context and branches: once for all below, once more (all strengths stacked) above
    assert calls == [2, 2, 4]
    assert all("forward" not in layer.__dict__ for layer in layers)
