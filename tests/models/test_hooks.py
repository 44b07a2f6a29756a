"""Hooks of one pass: where logits are made, what is replayed, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from grains_eval.models.hooks import DEEPSTACK, logits_from, noting_decoder, repeat_rows

IDS = torch.tensor([[5, 6, 7, 8]])


def test_logits_are_made_from_a_position_on_and_are_those_of_the_whole(loaded_text):
    model = loaded_text("llama").model
    with torch.no_grad():
        whole = model(IDS).logits
        with logits_from(model, -2) as given:
            part = model(IDS).logits
        assert given[0].shape[1] == 4
        torch.testing.assert_close(part, whole[:, -2:])
        assert torch.equal(model(IDS).logits, whole), "the hook is gone"


def test_keywords_of_the_decoder_are_noted_and_the_hook_goes_with_an_error(loaded_text):
    model, received = loaded_text("llama").model, {}
    with pytest.raises(RuntimeError), noting_decoder(model, received):
        model(IDS)
        raise RuntimeError
    assert torch.equal(received.pop("input_ids"), IDS)
    received.clear()
    model(IDS)
    assert not received


def test_rows_are_repeated_along_the_batch_alone():
    assert repeat_rows(torch.ones(1, 4), 3).shape == (3, 4)
    assert repeat_rows(torch.ones(3, 1, 4), 2, "position_ids").shape == (3, 2, 4)
    assert repeat_rows(torch.ones(2, 4), 3).shape == (2, 4)
    assert repeat_rows({"full": (torch.ones(1, 4), None)}, 3)["full"][0].shape == (3, 4)
    levels = [torch.ones(1, 8)]
    assert repeat_rows(levels, 3, DEEPSTACK) is levels
