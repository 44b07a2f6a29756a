"""States at the end of both responses, against whole passes over the text."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.vectors.response_states import read_responses
from tests.vectors.contexts import EXAMPLES, context, states_by_hand


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("site", ["block_output", "attention_heads"])
def test_states_are_those_of_a_pass_over_the_whole_text(loaded_text, site, tokens):
    loaded = loaded_text("llama")
    found = read_responses(context(loaded, "caa"), site, tokens)
    for index, example in enumerate(EXAMPLES):
        for side in ("chosen", "rejected"):
            response = getattr(example, side)
            own = len(loaded.tokenizer(response, add_special_tokens=False)["input_ids"])
            if own < tokens:
                continue
            expected = states_by_hand(loaded, example.prompt + response, site, tokens)
            torch.testing.assert_close(getattr(found, side)[index], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.deltas, found.chosen - found.rejected)


def test_states_that_are_not_finite_are_refused(tiny_text):
    from grains_eval.models import load

    loaded = load({"pretrained": str(tiny_text("llama")), "dtype": "float32"}, device="cpu")
    build = context(loaded, "caa")
    with torch.no_grad():
        loaded.model.get_decoder().layers[-1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(GrainsError, match="example e0: a state is not finite; load the model in float32"):
        read_responses(build)
