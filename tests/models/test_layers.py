"""Where a model's decoder layers are."""

from __future__ import annotations

import types
from collections import namedtuple

import pytest
import torch
import transformers as hf
from torch import nn

from grains_eval.errors import GrainsError
from grains_eval.models.layers import find_layers, hidden_of, mentioned_lengths, with_hidden
from tests.unusual import SWITCH, dynamic, longrope


def model(**children: nn.Module) -> nn.Module:
    """A model of three layers whose decoder has these children."""
    whole = nn.Module()
    for name, child in children.items():
        whole.add_module(name, child)
    whole.get_decoder = lambda: whole
    config = types.SimpleNamespace(num_hidden_layers=3)
    whole.config = types.SimpleNamespace(get_text_config=lambda decoder: config)
    return whole


def layers(count: int = 3, inner: nn.Module | None = None) -> nn.ModuleList:
    return nn.ModuleList(inner or nn.Identity() for _ in range(count))


def test_the_shallowest_list_of_that_length():
    wanted = layers(inner=nn.Sequential(layers()))
    tower = nn.Sequential(nn.Sequential(layers()), layers(5))
    assert find_layers(model(tower=tower, layers=wanted)) is wanted
    nested = nn.Sequential(wanted)
    assert find_layers(model(tower=tower, inner=nested)) is wanted


def test_a_list_under_two_names_is_one():
    wanted = layers()
    assert find_layers(model(layers=wanted, again=nn.Sequential(wanted))) is wanted
    assert find_layers(model(one=nn.Sequential(wanted), two=nn.Sequential(wanted))) is wanted


@pytest.mark.parametrize(("children", "count"), [({}, 0), ({"a": layers(), "b": layers()}, 2)])
def test_none_or_several_are_refused(children, count):
    with pytest.raises(GrainsError, match=f"found {count} lists of 3 decoder layers"):
        find_layers(model(**children))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_decoder_of_a_model_whose_encoder_has_another_depth(loaded_text, family):
    whole = loaded_text(family).model
    found = find_layers(whole)
    lists = [len(each) for each in whole.get_encoder().modules() if isinstance(each, nn.ModuleList)]
    assert len(found) == 3 and max(lists) != 3
    assert all(any(layer is module for module in whole.get_decoder().modules()) for layer in found)


def test_blocks_that_return_a_pair_of_streams_are_refused():
    pair = namedtuple("Pair", "one two")
    with pytest.raises(GrainsError, match="its layers return a Pair; this architecture cannot be steered yet"):
        hidden_of(pair(torch.ones(1), torch.ones(1)))
    for output in ((torch.ones(1), None), [torch.ones(1), None]):
        moved = with_hidden(output, torch.zeros(1))
        assert type(moved) is type(output) and moved[1] is None and float(moved[0]) == 0


def test_lengths_that_a_configuration_mentions():
    text = hf.Gemma3TextConfig(sliding_window=512, max_position_embeddings=4096)
    found = mentioned_lengths(text)
    assert {512, 4096} <= set(found)
    assert SWITCH in mentioned_lengths(longrope().config) and SWITCH in mentioned_lengths(dynamic().config)
    unknown = hf.LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "bends_at": 77})
    assert 77 in mentioned_lengths(unknown)
    assert unknown.hidden_size not in mentioned_lengths(unknown)
    written = {"max_seq_len": 2048.0, "n_ctx": 96, "max_position_embeddings": float("inf"), "floor_scale": 8192}
    others = {"rope_theta": 10000.0, "max_window_layers": 28, "qk_rope_head_dim": 64, "use_rope": True, "n_embd": 77}
    other = hf.PretrainedConfig(**written, **others, rope_scaling={"factor": 8.0, "lengths": [3.0]})
    assert {2048, 96, 8192} <= set(mentioned_lengths(other))
    assert not {10000, 28, 64, 77, 8, 3, 1} & set(mentioned_lengths(other))
