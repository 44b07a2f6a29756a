"""Steering on real architectures: identity, hooks, positions, padding, generation."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.steering import OPERATORS, add_renormalised, steered
from grains_eval.types import SteeringConfig, SteeringVectors

FAMILIES = ["llama", "qwen2", "gemma2", "gemma3_text", "mistral", "gpt2", "gpt_neox", "opt", "mixtral", "qwen3_moe"]
IDS = torch.tensor([[1, 270, 280, 290, 300, 310]])


def vectors_for(model, layers=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = len(find_layers(model))
    layers = range(depth) if layers is None else layers
    directions = {layer: torch.randn(hidden_size(model), generator=generator) for layer in layers}
    return SteeringVectors(directions, dict.fromkeys(directions, 5.0))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_is_bit_identical_and_a_strength_is_not(loaded_text, family):
    model = loaded_text(family).model
    plain = logits(model)
    with steered(model, vectors_for(model), SteeringConfig(strength=0.0)):
        assert torch.equal(logits(model), plain)
    with steered(model, vectors_for(model), SteeringConfig(strength=1.0)):
        assert not torch.allclose(logits(model), plain, atol=1e-3)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_norms_are_kept_by_the_default_operator(loaded_text, family):
    model = loaded_text(family).model
    layer, seen = find_layers(model)[1], []
    vectors = vectors_for(model, [1])
    for context in (SteeringConfig(strength=0.0), SteeringConfig(strength=2.0)):
        with steered(model, vectors, context):
            handle = layer.register_forward_hook(
                lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            logits(model)
            handle.remove()
    torch.testing.assert_close(seen[0].norm(dim=-1), seen[1].norm(dim=-1), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)


def test_hooks_are_gone_after_an_exception(loaded_text):
    model = loaded_text("llama").model
    before = hooks(model)
    with pytest.raises(ZeroDivisionError), steered(model, vectors_for(model)):
        assert hooks(model) > before
        _ = 1 / 0
    assert hooks(model) == before


def test_hooks_are_gone_when_a_later_layer_is_refused(loaded_text):
    model = loaded_text("llama").model
    before = hooks(model)
    with (
        pytest.raises(GrainsError, match="out of range; the model has layers 0 to"),
        steered(model, vectors_for(model, [0, 99])),
    ):
        pass
    assert hooks(model) == before


def test_vectors_of_another_width_are_refused(loaded_text):
    model = loaded_text("llama").model
    with (
        pytest.raises(GrainsError, match="built for another model"),
        steered(model, SteeringVectors({0: torch.ones(7)}, {0: 1.0})),
    ):
        pass


def test_what_is_no_model_is_refused(loaded_text):
    loaded = loaded_text("llama")
    with (
        pytest.raises(GrainsError, match=r"not a LoadedModel; hand over its `\.model`"),
        steered(loaded, vectors_for(loaded.model, [0])),
    ):
        pass


def test_an_unknown_operator_and_an_unknown_layer_are_refused(loaded_text):
    model = loaded_text("llama").model
    vectors = vectors_for(model, [0])
    with pytest.raises(GrainsError, match="did you mean 'add'"), steered(model, vectors, SteeringConfig(operator="ad")):
        pass
    with (
        pytest.raises(GrainsError, match="layer 1 is not in the vectors; they have layers 0"),
        steered(model, vectors, SteeringConfig(layers=(1,))),
    ):
        pass
    with (
        pytest.raises(GrainsError, match="not a finite number"),
        steered(model, vectors, SteeringConfig(strength=float("nan"))),
    ):
        pass


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "last"])
def test_padding_never_changes_a_result(loaded_text, side, positions):
    model = loaded_text("llama").model
    config = SteeringConfig(strength=1.5, positions=positions)
    pad = torch.zeros(1, 3, dtype=torch.long)
    real, none = torch.ones_like(IDS), torch.zeros_like(pad)
    padded = torch.cat([pad, IDS] if side == "left" else [IDS, pad], dim=1)
    mask = torch.cat([none, real] if side == "left" else [real, none], dim=1)
    place = (mask.cumsum(dim=1) - 1).clamp_min(0)
    with steered(model, vectors_for(model), config):
        alone = logits(model)[0]
        found = logits(model, padded, attention_mask=mask, position_ids=place)[0][mask[0].bool()]
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))


def test_positions_move_the_tokens_they_name(loaded_text):
    model = loaded_text("llama").model
    vectors = vectors_for(model, [len(find_layers(model)) - 1])  # the last layer: a token moves only itself
    plain = logits(model)
    lengths = torch.tensor([4])

    def moved(positions):
        with steered(model, vectors, SteeringConfig(strength=1.0, positions=positions), prompt_lengths=lengths):
            return (logits(model) != plain).any(dim=-1)[0].tolist()

    assert moved("all") == [True] * 6
    assert moved("prompt") == [True] * 4 + [False] * 2
    assert moved("last") == [False] * 3 + [True] + [False] * 2
    assert moved("generated") == [False] * 4 + [True] * 2


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "last"])
def test_cached_generation_equals_generation_without_cache(loaded_text, family, positions):
    """Each new token from a cache must see what one whole pass with known prompt lengths would show it."""
    model = loaded_text(family).model
    config = SteeringConfig(strength=1.0, positions=positions)
    with steered(model, vectors_for(model), config):
        cached = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False)
    ids = IDS
    for _ in range(cached.shape[1] - IDS.shape[1]):
        with steered(model, vectors_for(model), config, prompt_lengths=torch.tensor([IDS.shape[1]])):
            ids = torch.cat([ids, logits(model, ids, use_cache=False)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, ids)


def test_beam_search_and_batches_of_unequal_prompts(loaded_text):
    model = loaded_text("llama").model
    vectors, config = vectors_for(model), SteeringConfig(strength=1.0, positions="last")
    short = IDS[:, :4]
    batch = torch.cat([torch.cat([torch.zeros(1, 2, dtype=torch.long), short], dim=1), IDS])
    mask = torch.ones_like(batch)
    mask[0, :2] = 0
    settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    with steered(model, vectors, config):
        together = model.generate(input_ids=batch, attention_mask=mask, **settings)[:, 6:]
        alone = [
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :]
            for ids in (short, IDS)
        ]
    for row, expected in zip(together, alone, strict=True):
        assert row[: expected.shape[1]].tolist() == expected[0].tolist()


def test_nesting_composes_in_order(loaded_text):
    model = loaded_text("qwen2").model
    first, second = vectors_for(model, [0], 1), vectors_for(model, [0], 2)
    add = SteeringConfig(operator="add", unit="absolute")
    both = SteeringVectors({0: first.directions[0] + second.directions[0]}, {0: 1.0})
    with steered(model, first, add), steered(model, second, add):
        nested = logits(model)
    with steered(model, both, add):
        torch.testing.assert_close(logits(model), nested, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_half_precision_is_rounded_once(name):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 64, generator=generator).to(torch.bfloat16)
    delta = 0.1 * torch.randn(64, generator=generator)
    found = OPERATORS[name](hidden, delta)
    exact = OPERATORS[name](hidden.double().float(), delta)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


def test_a_token_of_norm_zero_stays_finite():
    assert torch.equal(add_renormalised(torch.zeros(1, 4), torch.ones(4)), torch.zeros(1, 4))


@pytest.mark.parametrize("learns", ["hidden", "delta"])
def test_gradients_go_through_steering(learns):
    generator = torch.Generator().manual_seed(0)
    hidden, delta = torch.randn(2, 3, 8, generator=generator), torch.randn(8, generator=generator)
    leaf = {"hidden": hidden, "delta": delta}[learns].requires_grad_(True)
    moved = hidden + delta
    expected = moved * hidden.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
    found = add_renormalised(hidden, delta)
    with torch.no_grad():
        torch.testing.assert_close(add_renormalised(hidden, delta), found)
    torch.testing.assert_close(*(torch.autograd.grad(each.pow(3).sum(), leaf)[0] for each in (found, expected)))


def test_steering_leaves_its_input_as_it_was():
    hidden, delta = torch.randn(2, 3, 8), torch.randn(8)
    kept = hidden.clone(), delta.clone()
    for operator in OPERATORS.values():
        operator(hidden, delta)
    assert torch.equal(hidden, kept[0]) and torch.equal(delta, kept[1])


def test_a_model_split_over_devices_is_steered_alike(tiny_text, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tiny_text("llama")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    depth = len(find_layers(whole))
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i == depth - 1 else "cpu" for i in range(depth)}
    split = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map=places, offload_folder=str(tmp_path)
    ).eval()
    vectors = vectors_for(whole)
    with steered(whole, vectors), steered(split, vectors):
        assert torch.equal(logits(split), logits(whole))
