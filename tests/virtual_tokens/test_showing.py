"""Virtual tokens give what attention written out by hand gives, on every family and path."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import transformers as hf

from grains_eval.errors import GrainsError
from grains_eval.virtual_tokens import ResolvedTokens, layout, reading, shown
from tests import tiny
from tests.virtual_tokens.models import FAMILIES, PATHS, by_hand, made, some_tokens

CLOSE = {"atol": 2e-4, "rtol": 1e-3}


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens that are no special ones."""
    return torch.randint(3, tiny.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, tokens, *given, **keywords):
    """Logits of a pass with virtual tokens."""
    with shown(model, [list(given)]) if given else nullcontext():
        return model(tokens, **keywords).logits


@pytest.mark.parametrize(("name", "path"), PATHS)
def test_shown_as_written_out_by_hand(name, path):
    model, tokens = made(name, path), ids(1, 12)
    virtual = some_tokens(model, bias=0.5)
    found = logits(model, tokens, virtual)
    reference = made(name, "eager")
    with by_hand(reference, virtual, layout(model).is_rotary), torch.no_grad():
        expected = reference(tokens).logits
    assert not torch.allclose(found, logits(model, tokens), **CLOSE)  # they matter
    assert torch.allclose(found, expected, **CLOSE)


@pytest.mark.parametrize(("name", "path"), PATHS)
def test_first_token_sees_none_and_context_is_left_as_it_was(name, path):
    model, tokens = made(name, path), ids(2, 9)
    before, implementation = logits(model, tokens), model.config._attn_implementation
    found = logits(model, tokens, some_tokens(model))
    assert torch.allclose(found[:, 0], before[:, 0], atol=1e-5)
    assert model.config._attn_implementation == implementation
    assert torch.equal(logits(model, tokens), before)


@pytest.mark.parametrize(("name", "path"), PATHS)
@pytest.mark.parametrize("bias", [0.0, 1.1])
def test_cache_and_left_padding_give_the_single_pass(name, path, bias):
    model, tokens = made(name, path), ids(1, 14)
    virtual = replace(some_tokens(model), bias=(bias, bias))
    whole = logits(model, tokens, virtual)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens[:, :11]], dim=1)
    batch = torch.cat([padded, ids(1, 14, seed=5)])
    mask = torch.cat([(torch.arange(14) >= 3).long()[None], torch.ones(1, 14, dtype=torch.long)])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with shown(model, [[virtual]]), torch.no_grad():
        first = model(batch, attention_mask=mask, position_ids=positions, use_cache=True)
        assert torch.allclose(first.logits[0, 3:], whole[0, :11], **CLOSE)
        cache = first.past_key_values
        for step in range(3):
            mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
            positions = (mask.cumsum(-1) - 1)[:, -1:]
            token = torch.cat([tokens[:, 11 + step], ids(1, 1)[0]])[:, None]
            output = model(token, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            assert torch.allclose(output.logits[0, -1], whole[0, 11 + step], **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_generates_what_passes_without_cache_choose(name):
    model, prompt = made(name, "sdpa"), ids(1, 6)
    virtual = some_tokens(model, bias=1.0)
    with shown(model, [[virtual]]):
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    expected = prompt
    for _ in range(6):
        expected = torch.cat([expected, logits(model, expected, virtual)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("path", ["eager", "sdpa"])
@pytest.mark.parametrize("alternate", [False, True])
def test_rows_of_a_batch_see_their_own_setting(path, alternate):
    model, tokens = made("llama", path), ids(1, 8)
    settings = [[some_tokens(model)], [], [some_tokens(model, 1, 0.7, seed=4, layers=(1,)), some_tokens(model, seed=9)]]
    alone = [logits(model, tokens, *each) for each in settings]
    order = [0, 1, 2, 0, 1, 2] if alternate else [0, 0, 1, 1, 2, 2]
    with shown(model, settings, alternate=alternate), torch.no_grad():
        output = model(tokens.repeat(6, 1), use_cache=True)
        more = model(tokens[:, :1].repeat(6, 1), past_key_values=output.past_key_values, use_cache=True).logits
    for row, setting in enumerate(order):
        assert torch.allclose(output.logits[row], alone[setting][0], **CLOSE)
        longer = torch.cat([tokens, tokens[:, :1]], dim=1)
        assert torch.allclose(more[row, -1], logits(model, longer, *settings[setting])[0, -1], **CLOSE)


def test_nested_tokens_are_shown_together():
    model, tokens = made("llama", "sdpa"), ids(1, 8)
    left, right = some_tokens(model), some_tokens(model, 1, seed=7)
    together = logits(model, tokens, left, right)
    with shown(model, [[left]]), shown(model, [[right]]), torch.no_grad():
        nested = model(tokens).logits
    assert torch.allclose(nested, together, atol=1e-5)
    assert not torch.allclose(nested, logits(model, tokens, left), **CLOSE)


def test_log_multiplicity_is_that_many_copies():
    model, tokens = made("llama", "sdpa"), ids(1, 8)
    one = some_tokens(model, 1)
    copies = ResolvedTokens(
        {k: v.repeat(3, 1, 1) for k, v in one.keys.items()},
        {k: v.repeat(3, 1, 1) for k, v in one.values.items()},
        one.distances * 3,
        (0.0,) * 3,
    )
    stronger = replace(one, bias=(float(torch.tensor(3.0).log()),))
    assert torch.allclose(logits(model, tokens, stronger), logits(model, tokens, copies), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    model, tokens = made("llama", "sdpa"), ids(2, 10)
    virtual = some_tokens(model)
    exact = logits(model, tokens, virtual).log_softmax(-1)
    found = logits(model.to(dtype), tokens, virtual).float().log_softmax(-1)
    assert (found - exact).abs().max() < 0.3


def test_read_keys_and_values_are_those_before_rotation():
    model, tokens = made("llama"), ids(1, 7)
    with reading(model, layout(model)) as found, torch.no_grad():
        model(tokens)
    block = model.model.layers[0]
    states = block.input_layernorm(model.model.embed_tokens(tokens))
    keys = block.self_attn.k_proj(states).view(1, 7, 2, 8).transpose(1, 2)
    assert torch.allclose(found[0][0], keys, atol=1e-5)
    assert torch.allclose(found[0][1], block.self_attn.v_proj(states).view(1, 7, 2, 8).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (tiny.TEXT["mamba"], "holds more than keys and values"),
        (tiny.TEXT["bart"], "not a decoder"),
        (tiny.TEXT["openai_gpt"], "attention interface"),
        (
            lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**{**tiny.LLAMA, "num_hidden_layers": 4})),
            "virtual one moved",
        ),
    ],
)
def test_models_that_show_no_token_exactly_are_refused_in_one_line(build, why):
    model = build().eval()
    tiny.fill(model)
    with pytest.raises(GrainsError, match=why) as caught:
        layout(model)
    assert "\n" not in str(caught.value)


def test_other_attention_is_refused_in_one_line():
    model = made("llama", "sdpa")
    model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(GrainsError, match="attn_implementation=flex_attention; load the model with"):
        layout(model)


def test_tokens_of_another_model_are_refused():
    model = made("llama")
    wrong = replace(some_tokens(model, layers=(0,)), keys={0: torch.zeros(2, 4, 8)}, values={0: torch.zeros(2, 4, 8)})
    with pytest.raises(GrainsError, match="4 key-value heads of width 8 at layer 0"), shown(model, [[wrong]]):
        pass
    with pytest.raises(GrainsError, match="keys for layer 9"), shown(model, [[some_tokens(model, layers=(9,))]]):
        pass


def test_every_family_is_tried():
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2", "opt"} <= set(
        FAMILIES
    )
