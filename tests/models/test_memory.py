"""How many nodes go through the model at once, and what happens when it was too many."""

from __future__ import annotations

import logging

import pytest
import torch

from grains_eval.attribution import attribute
from grains_eval.errors import GrainsError
from grains_eval.models import encode, forward, memory
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample

EXAMPLE = PreferenceExample("e", "h", "Question what is the capital of france Answer", " paris paris", " rome")
LONG = PreferenceExample("l", "h", "Question what is the capital of france Answer " * 8, " paris paris", " rome")


@pytest.mark.parametrize(("free", "rows"), [(0, 1), (2, 1), (6, 3), (14, 7), (10_000, 20)])
def test_half_of_the_free_memory_is_used(loaded_text, monkeypatch, free, rows):
    loaded = loaded_text("llama")
    encoded = encode(loaded, EXAMPLE)
    each = memory.bytes_per_row(loaded.model, encoded)
    monkeypatch.setattr(memory, "free_bytes", lambda device: free * each + 1)
    assert memory.rows_that_fit(loaded.model, encoded, 20) == rows


def test_the_estimate_grows_with_the_prompt_and_is_logged(loaded_text, caplog):
    loaded = loaded_text("llama")
    short, long = (encode(loaded, one) for one in (EXAMPLE, LONG))
    ratio = memory.bytes_per_row(loaded.model, long) / memory.bytes_per_row(loaded.model, short)
    assert ratio > len(long.input_ids) / len(short.input_ids) / 2
    with caplog.at_level(logging.INFO):
        memory.rows_that_fit(loaded.model, short, 20)
    assert "nodes per pass" in caplog.text


def test_the_estimate_is_no_less_than_what_a_pass_keeps(loaded_text):
    """Bytes that autograd saves for one row, parameters left out, stay below the estimate."""
    loaded = loaded_text("llama")
    encoded = encode(loaded, LONG)
    own = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = encoded.embeddings[None].clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward.response_logprobs(loaded.model, encoded, rows)
    assert 0 < sum(kept.values()) <= memory.bytes_per_row(loaded.model, encoded)


def test_layers_may_differ_in_size(loaded_text, monkeypatch):
    loaded = loaded_text("llama")
    encoded = encode(loaded, LONG)
    plain = memory.bytes_per_row(loaded.model, encoded)
    monkeypatch.setitem(vars(loaded.model.config), "intermediate_size", [32, 64, 64])  # as in Gemma 3n
    assert memory.bytes_per_row(loaded.model, encoded) == plain


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_passes_are_halved_until_they_fit_and_scores_stay(loaded_text, monkeypatch, error):
    loaded = loaded_text("llama")
    config = AttributionConfig(steps=8, max_steps=8, internal_batch_size=8)
    expected = attribute(loaded, EXAMPLE, config).scores
    plain, sizes = forward.prefill, []

    def crowded(model, encoded, prompt):
        sizes.append(len(prompt))
        if len(prompt) > 2:
            raise error
        return plain(model, encoded, prompt)

    monkeypatch.setattr(forward, "prefill", crowded)
    found = attribute(loaded, EXAMPLE, config).scores
    assert [size for size in sizes if size > 2] == [8, 4]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_one_row_that_does_not_fit_is_an_error():
    def never(rows):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(GrainsError, match="out of memory with one row"):
        memory.run_with_halving(never, 4)


def test_other_errors_pass():
    def broken(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        memory.run_with_halving(broken, 4)
