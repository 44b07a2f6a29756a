"""The fast way to a response's log-probability equals the plain one, values and gradients, on every family."""

from __future__ import annotations

import pytest
import torch
import transformers

from grains_eval.attribution import attribute
from grains_eval.models import encode, forward
from grains_eval.models.layers import find_decoder
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample
from tests import tiny

PROMPT = "Question what is the capital of france Answer"
# builds need a decoder that reads the prompt, and prefixes to share a cache of keys and values
FAMILIES = sorted(set(tiny.TEXT) - {"bart", *tiny.UNSHARED})
LENGTHS = [
    (" paris no", " rome yes"),
    (" paris paris rome yes", " rome no yes"),
    (" paris paris rome yes", " rome"),
    (" paris", " rome"),
    (" yes", " no true false good bad"),
]


def both(loaded, example):
    """`[B, 2]` scores and `[B, T, H]` gradients, the shared way and the plain way."""
    encoded = encode(loaded, example)
    found = []
    for share in (True, False):
        rows = torch.stack([encoded.embeddings, 0.7 * encoded.embeddings, 0.2 * encoded.embeddings])
        rows.requires_grad_(True)
        scores = forward.response_logprobs(loaded.model, encoded, rows, share_prefix=share)
        found.append((scores, torch.autograd.grad(scores[:, 0].sum() - 2 * scores[:, 1].sum(), rows)[0]))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_prompt_changes_neither_scores_nor_gradients(loaded_text, family):
    for chosen, rejected in LENGTHS:
        example = PreferenceExample("e", "h", PROMPT, chosen, rejected)
        (fast, fast_slope), (plain, slope) = both(loaded_text(family), example)
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5 * max(1.0, float(plain.abs().max())))
        torch.testing.assert_close(fast_slope, slope, rtol=0, atol=1e-4 * float(slope.abs().max()))


def test_a_family_whose_cache_cannot_be_continued_twice_takes_the_plain_way():
    config = transformers.Qwen3NextConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=64, layer_types=["linear_attention", "full_attention"], num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=16, shared_expert_intermediate_size=16,
    )  # fmt: skip

    class Model:
        def forward(self, past_key_values=None):
            pass

    Model.config = config
    assert not forward.shares_prefix(Model)
    config.layer_types = ["full_attention", "full_attention"]
    assert forward.shares_prefix(Model)


@pytest.mark.parametrize("family", FAMILIES)
def test_tested_families_take_the_fast_way(loaded_text, family):
    assert forward.shares_prefix(loaded_text(family).model)


@pytest.mark.parametrize(
    ("rejected", "passes"), [(" rome no yes no", 2), (" rome no yes", 2), (" rome", 2), (" rome no", 3)]
)
def test_responses_of_like_length_go_together(loaded_text, rejected, passes):
    loaded = loaded_text("llama")
    encoded = encode(loaded, PreferenceExample("e", "h", PROMPT, " paris paris rome yes", rejected))
    seen = []
    handle = loaded.model.register_forward_hook(lambda *_: seen.append(1))
    try:
        forward.response_logprobs(loaded.model, encoded, encoded.embeddings[None])
    finally:
        handle.remove()
    assert len(seen) == passes


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_logits_are_made_at_response_positions_only(loaded_text, family):
    loaded = loaded_text(family)
    encoded = encode(loaded, PreferenceExample("e", "h", PROMPT, " paris paris rome", " rome no"))
    seen = []
    handle = loaded.model.get_output_embeddings().register_forward_hook(
        lambda module, arguments, output: seen.append(output.shape[:-1].numel())
    )
    try:
        attribute(loaded, encoded, AttributionConfig(steps=4, max_steps=4, internal_batch_size=4))
    finally:
        handle.remove()
    positions = 1 + len(encoded.chosen) - 1 + len(encoded.rejected) - 1
    # a pass over the nodes, one over the prompt and its baseline, each with one row that shows how logits are made;
    # where they are capped, those of all six are read, elsewhere the head makes no others
    assert sum(seen) == 2 + {"gemma2": (4 + 2) * positions, "llama": 0}[family]


def test_a_picture_is_encoded_once_per_example_never_per_node(loaded_vision):
    loaded = loaded_vision("llava_next")
    calls = []
    tower = loaded.model.model.vision_tower
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        example = PreferenceExample("e", "h", "<image>\nwhat is the colour", " red", " blue green", (tiny.picture(),))
        encoded = encode(loaded, example)
        encoding = len(calls)
        attribute(loaded, encoded, AttributionConfig(steps=6, max_steps=6, internal_batch_size=2))
    finally:
        handle.remove()
    assert 1 <= encoding <= 2, "the picture, and the blank one that stands for an absent picture"
    assert len(calls) == encoding


def test_the_prompt_is_run_once_for_both_responses(loaded_text):
    loaded = loaded_text("llama")
    encoded = encode(loaded, PreferenceExample("e", "h", PROMPT, " paris paris rome", " rome no"))
    lengths = []
    handle = find_decoder(loaded.model).register_forward_pre_hook(
        lambda module, arguments, keywords: lengths.append(keywords["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        forward.response_logprobs(loaded.model, encoded, encoded.embeddings[None])
    finally:
        handle.remove()
    assert sorted(lengths) == sorted([len(encoded.input_ids), len(encoded.chosen) - 1, len(encoded.rejected) - 1])
